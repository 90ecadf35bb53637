"""Answers of a model to many prompts at once, at any temperature, with the entropy of its choices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from small_world.models import MAX_ANSWER_TOKENS


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said.

    Attributes:
        texts: one answer for each prompt, words separated by spaces, without the terminator.
        entropy: of the distribution that each token was drawn from, nats, mean over all positions up to and
            including the terminators; 0 for greedy answers.
    """

    texts: list[str]
    entropy: float


@torch.inference_mode()
def answer_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[Mapping[str, str]]],
    *,
    temperature: float,
    seed: int,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> Answers:
    """Sample one answer to each prompt; the same prompt may be given several times.

    Noise depends on the seed, the number of prompts and a prompt's place, not on the model or the
    temperature: comparing models, or temperatures of one model, on one seed compares them on the same random numbers.

    Args:
        model: a causal language model with the world's vocabulary.
        tokenizer: its tokenizer.
        prompts: texts of user turns, or conversations that end with one; all of one length in tokens.
        temperature: above 0, or 0 for greedy answers.
        seed: of the sampling noise.
        max_tokens: longest answer, terminator included.
    """
    rendered = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
            add_generation_prompt=True,
            tokenize=False,
        )
        for prompt in prompts
    ]
    tokens = torch.tensor(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    noise = torch.Generator().manual_seed(seed)
    running = torch.ones(len(prompts), dtype=torch.bool)
    entropy_sum, num_positions = 0.0, 0
    columns: list[torch.Tensor] = []
    cache = None
    for _ in range(max_tokens):
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True)
        cache, logits = output.past_key_values, output.logits[:, -1].float()
        if temperature > 0:
            logprobs = torch.log_softmax(logits / temperature, dim=-1)
            entropies = -(logprobs.exp() * logprobs).sum(dim=-1)
            entropy_sum += float(entropies[running].double().sum())
            num_positions += int(running.sum())
            # The largest of log-probabilities plus Gumbel noise is a sample from them.
            uniform = torch.rand(logprobs.shape, generator=noise).clamp(1e-12, 1 - 1e-7)
            logits = logprobs - torch.log(-torch.log(uniform))
        drawn = torch.where(running, logits.argmax(dim=-1), tokenizer.pad_token_id)
        columns.append(drawn)
        running &= drawn != tokenizer.eos_token_id
        if not running.any():
            break
        tokens = drawn[:, None]
    texts = [_text(row, tokenizer) for row in torch.stack(columns, dim=1).tolist()]
    return Answers(texts, entropy_sum / max(num_positions, 1))


def _text(ids: list[int], tokenizer: Any) -> str:
    end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
    # Special tokens stay: one in the middle of an answer is a word that earns nothing.
    return " ".join(tokenizer.convert_ids_to_tokens(ids[:end]))
