"""What must hold inside the rows of a shard, checked over a whole row group at once."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from data.signals.columns import ListColumn
from data.signals.rollouts import FINISH_REASONS, RolloutGroup
from data.signals.rounding import COARSEST_GRID, grids
from data.signals.schema import REFERENCE_COLUMNS, ROLES, TEACHER_COLUMNS
from data.signals.shards import SignalGroup
from data.signals.support import SMALLEST_TAIL, span_sums

# float32 log-probabilities of one distribution add up to 1 within this; scorers accept no more either.
MASS_TOLERANCE = 2e-5

# A response token's own log-probability and the support's entry for it come from one pass of one engine.
_TOKEN_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One kind of problem in a row group: the first row that has it.

    Attributes:
        row: index of the row within the group.
        position: response position, or None where the whole row is meant.
        text: what was seen and what must hold.
        count: how many places of the group have it.
    """

    row: int
    position: int | None
    text: str
    count: int


def check_group(
    group: SignalGroup, *, vocab_size: int | None, rounded: bool, translated: bool = False
) -> list[RowProblem]:
    """Check the content of one row group.

    Args:
        group: the decoded rows.
        vocab_size: number of ids that the teacher knows; None checks that ids are not negative, no more.
        rounded: whether values were rounded for storage, which loosens what sums must come to.
        translated: whether the rows were put on another tokenizer's ids: token log-probabilities are then sums over
            spans, which no support entry has to equal, and merged entries are sums of rounded ones.
    Returns:
        One problem of each kind, empty where all is well.
    """
    ids = {name: group.columns[name] for name in ("prompt_ids", "response_ids", "topk_ids")}
    problems = list(_check_keys(group)) + list(check_ids(ids, vocab_size))
    structure = list(_check_structure(group))
    # Values are only meaningful where the lists fit each other.
    return problems + (structure or list(_check_values(group, vocab_size, rounded, translated)))


def _check_keys(group: SignalGroup) -> Iterator[RowProblem]:
    keys = zip(group.pair_ids, group.roles, group.sample_indices, strict=True)
    yield from check_repeats(keys, "pair_id, role and sample_index")
    for row, role in enumerate(group.roles):
        if role not in ROLES:
            yield RowProblem(row, None, f"role {role!r} is not one of {', '.join(ROLES)}", 1)


def check_repeats(keys: Iterable[Hashable], name: str) -> Iterator[RowProblem]:
    """A problem for each row whose key another row had before.

    Args:
        keys: one for each row.
        name: what the keys are made of.
    """
    seen: set[Hashable] = set()
    for row, key in enumerate(keys):
        if key in seen:
            yield RowProblem(row, None, f"the same {name} as a row before it", 1)
        seen.add(key)


def check_ids(columns: Mapping[str, ListColumn], vocab_size: int | None) -> Iterator[RowProblem]:
    """A problem for each column of token ids that holds what is no id.

    Args:
        columns: the columns by name.
        vocab_size: number of ids; None checks that ids are not negative, no more.
    """
    for name, column in columns.items():
        wrong = column.values < 0
        if vocab_size is not None:
            wrong |= column.values >= vocab_size
        if wrong.any():
            flat = int(np.argmax(wrong))
            row = row_of(column, flat)
            allowed = "0 and up" if vocab_size is None else f"0 to {vocab_size - 1}"
            text = f"{name} holds {column.values[flat]}, allowed are {allowed}"
            yield RowProblem(row, None, text, int(wrong.sum()))


def _check_structure(group: SignalGroup) -> Iterator[RowProblem]:
    """Nulls that belong together, and lengths that fit each other."""
    lengths = {name: column.lengths for name, column in group.columns.items()}
    valid = {name: column.valid_rows for name, column in group.columns.items()}
    if (masks := group.columns.get("response_mask")) is not None:
        wrong = masks.valid_rows & (masks.lengths != lengths["response_ids"])
        if wrong.any():
            yield from _lengths_differ("response_mask", wrong, masks.lengths, lengths["response_ids"])
            return
        empty = masks.valid_rows & (span_sums(masks.values.astype(np.int64), masks.lengths) == 0)
        yield from _whole_rows(empty, "response_mask has nothing in it")
    for columns in (TEACHER_COLUMNS, REFERENCE_COLUMNS):
        for name in columns[1:]:
            wrong = valid[name] != valid[columns[0]]
            yield from _whole_rows(wrong, f"{columns[0]} and {name} must be null together")
    orphaned = valid["advantages"] & ~valid["support_sizes"]
    yield from _whole_rows(orphaned, "advantages without teacher_logprobs")
    sizes = group.columns["support_sizes"]
    support = span_sums(sizes.values.astype(np.int64), sizes.lengths)
    scored = span_sums(group.scored_positions.astype(np.int64), lengths["response_ids"])
    per_token = ("topk_ids", "teacher_logprobs", "advantages")
    for name in (*TEACHER_COLUMNS, *REFERENCE_COLUMNS):
        length = support if name in per_token else scored
        wrong = valid[name] & (lengths[name] != length)
        yield from _lengths_differ(name, wrong, lengths[name], length)


