"""The small world's tokenizer and untrained models, saved as ordinary transformers checkpoints."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from small_world.world import ANSWER_WORDS, PROMPT_WORDS, TOPICS

MAX_ANSWER_TOKENS = 17

"""Room for the longest answer that people write, fifteen words, a terminator and one token to spare."""

_PAD, _END, _USER, _ASSISTANT, _UNKNOWN = "<pad>", "<end>", "<user>", "<assistant>", "<unknown>"

_SPECIALS = (_PAD, _END, _USER, _ASSISTANT, _UNKNOWN)  # the first token ids, in this order

# Words are separated by spaces; the turn markers are words as well.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + _USER + " {{ message['content'] }} "
    "{% else %}" + _ASSISTANT + " {{ message['content'] }} " + _END + " {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + _ASSISTANT + " {% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The small world's: one token for each word of the language; turns end with `<end>`."""
    return word_tokenizer((*PROMPT_WORDS, *TOPICS, *ANSWER_WORDS))


def word_tokenizer(language: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token for each word of a language, with the chat template of user and assistant turns.

    Args:
        language: words without spaces; a repeated one counts once.
    """
    words = (*_SPECIALS, *dict.fromkeys(language))
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=_UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=_PAD,
        eos_token=_END,
        unk_token=_UNKNOWN,
        additional_special_tokens=[_USER, _ASSISTANT],
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def save_untrained_teacher(folder: Path, *, seed: int) -> None:
    """Save a Llama of about 370,000 parameters with random weights, and its tokenizer."""
    save_untrained(
        folder, build_tokenizer(), seed, hidden_size=96, intermediate_size=256, num_layers=3, num_heads=4
    )


def save_untrained_student(folder: Path, *, seed: int) -> None:
    """Save a Llama of about 23,000 parameters, too narrow for what the world asks, and its tokenizer."""
    save_untrained(
        folder, build_tokenizer(), seed, hidden_size=24, intermediate_size=64, num_layers=2, num_heads=2
    )


def save_untrained(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
) -> None:
    """Save a Llama with random weights, and its tokenizer.

    Args:
        folder: where the checkpoint goes.
        tokenizer: of `word_tokenizer`; its vocabulary sizes the model's.
        seed: of the weights.
        hidden_size: the model's width.
        intermediate_size: of its feed-forward layers.
        num_layers: decoder layers.
        num_heads: attention heads, each with its own keys and values.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        # Wide enough a spread that so narrow a model starts to learn at once.
        initializer_range=hidden_size**-0.5 / 4,
        bos_token_id=None,
        eos_token_id=_SPECIALS.index(_END),
        pad_token_id=_SPECIALS.index(_PAD),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    transformers_logging.disable_progress_bar()  # a bar for writing one small file
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
