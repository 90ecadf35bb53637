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

# Stands for a special token, which has no bytes: text in UTF-8 never holds this one. Where both tokenizations have a
# special token at one place, they go on alike before and after it.
_SPECIAL = b"\xff"


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
        The alignment; None where the two do not spell the same bytes (but for blanks around them), or have special
        tokens at different places, so that nothing can be said.
    """
    ends = 1 if terminated else 0
    num_teacher, num_student = len(teacher_ids) - ends, len(student_ids) - ends
    if num_teacher < 1 or num_student < 1:
        return None
    teacher_pieces = _pieces(teacher_ids[:num_teacher], teacher)
    student_pieces = _pieces(student_ids[:num_student], student)
    shift = _shift(b"".join(teacher_pieces), b"".join(student_pieces))
    if shift is None:
        return None
    teacher_starts = _starts(teacher_pieces)
    student_starts = _starts(student_pieces) + shift
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


def _pieces(token_ids: Sequence[int] | np.ndarray, tokens: TokenBytes) -> list[bytes]:
    return [tokens[token_id] or _SPECIAL for token_id in np.asarray(token_ids).tolist()]


def _starts(pieces: Sequence[bytes]) -> np.ndarray:
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    return np.cumsum(lengths) - lengths


def _shift(teacher_text: bytes, student_text: bytes) -> int | None:
    """The teacher's byte offset at which the student's text begins; negative where the student has more blanks."""
    if teacher_text == student_text:
        return 0
    teacher_core, student_core = _without_blanks(teacher_text), _without_blanks(student_text)
    if teacher_core != student_core or not teacher_core:
        return None
    return teacher_text.index(teacher_core) - student_text.index(student_core)


def _without_blanks(text: bytes) -> bytes:
    """Templates differ in the blanks that they put around an answer (all that `trim` removes in one)."""
    return text.decode("utf-8", "surrogateescape").strip().encode("utf-8", "surrogateescape")