def _whole_rows(wrong: np.ndarray, text: str) -> Iterator[RowProblem]:
    """A problem from a mask over rows."""
    if wrong.any():
        yield RowProblem(int(np.argmax(wrong)), None, text, int(wrong.sum()))


def _lengths_differ(
    name: str, wrong: np.ndarray, lengths: np.ndarray, expected: np.ndarray
) -> Iterator[RowProblem]:
    if wrong.any():
        row = int(np.argmax(wrong))
        text = f"{name} has {lengths[row]} entries, expected {expected[row]:g}"
        yield RowProblem(row, None, text, int(wrong.sum()))


def _check_values(
    group: SignalGroup, vocab_size: int | None, rounded: bool, translated: bool
) -> Iterator[RowProblem]:
    flat = _FlatGroup(group)
    logprobs = group.columns["teacher_logprobs"].values
    # A value just below a bound may have been rounded up to it, with the coarser grid: hence the small step
    # down.
    steps = grids(logprobs - np.float32(1e-4)) if rounded else np.zeros_like(logprobs)
    lost = 0.0
    if translated and rounded:
        # A sum may be mostly of entries on the coarsest grid, and so may what joined a tail.
        steps, lost = np.full_like(logprobs, COARSEST_GRID), COARSEST_GRID

    if vocab_size is not None:
        too_many = flat.sizes > vocab_size
        yield from flat.positions(too_many, "more support tokens than the vocabulary has")
    wrong = ~np.isfinite(logprobs) | (logprobs > 0)
    yield from flat.support(wrong, "teacher_logprobs must be finite and <= 0")
    yield from flat.support(flat.rises(logprobs), "teacher_logprobs must fall within a position")
    yield from flat.positions(_has_duplicates(flat), "topk_ids must differ within a position")
    yield from _check_model(flat, "teacher", logprobs, slack=steps / 2, tail_slack=lost / 2, spans=translated)

    advantages = group.columns["advantages"].values
    if len(advantages):
        yield from flat.support(~np.isfinite(advantages), "advantages must be finite")
        # Both numbers were rounded, and half a step each.
        reference = logprobs - advantages
        yield from _check_model(flat, "reference", reference, slack=steps, tail_slack=lost, spans=translated)


def _check_model(
    flat: "_FlatGroup",
    model: str,
    logprobs: np.ndarray,
    *,
    slack: np.ndarray,
    tail_slack: float,
    spans: bool,
) -> Iterator[RowProblem]:
    """Support, tail and token log-probability of one model must be parts of one distribution.

    Args:
        flat: the group.
        model: `teacher` or `reference`.
        logprobs: its log-probabilities of the support as stored, nats.
        slack: how far each of them may be from what the model said, nats.
        tail_slack: how far the tail may be from it, nats.
        spans: whether token log-probabilities are sums over spans of other tokens.
    """
    name = f"{model}_tail_logprobs"
    tails = flat.columns[name].values
    yield from flat.positions(np.isnan(tails) | (tails > 0), f"{name} must be <= 0")
    tail_mass = np.exp(tails, dtype=np.float64)
    least = span_sums(np.exp(logprobs - slack, dtype=np.float64), flat.sizes)
    most = span_sums(np.exp(logprobs + slack, dtype=np.float64), flat.sizes)
    too_much = least > 1 + MASS_TOLERANCE
    yield from flat.positions(too_much, f"the {model}'s probabilities of the support add up to more than 1")
    inconsistent = (least + tail_mass * np.exp(-tail_slack) > 1 + MASS_TOLERANCE + SMALLEST_TAIL) | (
        most + tail_mass * np.exp(tail_slack) < 1 - MASS_TOLERANCE
    )
    yield from flat.positions(inconsistent & ~too_much, f"{name} is not 1 minus the support's mass")

    name = f"{model}_token_logprobs"
    tokens = flat.columns[name].values
    yield from flat.positions(np.isnan(tokens) | (tokens > 0), f"{name} must be <= 0")
    if spans:
        return
    own = flat.ids == flat.token_ids[flat.position_of]
    difference = np.abs(logprobs[own] - tokens[flat.position_of[own]])
    differs = np.zeros(len(own), dtype=bool)
    differs[own] = ~(difference <= slack[own] + _TOKEN_TOLERANCE)
    yield from flat.support(differs, f"{name} differs from the support's entry for the response token")
    outside = np.ones(len(flat.sizes), dtype=bool)
    outside[flat.position_of[own]] = False
    limit = tail_mass * (1 + _TOKEN_TOLERANCE) + MASS_TOLERANCE
    too_much = outside & ~(np.exp(tokens, dtype=np.float64) <= limit)
    yield from flat.positions(too_much, f"{name}: a token outside the support has more mass than the tail")


