"""A model's answers to prompts, kept by content: model, settings and prompt find the same answer again.

The key of an answer holds the hash of the weights, the tokenizer and chat template, the engine and the sampling
settings; the prompt's own text, and not its place in a file, makes up the rest. So the same prompt in two files is
answered once, and a run that was stopped continues with the prompts that have no answer yet.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from data.errors import ConfigurationError, ScoringError
from data.preferences.messages import PreferenceRow, Prompt, as_turns
from data.preferences.options import Reading
from data.preferences.reader import read_preferences
from data.progress import Progress
from data.tokens.encoder import PairEncoder
from evaluation.language_model import LanguageModel
from evaluation.line_cache import LineCache, content_key

logger = logging.getLogger(__name__)

# Prompts that an engine gets in one call. Answers are kept after each, so this is what a crash can lose.
_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """How answers are drawn.

    Attributes:
        max_new_tokens: longest answer, tokens, its terminator included.
        temperature: divides the logits; 0 takes the most probable token.
        top_p: smallest mass of most probable tokens to draw from.
        seed: every prompt's own seed is derived from it and from the prompt.
        thinking: `none` asks models that think for no thought; otherwise as in `PairEncoder`.
    """

    max_new_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int = 0
    thinking: str = "auto"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model.

    Attributes:
        text: without special tokens.
        num_tokens: length in tokens, terminator included.
        finish_reason: `stop`, or `length` when it was cut at the limit.
    """

    text: str
    num_tokens: int
    finish_reason: str

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read in it."""
        return not self.text.strip()

    @property
    def is_cut(self) -> bool:
        """Whether it was cut at the limit."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts to answer.

    Attributes:
        rows: in the source's order.
        data_hash: of all rows of the source.
        description: form of the source, and what became of its rows.
    """

    rows: tuple[PreferenceRow, ...]
    data_hash: str
    description: str


@dataclass(slots=True)
class AnswerSet:
    """What one model answered.

    Attributes:
        model: what identifies it.
        settings: model, arithmetic, tokenizer and sampling: everything that determined the answers.
        answers: by prompt id.
        unanswered: why a prompt has no answer, by prompt id.
        num_found: answers that were in the cache.
    """

    model: str
    settings: dict[str, Any]
    answers: dict[str, Answer] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    num_found: int = 0

    def __str__(self) -> str:
        count = len(self.answers)
        said = [f"{count:,} answers"]
        if self.num_found:
            said.append(f"{self.num_found:,} of them kept from before")
        if empty := sum(answer.is_empty for answer in self.answers.values()):
            said.append(f"{empty:,} empty")
        if cut := sum(answer.is_cut for answer in self.answers.values()):
            said.append(f"{cut:,} cut at the limit")
        for reason, number in Counter(self.unanswered.values()).most_common():
            said.append(f"{number:,} prompts without an answer: {reason}")
        return f"{self.model}: {', '.join(said)}"


def read_prompts(source: str, how: Reading | None = None, *, limit: int | None = None) -> PromptSet:
    """Read prompts from any preference file; a prompt alone is enough, answers beside it are not used.

    Args:
        source: a file, folder or hub name.
        how: which split of it, and how its rows are to be understood.
        limit: how many prompts to use, from the first on; None uses all.
    Raises:
        DataError: for a source that cannot be read or holds no prompt.
    """
    reader = read_preferences(source, how, need="prompt")
    rows: list[PreferenceRow] = []
    seen: set[str] = set()
    for row in reader:
        # Pairs that differ in their answers alone ask the same thing twice.
        text = prompt_key(row)
        if text not in seen:
            seen.add(text)
            rows.append(row._replace(chosen=None, rejected=None))
    return PromptSet(tuple(rows[:limit]), reader.data_hash, reader.describe())


def prompt_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt as chat messages; plain text is one user turn."""
    return [turn.as_dict() for turn in as_turns(prompt, "user")]


