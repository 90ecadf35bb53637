"""Two tokenizations of one text, aligned by its bytes.

A boundary is a byte offset at which a token begins. Where a token of the student begins at a boundary of the
teacher, both models predict the same continuation: the position is aligned, and the teacher's distribution
there says something about the student's next token. Between two consecutive common boundaries both have read the same
bytes: the log-probabilities of the tokens in between add up to the log-probability of the same text (a span).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.translation.token_bytes import TokenBytes

# Templates differ in the blanks that they put around an answer; those carry nothing of it.
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """How the student's tokens of a text relate to the teacher's.

    Attributes:
        aligned: for each student token, the teacher token that begins at the same byte, int32, shape (T_student,);
            -1 where none does.
        spans: for each teacher token, the student token that its span begins with, int32, shape (T_teacher,).
    """

    aligned: np.ndarray
    spans: np.ndarray


def align(
    teacher_ids: Sequence[int] | np.ndarray,
    student_ids: Sequence[int] | np.ndarray,
    teacher: TokenBytes,
    student: TokenBytes,
    *,
    terminated: bool,
) -> Alignment | None:
    """Align two tokenizations of one response.

    Args:
        teacher_ids: token ids of the response, shape (T_teacher,), the terminator last where it has one.
        student_ids: token ids of the same text, shape (T_student,), its terminator last where it has one.
        teacher: bytes of the teacher's tokens.
        student: bytes of the student's tokens.
        terminated: whether both end with a terminator; the two terminators are aligned with each other.
    Returns:
        The alignment; None where the two do not spell the same bytes (but for blanks around them), so that nothing
        can be said.
    """
    ends = 1 if terminated else 0
    num_teacher, num_student = len(teacher_ids) - ends, len(student_ids) - ends
    if num_teacher < 1 or num_student < 1:
        return None
    teacher_text = teacher.join(teacher_ids[:num_teacher])
    student_text = student.join(student_ids[:num_student])
    shift = _shift(teacher_text, student_text)
    if shift is None:
        return None
    teacher_starts = _starts(teacher_ids[:num_teacher], teacher)
    student_starts = _starts(student_ids[:num_student], student) + shift
    # Tokens without bytes begin where the next one does; the last of several is the one that reads on.
    place = np.searchsorted(teacher_starts, student_starts, side="right") - 1
    found = (place >= 0) & (teacher_starts[np.maximum(place, 0)] == student_starts)
    aligned = np.where(found, place, -1).astype(np.int32)
    # The first token begins the first span, wherever the blanks before it end.
    begins = found.copy()
    begins[0] = True
    begin_index = np.flatnonzero(begins)
    begin_offsets = student_starts[begin_index].copy()
    begin_offsets[0] = min(begin_offsets[0], 0)
    spans = begin_index[np.searchsorted(begin_offsets, teacher_starts, side="right") - 1].astype(np.int32)
    if terminated:
        aligned = np.append(aligned, np.int32(num_teacher))
        spans = np.append(spans, np.int32(num_student))
    return Alignment(aligned, spans)


def _starts(token_ids: Sequence[int] | np.ndarray, tokens: TokenBytes) -> np.ndarray:
    lengths = tokens.lengths_of(np.asarray(token_ids, np.int64))
    return np.cumsum(lengths, dtype=np.int64) - lengths


def _shift(teacher_text: bytes, student_text: bytes) -> int | None:
    """The teacher's byte offset at which the student's text begins; negative where the student has more blanks."""
    if teacher_text == student_text:
        return 0
    teacher_core, student_core = teacher_text.strip(_BLANKS), student_text.strip(_BLANKS)
    if teacher_core != student_core or not teacher_core:
        return None
    return teacher_text.index(teacher_core) - student_text.index(student_core)