class _FlatGroup:
    """A group's scored positions and support tokens as flat arrays, and the way back to rows.

    Attributes:
        columns: the group's list columns.
        sizes: support tokens per scored position, int64.
        ids: support token ids.
        token_ids: the response token of each scored position.
        position_of: the scored position that each support token belongs to.
    """

    def __init__(self, group: SignalGroup) -> None:
        self.columns = group.columns
        self._rows = group.columns["support_sizes"]
        self.sizes = self._rows.values.astype(np.int64)
        self.ids = group.columns["topk_ids"].values
        response = group.columns["response_ids"]
        of_scored_rows = np.repeat(self._rows.valid_rows, response.lengths)
        self.token_ids = response.values[of_scored_rows & group.scored_positions]
        self.position_of = np.repeat(np.arange(len(self.sizes)), self.sizes)

    def rises(self, values: np.ndarray) -> np.ndarray:
        """Where a value is above the one before it at the same position, bool over support tokens."""
        rises = np.zeros(len(values), dtype=bool)
        same = self.position_of[1:] == self.position_of[:-1]
        rises[1:] = same & (values[1:] > values[:-1])
        return rises

    def positions(self, wrong: np.ndarray, text: str) -> Iterator[RowProblem]:
        """A problem from a mask over scored positions."""
        if wrong.any():
            yield self._problem(int(np.argmax(wrong)), text, int(wrong.sum()))

    def support(self, wrong: np.ndarray, text: str) -> Iterator[RowProblem]:
        """A problem from a mask over support tokens."""
        if wrong.any():
            yield self._problem(int(self.position_of[np.argmax(wrong)]), text, int(wrong.sum()))

    def _problem(self, position: int, text: str, count: int) -> RowProblem:
        row = row_of(self._rows, position)
        return RowProblem(row, position - int(self._rows.offsets[row]), text, count)


def _has_duplicates(flat: _FlatGroup) -> np.ndarray:
    """Whether any id occurs twice among the ids of a position, bool over scored positions."""
    width = int(flat.sizes.max(initial=0))
    # Padding that is distinct in each row, and below every id.
    table = np.broadcast_to(-1 - np.arange(width, dtype=np.int32), (len(flat.sizes), width)).copy()
    table[np.arange(width) < flat.sizes[:, None]] = flat.ids
    table.sort(axis=1)
    return (table[:, 1:] == table[:, :-1]).any(axis=1)


def row_of(column: ListColumn, flat: int) -> int:
    """The row that owns an element (empty and null rows own none)."""
    return int(np.searchsorted(column.offsets, flat, side="right")) - 1


def check_rollouts(group: RolloutGroup, *, vocab_size: int | None) -> list[RowProblem]:
    """Check the content of one row group.

    Args:
        group: the decoded rows.
        vocab_size: number of ids that the student knows; None checks that ids are not negative, no more.
    Returns:
        One problem of each kind, empty where all is well.
    """
    ids = {name: group.columns[name] for name in ("prompt_ids", "response_ids")}
    keys = zip(group.pair_ids, group.sample_indices, strict=True)
    return [
        *check_repeats(keys, "pair_id and sample_index"),
        *check_ids(ids, vocab_size),
        *_check_rollout_values(group),
    ]


def _check_rollout_values(group: RolloutGroup) -> Iterator[RowProblem]:
    for row, reason in enumerate(group.finish_reasons):
        if reason not in FINISH_REASONS:
            text = f"finish_reason {reason!r} is not one of {', '.join(FINISH_REASONS)}"
            yield RowProblem(row, None, text, 1)
    logprobs = group.columns["token_logprobs"]
    expected = group.columns["response_ids"].lengths
    wrong = logprobs.lengths != expected
    yield from _lengths_differ("token_logprobs", wrong, logprobs.lengths, expected)
    # A probability of 1 may come out a rounding error above it.
    wrong = ~np.isfinite(logprobs.values) | (logprobs.values > MASS_TOLERANCE)
    if wrong.any():
        flat = int(np.argmax(wrong))
        row = row_of(logprobs, flat)
        position = flat - int(logprobs.offsets[row])
        yield RowProblem(row, position, "token_logprobs must be finite and <= 0", int(wrong.sum()))