def prompt_text(prompt: Prompt) -> str:
    """A prompt as text to read: a single user turn as it is, and a conversation with its roles."""
    messages = prompt_messages(prompt)
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def generate_answers(
    model: LanguageModel,
    rows: Sequence[PreferenceRow],
    settings: GenerationSettings,
    *,
    option: str = "--model",
    label: str | None = None,
) -> AnswerSet:
    """A model's answers to prompts; those that were given before are not generated again.

    Args:
        model: whose; loaded only when an answer is missing.
        rows: prompts; answers in them are not looked at.
        settings: how to draw.
        option: the option that named the model, for messages.
        label: what to call the model; its name unless given.
    Raises:
        ConfigurationError: when the model has no room for any prompt.
        DataError: for a conversation that the chat template refuses.
        ScoringError: when no prompt could be answered.
    """
    label = model.name if label is None else label
    room = model.max_length - settings.max_new_tokens
    if room < 1:
        raise ConfigurationError(
            f"{option}: {label} has {model.max_length:,} positions, and an answer may take "
            f"{settings.max_new_tokens:,}: there is no room for a prompt; lower --max-new-tokens"
        )
    encoder = PairEncoder(model.tokenizer, max_length=room, thinking=settings.thinking)
    if encoder.template_hash is None:
        logger.warning(
            "%s has no chat template: prompts are given to it as plain text, and turns are concatenated",
            label,
        )
    about = answer_settings(model, settings, encoder)
    cache = LineCache("answers", about)
    result = AnswerSet(label, about)
    wanted: list[tuple[str, str, np.ndarray]] = []
    for row in rows:
        key = prompt_key(row)
        if key in cache:
            result.answers[row.pair_id] = Answer(**cache[key])
            result.num_found += 1
            continue
        encoded = encoder.encode(row._replace(chosen=None, rejected=None))
        if encoded is None:
            result.unanswered[row.pair_id] = f"longer than the {room:,} tokens that it has room for"
        else:
            wanted.append((row.pair_id, key, encoded.prompt_ids))
    if not wanted and not result.answers:
        raise ConfigurationError(
            f"{option}: {label} has no room for any of the {len(rows):,} prompts: {model.max_length:,} positions, "
            f"{settings.max_new_tokens:,} of them for the answer; lower --max-new-tokens, or give shorter prompts"
        )
    if wanted:
        _sample(model, wanted, settings, encoder, cache, result)
    if not result.answers:
        raise ScoringError(f"{label}: no prompt was answered: {next(iter(result.unanswered.values()))}")
    logger.info("%s", result)
    return result


def answer_settings(
    model: LanguageModel, settings: GenerationSettings, encoder: PairEncoder | None = None
) -> dict[str, Any]:
    """Everything but the prompt that determines a model's answers; nothing is loaded for it.

    Args:
        model: whose answers.
        settings: how they are drawn.
        encoder: of the model's tokenizer, where there is one already.
    """
    encoder = encoder or PairEncoder(model.tokenizer, thinking=settings.thinking)
    return {
        "model": dict(model.identity),
        "arithmetic": dict(model.arithmetic),
        "tokenizer": encoder.tokenizer_hash,
        "chat_template": encoder.template_hash,
        "sampling": asdict(settings),
    }


def _sample(
    model: LanguageModel,
    wanted: Sequence[tuple[str, str, np.ndarray]],
    settings: GenerationSettings,
    encoder: PairEncoder,
    cache: LineCache,
    result: AnswerSet,
) -> None:
    stop = {encoder.terminator_id, model.tokenizer.eos_token_id} - {None}
    # Prompts of similar length together: less padding.
    wanted = sorted(wanted, key=lambda item: len(item[2]))
    with Progress(f"answers of {result.model}", unit="answers", total=len(wanted)) as progress:
        for start in range(0, len(wanted), _PROMPTS_AT_ONCE):
            batch = wanted[start : start + _PROMPTS_AT_ONCE]
            drawn = model.sample(
                [ids for _, _, ids in batch],
                [_seed(settings.seed, key) for _, key, _ in batch],
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                stop_token_ids=sorted(stop),
            )
            for (prompt_id, key, _), response in zip(batch, drawn, strict=True):
                if isinstance(response, str):
                    result.unanswered[prompt_id] = response
                    continue
                ids = response.response_ids.tolist()
                text = model.tokenizer.decode(ids, skip_special_tokens=True)
                answer = Answer(text.strip(), len(ids), response.finish_reason)
                cache.add(key, asdict(answer))
                result.answers[prompt_id] = answer
            progress.update(len(batch))


def prompt_key(row: PreferenceRow) -> str:
    """The key of a prompt: its messages, and the tools and template arguments that it comes with."""
    return content_key([prompt_messages(row.prompt), row.tools, row.template_args])


def _seed(seed: int, key: str) -> int:
    """The seed of one answer, so that neither order nor batching matters; below 2**63."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "little") >> 1
