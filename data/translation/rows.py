"""One scored response on the student's ids.

A response is one or several spans of assistant text (several where it holds tool results or user turns in between,
which are masked out). Each span of the teacher's rendering is aligned with the same span of the student's rendering;
its signals are then projected position by position, and its token log-probabilities added up between common boundaries.

Positions that do not align keep their place in the response, because the student is trained on their tokens and its
log-probability of the whole response counts them; they carry no distribution: their support is empty and all mass is in
the tail, so that every divergence and every expected advantage there is zero.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from data.signals.schema import ResponseSignals
from data.translation.alignment import Alignment, align
from data.translation.projection import FirstPieces, ProjectedSupport, project_support
from data.translation.token_bytes import TokenBytes

__all__ = ["RowTranslator", "StudentResponse", "TranslationCounts", "mask_runs"]

# Tokens without a place that are listed for the user.
_MOST_UNPLACED = 10_000

_SUMS = ("rows", "positions", "aligned", "source_positions", "placed", "exact", "supported")


@dataclass(frozen=True, slots=True, eq=False)
class StudentResponse:
    """A response as the student's tokenizer and template write it.

    Attributes:
        prompt_ids: int32, shape (P,).
        response_ids: int32, shape (T,).
        mask: which positions are assistant text, bool, shape (T,); None for all.
    """

    prompt_ids: np.ndarray
    response_ids: np.ndarray
    mask: np.ndarray | None = None


@dataclass(slots=True)
class TranslationCounts:
    """What became of rows, positions and mass; sums over a part of a dataset, added with `+=`.

    Attributes:
        rows: scored responses that were translated.
        dropped: scored responses that were not, by reason.
        positions: the student's positions in them.
        aligned: of these, the ones that carry a distribution.
        source_positions: the teacher's positions in them.
        placed: the teacher's mass that found a place on the student's ids, summed over aligned positions.
        exact: that part of it for which the rule claims to be exact.
        supported: the teacher's mass on its own support, summed over aligned positions.
        unplaced: mass of tokens without a place, by the teacher's id.
    """

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    positions: int = 0
    aligned: int = 0
    source_positions: int = 0
    placed: float = 0.0
    exact: float = 0.0
    supported: float = 0.0
    unplaced: Counter[int] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        values = {name: getattr(self, name) for name in _SUMS}
        return {**values, "dropped": dict(self.dropped), "unplaced": list(self.unplaced.items())}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The counts as `as_json` gave them."""
        counters = {
            "dropped": Counter(content["dropped"]),
            "unplaced": Counter(dict(content["unplaced"])),
        }
        return cls(**{**content, **counters})

    def __iadd__(self, other: "TranslationCounts") -> "TranslationCounts":
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped += other.dropped
        self.unplaced += other.unplaced
        if len(self.unplaced) > _MOST_UNPLACED:
            self.unplaced = Counter(dict(self.unplaced.most_common(_MOST_UNPLACED // 2)))
        return self


class RowTranslator:
    """Translates scored responses, one at a time.

    Attributes:
        counts: what became of all rows so far.
    """

    def __init__(
        self, teacher: TokenBytes, student: TokenBytes, roles: Mapping[int, int], teacher_end: int
    ) -> None:
        """Build the projection between two tokenizers.

        Args:
            teacher: bytes of the dataset's tokens.
            student: bytes of the student's tokens.
            roles: student id of each of the teacher's special ids whose role the student has a token for.
            teacher_end: the id that ends a response in the dataset.
        """
        self.counts = TranslationCounts()
        self._teacher, self._student = teacher, student
        self._pieces = FirstPieces(teacher, student, roles)
        self._teacher_end = teacher_end
        self._student_end = roles[teacher_end]

    def translate(self, row: ResponseSignals, student: StudentResponse) -> ResponseSignals | None:
        """Put a row's signals on the student's ids.

        Args:
            row: a row of the dataset, scored or not.
            student: the same response in the student's rendering.
        Returns:
            The row on the student's ids; None where the two renderings cannot be aligned (and it is counted).
        """
        plain = ResponseSignals(
            row.pair_id,
            row.role,
            row.sample_index,
            student.prompt_ids,
            student.response_ids,
            response_mask=student.mask,
            conversation=row.conversation,
        )
        if not row.is_scored:
            return plain
        teacher_runs = mask_runs(row.response_mask, len(row.response_ids))
        student_runs = mask_runs(student.mask, len(student.response_ids))
        if len(teacher_runs) != len(student_runs):
            return self._drop("the two templates cut the response into different turns")
        spans = []
        for (teacher_start, teacher_stop), (student_start, student_stop) in zip(
            teacher_runs, student_runs, strict=True
        ):
            teacher_ids = row.response_ids[teacher_start:teacher_stop]
            student_ids = student.response_ids[student_start:student_stop]
            ends = (teacher_ids[-1] == self._teacher_end, student_ids[-1] == self._student_end)
            if ends[0] != ends[1]:
                return self._drop("the two templates end a turn differently")
            found = align(teacher_ids, student_ids, self._teacher, self._student, terminated=bool(ends[0]))
            if found is None:
                return self._drop("the two renderings do not spell the same bytes")
            spans.append(found)
        return self._project(row, plain, spans)

    def _project(
        self, row: ResponseSignals, plain: ResponseSignals, spans: Sequence[Alignment]
    ) -> ResponseSignals:
        assert row.support_sizes is not None
        assert row.topk_ids is not None
        assert row.teacher_logprobs is not None
        assert row.teacher_tail_logprobs is not None
        assert row.teacher_token_logprobs is not None
        # The columns hold masked-in positions only, so that spans are concatenated on both sides.
        aligned, span_starts = [], []
        teacher_offset = student_offset = 0
        for span in spans:
            aligned.append(np.where(span.aligned >= 0, span.aligned + teacher_offset, -1))
            span_starts.append(span.spans + student_offset)
            teacher_offset += len(span.spans)
            student_offset += len(span.aligned)
        aligned, span_starts = np.concatenate(aligned), np.concatenate(span_starts)
        num_positions = student_offset
        has = aligned >= 0
        taken = aligned[has]
        sizes = row.support_sizes.astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        flat = _flat_indices(starts[taken], sizes[taken])
        projected = project_support(
            self._pieces,
            row.support_sizes[taken],
            row.topk_ids[flat],
            row.teacher_logprobs[flat],
            None if row.advantages is None else row.advantages[flat],
            row.teacher_tail_logprobs[taken],
            None if row.reference_tail_logprobs is None else row.reference_tail_logprobs[taken],
        )
        self._count(row, flat, projected, num_positions, len(taken))

        def spread(values: np.ndarray | None) -> np.ndarray | None:
            if values is None:
                return None
            # Without a support all mass is elsewhere: log 1.
            column = np.zeros(num_positions, np.float32)
            column[has] = values
            return column

        def span_totals(values: np.ndarray | None) -> np.ndarray | None:
            if values is None:
                return None
            if len(values) == num_positions and (span_starts == np.arange(num_positions)).all():
                return values
            return np.bincount(span_starts, values.astype(np.float64), num_positions).astype(np.float32)

        support_sizes = np.zeros(num_positions, np.uint16)
        support_sizes[has] = projected.sizes
        return dataclasses.replace(
            plain,
            support_sizes=support_sizes,
            topk_ids=projected.ids,
            teacher_logprobs=projected.teacher_logprobs,
            advantages=projected.advantages,
            teacher_tail_logprobs=spread(projected.teacher_tail),
            reference_tail_logprobs=spread(projected.reference_tail),
            teacher_token_logprobs=span_totals(row.teacher_token_logprobs),
            reference_token_logprobs=span_totals(row.reference_token_logprobs),
        )

    def _count(
        self,
        row: ResponseSignals,
        flat: np.ndarray,
        projected: ProjectedSupport,
        num_positions: int,
        num_aligned: int,
    ) -> None:
        assert row.topk_ids is not None
        assert row.teacher_logprobs is not None
        assert row.support_sizes is not None
        mass = np.exp(row.teacher_logprobs[flat].astype(np.float64))
        lost = self._pieces(row.topk_ids[flat]) < 0
        unplaced: Counter[int] = Counter()
        for token_id, share in zip(row.topk_ids[flat][lost].tolist(), mass[lost].tolist(), strict=True):
            unplaced[token_id] += share
        self.counts += TranslationCounts(
            rows=1,
            positions=num_positions,
            aligned=num_aligned,
            source_positions=len(row.support_sizes),
            placed=float(projected.placed.sum()),
            exact=float(projected.exact.sum()),
            supported=float(mass.sum()),
            unplaced=unplaced,
        )

    def _drop(self, reason: str) -> None:
        self.counts.dropped[reason] += 1


def mask_runs(mask: np.ndarray | None, length: int) -> list[tuple[int, int]]:
    """Start and stop of each run of True; one run over everything where there is no mask."""
    if mask is None:
        return [(0, length)]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _flat_indices(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Indices of consecutive ranges that begin at `starts`, concatenated."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - sizes), sizes)
