"""Scored responses on the student's ids.

A response is one or several spans of assistant text (several where it holds tool results or user turns in between,
which are masked out). Each span of the teacher's rendering is aligned with the same span of the student's rendering;
its signals are then projected position by position, and its token log-probabilities added up between common boundaries.

Positions that do not align keep their place in the response, because the student is trained on their tokens and its
log-probability of the whole response counts them; they carry no distribution: their support is empty and all mass is in
the tail, so that every divergence and every expected advantage there is zero.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.signals.schema import REFERENCE_COLUMNS, TEACHER_COLUMNS, ResponseIds, ResponseSignals
from data.translation.alignment import align
from data.translation.counts import TranslationCounts
from data.translation.projection import FirstPieces, ProjectedSupport, project_support
from data.translation.token_bytes import TokenBytes

# Bytes of a response that are drawn in both tokenizations.
_DRAWN_BYTES = 300


_OF_SUPPORT_TOKENS = ("topk_ids", "teacher_logprobs", "advantages")


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


@dataclass(frozen=True, slots=True, eq=False)
class AlignedRow:
    """A scored row with where its signals go; T and T' scored positions of teacher and student.

    Attributes:
        source: the row on the teacher's ids.
        target: the same response on the student's ids, without signals.
        aligned: for each of the student's positions the teacher's that begins at the same byte, int64, shape (T',);
            -1 where none does.
        spans: for each of the teacher's positions the student's that its span begins with, int64, shape (T,).
    """

    source: ResponseSignals
    target: ResponseIds
    aligned: np.ndarray
    spans: np.ndarray


class RowTranslator:
    """Translates responses: each is aligned by itself, and the signals of many are projected at once.

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

    def align(self, row: ResponseIds, student: StudentResponse) -> AlignedRow | ResponseIds | None:
        """Lay the two tokenizations of a response over each other.

        Args:
            row: a row of the dataset, scored or not.
            student: the same response in the student's rendering.
        Returns:
            The row with its alignment; one without signals on the student's ids, as it is; None where the two
            renderings cannot be aligned (and it is counted).
        """
        target = ResponseIds(
            row.pair_id,
            row.role,
            row.sample_index,
            student.prompt_ids,
            student.response_ids,
            response_mask=student.mask,
            conversation=row.conversation,
        )
        if not isinstance(row, ResponseSignals):
            return target
        teacher_runs = mask_runs(row.response_mask, len(row.response_ids))
        student_runs = mask_runs(student.mask, len(student.response_ids))
        if len(teacher_runs) != len(student_runs):
            return self.counts.drop(row.pair_id, "the two templates cut the response into different turns")
        # The columns hold masked-in positions only, so that runs are concatenated on both sides.
        aligned, spans = [], []
        teacher_offset = student_offset = 0
        for (teacher_start, teacher_stop), (student_start, student_stop) in zip(
            teacher_runs, student_runs, strict=True
        ):
            teacher_ids = row.response_ids[teacher_start:teacher_stop]
            student_ids = student.response_ids[student_start:student_stop]
            ends = (teacher_ids[-1] == self._teacher_end, student_ids[-1] == self._student_end)
            if ends[0] != ends[1]:
                return self.counts.drop(row.pair_id, "the two templates end a turn differently")
            found = align(teacher_ids, student_ids, self._teacher, self._student, terminated=bool(ends[0]))
            if found is None:
                return self.counts.drop(row.pair_id, "the two renderings do not spell the same bytes")
            aligned.append(np.where(found.aligned >= 0, found.aligned + teacher_offset, -1))
            spans.append(found.spans + student_offset)
            teacher_offset += len(teacher_ids)
            student_offset += len(student_ids)
        return AlignedRow(row, target, np.concatenate(aligned), np.concatenate(spans))

    def project(self, rows: Sequence[AlignedRow]) -> list[ResponseSignals]:
        """Put the signals of aligned rows on the student's ids; all rows with a reference, or none.

        The rows go through the projection together, which is several times as fast as one by one.
        """
        if not rows:
            return []
        kept = [row.aligned[row.aligned >= 0] for row in rows]
        sizes = [_column(row.source, "support_sizes")[taken] for row, taken in zip(rows, kept, strict=True)]
        support = [_support_indices(row.source, taken) for row, taken in zip(rows, kept, strict=True)]

        def support_values(name: str) -> np.ndarray:
            parts = zip(rows, support, strict=True)
            return np.concatenate([_column(row.source, name)[where] for row, where in parts])

        def position_values(name: str) -> np.ndarray:
            parts = zip(rows, kept, strict=True)
            return np.concatenate([_column(row.source, name)[where] for row, where in parts])

        has_reference = rows[0].source.advantages is not None
        projected = project_support(
            self._pieces,
            np.concatenate(sizes),
            support_values("topk_ids"),
            support_values("teacher_logprobs"),
            support_values("advantages") if has_reference else None,
            position_values("teacher_tail_logprobs"),
            position_values("reference_tail_logprobs") if has_reference else None,
        )
        self._count(rows, projected)
        return list(_split(rows, projected))

    def drawn(self, row: AlignedRow) -> dict[str, Any] | None:
        """The beginning of a response without special tokens in both tokenizations, as JSON values.

        Returns:
            `pair_id`, `role`; `teacher` and `student`, each a list of (text, number of bytes) of tokens; `aligned`, for
            each of the student's whether it begins with one of the teacher. None where the two begin differently, or
            with a special token.
        """
        # Ends where both have a boundary, before the terminator.
        lengths = self._student.lengths_of(row.target.response_ids)
        sizes = np.where(np.logical_and.accumulate(lengths > 0), np.cumsum(lengths), _DRAWN_BYTES + 1)
        places = np.flatnonzero(row.aligned >= 0)
        within = places[(places > 0) & (sizes[places - 1] <= _DRAWN_BYTES)]
        if row.aligned[0] != 0 or not len(within):
            return None
        stop = int(within[-1])
        teacher_ids, student_ids = (
            row.source.response_ids[: row.aligned[stop]],
            row.target.response_ids[:stop],
        )
        return {
            "pair_id": row.source.pair_id,
            "role": row.source.role,
            "teacher": [_text(self._teacher[token_id]) for token_id in teacher_ids.tolist()],
            "student": [_text(self._student[token_id]) for token_id in student_ids.tolist()],
            "aligned": (row.aligned[:stop] >= 0).tolist(),
        }

    def _count(self, rows: Sequence[AlignedRow], projected: ProjectedSupport) -> None:
        self.counts += TranslationCounts(
            rows=len(rows),
            positions=sum(len(row.aligned) for row in rows),
            aligned=len(projected.sizes),
            source_positions=sum(len(row.spans) for row in rows),
            placed=float(projected.placed.sum()),
            exact=float(projected.exact.sum()),
            supported=float(projected.placed.sum() + sum(projected.unplaced.values())),
            unplaced=projected.unplaced,
        )


def _text(token: bytes) -> tuple[str, int]:
    """A token's text, one that is no whole characters by the numbers of its other bytes, and how many bytes it has."""
    try:
        return token.decode("utf-8"), len(token)
    except UnicodeDecodeError:
        return token.decode("utf-8", "backslashreplace").replace("\\x", ""), len(token)


def _column(row: ResponseSignals, name: str) -> np.ndarray:
    values = getattr(row, name)
    assert values is not None, "a scored row has all of a model's columns"
    return values


def _support_indices(row: ResponseSignals, positions: np.ndarray) -> np.ndarray:
    """Where the support of some positions is in a row's flat columns."""
    sizes = _column(row, "support_sizes").astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    return _flat_indices(starts[positions], sizes[positions])


def _split(rows: Sequence[AlignedRow], projected: ProjectedSupport) -> Iterator[ResponseSignals]:
    """The rows with their part of a common projection."""
    position = token = 0
    ends = np.concatenate([[0], np.cumsum(projected.sizes, dtype=np.int64)])
    for row in rows:
        has = row.aligned >= 0
        here = slice(position, position + int(has.sum()))
        position = here.stop
        tokens = slice(token, int(ends[position]))
        token = tokens.stop
        sizes = np.zeros(len(has), np.uint16)
        sizes[has] = projected.sizes[here]
        yield row.target.with_signals(
            support_sizes=sizes,
            topk_ids=projected.ids[tokens],
            teacher_logprobs=projected.teacher_logprobs[tokens],
            advantages=None if projected.advantages is None else projected.advantages[tokens],
            teacher_tail_logprobs=_spread(projected.teacher_tail, here, has),
            reference_tail_logprobs=_spread(projected.reference_tail, here, has),
            teacher_token_logprobs=_span_totals(row.source.teacher_token_logprobs, row),
            reference_token_logprobs=_span_totals(row.source.reference_token_logprobs, row),
        )


def _spread(values: np.ndarray | None, here: slice, has: np.ndarray) -> np.ndarray | None:
    """Values of the aligned positions among all of them; without a support all mass is elsewhere: log 1."""
    if values is None:
        return None
    column = np.zeros(len(has), np.float32)
    column[has] = values[here]
    return column


def _span_totals(values: np.ndarray | None, row: AlignedRow) -> np.ndarray | None:
    """Token log-probabilities added up at the first student token of each span."""
    if values is None:
        return None
    num_positions = len(row.aligned)
    if len(values) == num_positions and (row.spans == np.arange(num_positions)).all():
        return values
    return np.bincount(row.spans, values.astype(np.float64), num_positions).astype(np.float32)


def turns_of(row: ResponseIds) -> list[ResponseIds]:
    """Each turn of a response as a row by itself, numbered, without what is masked out between them."""
    turns, first = [], 0
    for number, (start, stop) in enumerate(mask_runs(row.response_mask, len(row.response_ids))):
        changes = {
            "sample_index": number,
            "response_ids": row.response_ids[start:stop],
            "response_mask": None,
        }
        if isinstance(row, ResponseSignals):
            here = np.arange(first, first + stop - start)
            support = _support_indices(row, here)
            for name in (*TEACHER_COLUMNS, *REFERENCE_COLUMNS):
                if (values := getattr(row, name)) is not None:
                    changes[name] = values[support if name in _OF_SUPPORT_TOKENS else here]
        turns.append(dataclasses.replace(row, **changes))
        first += stop - start
    return turns


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
