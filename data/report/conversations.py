"""Conversations of the HTML report: pairs of a dataset as JSON for the page's script, token by token.

Log-probabilities and advantages are written in hundredths of a nat, and the text of a token once for the whole page,
because 200 conversations of 300 tokens with five alternatives each are 300,000 numbers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.signals.rollouts import Rollout
from data.signals.schema import ResponseIds, ResponseSignals
from data.tokens.token_text import TokenText

Row = ResponseIds | Rollout

_NUM_ALTERNATIVES = 5

# What templates put around turns: <|im_end|>, <end_of_turn>, [/INST]; and the role in front of a turn's text.
_MARK = re.compile(r"<\|[^|\n]*\|>|</?[\w.-]+>|\[/?[A-Z_]+\]")
_ROLE = re.compile(r"^\s*(system|developer|user|human|assistant|model|tool)\s*(\n|:|$)", re.IGNORECASE)

# Characters of a prompt that a list of conversations shows.
_PROMPT_SHOWN = 100


def conversation(
    pair: Sequence[Row], texts: TokenText, *, names: tuple[str, str] = ("", ""), beside: Sequence[Row] = ()
) -> dict[str, Any]:
    """One pair, or one prompt with its rollouts, for the script.

    Args:
        pair: all its responses.
        texts: the text of tokens.
        names: what tells the responses of two datasets apart, in their titles.
        beside: the responses to the same prompt in a second dataset.
    """
    prompt = "".join(texts.in_sequence(pair[0].prompt_ids.tolist()))
    responses = [_response(row, texts) | {"of": names[0]} for row in pair]
    # What only carries the ids is the same in both.
    beside = [row for row in beside if isinstance(row, Rollout | ResponseSignals)]
    responses += [_response(row, texts) | {"of": names[1]} for row in beside]
    return {"prompt": prompt if _is_readable(pair[0], texts) else "", "responses": responses}


def index_entry(pair: Sequence[Row], shown: Mapping[str, Any]) -> dict[str, Any]:
    """What the list of conversations shows of one, and sorts it by.

    Args:
        pair: all its responses.
        shown: the same as `conversation` gave it.
    """
    margin = pair_margin([row for row in pair if isinstance(row, ResponseIds)])
    return {
        "id": pair[0].pair_id,
        "start": last_turn(shown["prompt"])[:_PROMPT_SHOWN],
        "margin": None if margin is None else round(margin, 3),
        "length": max(len(row.response_ids) for row in pair),
    }


def last_turn(prompt: str) -> str:
    """The text of a prompt's last turn on one line, without a template's marks: what tells prompts apart.

    A prompt begins with what all of them have, such as a system turn, and ends with the opening of an answer.
    """
    turns = (" ".join(_ROLE.sub("", piece).split()) for piece in _MARK.split(prompt))
    return next((turn for turn in reversed([*turns]) if turn), "")


def pair_margin(rows: Sequence[ResponseIds]) -> float | None:
    """By how much the teacher ranks chosen above rejected, as `PairMargins` has it; None where one is not scored."""
    scored = [row for row in rows if isinstance(row, ResponseSignals) and row.num_scored]
    sides = [[row for row in scored if row.role == role] for role in ("chosen", "rejected")]
    if not all(sides):
        return None
    with_reference = all(row.advantages is not None for side in sides for row in side)
    values = []
    for side in sides:
        numbers = np.concatenate([_token_values(row, with_reference) for row in side]).astype(np.float64)
        values.append(float(numbers.sum() if with_reference else numbers.mean()))
    return values[0] - values[1]


def _token_values(row: ResponseSignals, with_reference: bool) -> np.ndarray:
    if not with_reference:
        return row.teacher_token_logprobs
    assert row.reference_token_logprobs is not None
    # A reference without the token would make it infinite.
    return np.clip(row.teacher_token_logprobs - row.reference_token_logprobs, -20, 20)


def token_ids(shown: Mapping[str, Any]) -> Iterable[int]:
    """The tokens whose text a conversation needs."""
    for response in shown["responses"]:
        yield from response["ids"]
        for position in response.get("alternatives", ()):
            yield from (entry[0] for entry in position or ())


def _response(row: Row, texts: TokenText) -> dict[str, Any]:
    ids = row.response_ids.tolist() if _is_readable(row, texts) else []
    response: dict[str, Any] = {
        "role": "student" if isinstance(row, Rollout) else row.role,
        "sample": row.sample_index,
        "ids": ids,
    }
    # By position, where a token shows something else than by itself.
    shown = enumerate(zip(ids, texts.in_sequence(ids), strict=True))
    response["shown"] = {place: text for place, (token_id, text) in shown if text != texts[token_id]}
    if isinstance(row, Rollout):
        return response | _rollout(row, texts)
    return response | _signals(row)


def _is_readable(row: Row, texts: TokenText) -> bool:
    """Whether to show tokens. Rollouts come without a tokenizer, but with the text of the answer."""
    return texts.is_readable or not isinstance(row, Rollout)


def _rollout(row: Rollout, texts: TokenText) -> dict[str, Any]:
    mean = float(row.token_logprobs.mean()) if len(row.token_logprobs) else 0.0
    ending = "cut at the limit" if row.finish_reason == "length" else "ended by itself"
    values: dict[str, Any] = {
        "summary": f"{len(row.response_ids)} tokens, {ending}, mean log-probability {mean:+.3f} nats"
    }
    if texts.is_readable:
        values["logprobs"] = _hundredths(row.token_logprobs)
    else:
        values["text"] = row.response_text
    return values


def _signals(row: ResponseIds) -> dict[str, Any]:
    length = len(row.response_ids)
    if not isinstance(row, ResponseSignals):
        return {"summary": f"{length} tokens, not scored"}
    places = row.scored_places.tolist()
    summary = (
        f"{length} tokens" if len(places) == length else f"{length} tokens, {len(places)} of them scored"
    )
    values: dict[str, Any] = {"logprobs": _spread(_hundredths(row.teacher_token_logprobs), places, length)}
    starts = np.cumsum(row.support_sizes, dtype=np.int64) - row.support_sizes
    columns = [row.topk_ids.tolist(), _hundredths(row.teacher_logprobs)]
    if row.advantages is not None:
        advantages = _token_values(row, with_reference=True)
        values["advantages"] = _spread(_hundredths(advantages), places, length)
        summary += f", mean advantage {advantages.mean() if len(advantages) else 0:+.3f} nats"
        columns.append(_hundredths(row.advantages))
    entries = list(zip(*columns, strict=True))
    alternatives = [
        entries[start : start + min(size, _NUM_ALTERNATIVES)]
        for start, size in zip(starts.tolist(), row.support_sizes.tolist(), strict=True)
    ]
    return values | {"alternatives": _spread(alternatives, places, length), "summary": summary}


def _spread(values: list[Any], places: list[int], length: int) -> list[Any]:
    """Values at the positions that they belong to, None elsewhere."""
    if len(places) == length:
        return values
    spread = [None] * length
    for place, value in zip(places, values, strict=True):
        spread[place] = value
    return spread


def _hundredths(values: np.ndarray) -> list[int]:
    return np.rint(np.clip(values, -100, 100) * 100).astype(int).tolist()
