"""Answers to show side by side: what the models said, and what signal datasets hold for the same prompts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.signals.dataset import SignalDataset
from data.signals.schema import ResponseIds, ResponseSignals
from data.tokens.token_text import TokenText

# Comparisons of one answer that are listed; of more the mean is shown.
_MOST_NAMED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAnswer:
    """One model's answer.

    Attributes:
        model: whose.
        text: the answer.
        note: what to say beside it: length, preference.
        tokens: its text in pieces with the advantage of each, nats; None where there are no advantages.
    """

    model: str
    text: str
    note: str
    tokens: list[tuple[str, float]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePrompt:
    """A prompt with the answers of several models."""

    prompt_id: str
    prompt: str
    answers: list[SampleAnswer]


def read_samples(
    path: Path, preferences: dict[tuple[str, str], dict[str, float]], num_samples: int
) -> list[SamplePrompt]:
    """The first prompts of an evaluation with all answers to them.

    Args:
        path: its folder.
        preferences: by prompt and model, how the answer did against each other model, 0 to 1.
        num_samples: how many prompts.
    """
    try:
        lines = (path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    prompts: dict[str, SamplePrompt] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            prompt_id, model, text = entry["prompt_id"], entry["model"], entry["text"]
        except (ValueError, KeyError, TypeError):
            continue
        if prompt_id not in prompts:
            if len(prompts) >= num_samples:
                continue
            prompts[prompt_id] = SamplePrompt(
                prompt_id=str(prompt_id), prompt=str(entry.get("prompt", prompt_id)), answers=[]
            )
        notes = [f"{entry['num_tokens']:,} tokens"] if entry.get("num_tokens") else []
        notes += ["cut at the limit"] if entry.get("finish_reason") == "length" else []
        notes += _preferred(preferences.get((prompt_id, model), {}))
        tokens = [(str(piece), float(advantage)) for piece, advantage in entry.get("tokens") or ()]
        prompts[prompt_id].answers.append(
            SampleAnswer(model=model, text=text, note=", ".join(notes), tokens=tokens or None)
        )
    return list(prompts.values())


def _preferred(by_other: dict[str, float]) -> list[str]:
    """How an answer did against the others: one by one, or their mean where they are many."""
    if len(by_other) <= _MOST_NAMED:
        return [f"preferred to {other}: {value:.0%}" for other, value in by_other.items()]
    mean = sum(by_other.values()) / len(by_other)
    return [f"preferred to the {len(by_other)} others: {mean:.0%} on average"]


def add_signals(dataset: SignalDataset, samples: Sequence[SamplePrompt]) -> None:
    """Put a dataset's responses beside the answers to the same prompts, token by token where they have advantages.

    Raises:
        ShardError: for a shard that cannot be read.
    """
    places = {pair_id: index for index, pair_id in enumerate(dataset.pair_ids)}
    texts = TokenText(dataset.tokenizer_folder)
    for sample in samples:
        if sample.prompt_id in places:
            for row in dataset.pair(places[sample.prompt_id]):
                sample.answers.append(_response(row, texts, dataset.path.name))


def _response(row: ResponseIds, texts: TokenText, dataset: str) -> SampleAnswer:
    pieces = texts.in_sequence(row.response_ids.tolist())
    number = f" {row.sample_index}" if row.sample_index else ""
    tokens = None
    if isinstance(row, ResponseSignals) and row.reference_token_logprobs is not None:
        advantages = row.teacher_token_logprobs - row.reference_token_logprobs
        # Positions that are not scored (a tool's results) have no advantage, and no colour.
        by_position = dict(zip(row.scored_places.tolist(), advantages.tolist(), strict=True))
        tokens = [(piece, round(by_position.get(place, 0.0), 3)) for place, piece in enumerate(pieces)]
    return SampleAnswer(
        model=f"{row.role}{number} in {dataset}",
        text="".join(pieces),
        note=f"{len(pieces):,} tokens, from the signals",
        tokens=tokens,
    )
