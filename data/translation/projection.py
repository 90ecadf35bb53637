"""The teacher's distribution over its own tokens, as one over the student's next token.

The rule: the mass of a teacher token goes to the student token that the tokenizer would begin the same bytes with.
Several teacher tokens that begin with one student token add up, for teacher and reference separately, so that
advantages stay log-ratios of two probabilities of the same event. Special tokens go by role (end of turn to end of
turn). The mass of all other tokens joins the tail.

The bias of the rule: what follows a teacher token is not known, and a longer student token may cover it together with
the beginning of what follows. Where no student token is longer than the teacher token's bytes and begins with them,
the rule is exact for tokenizers that take the longest match; `FirstPieces.is_exact` says for which tokens that holds.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.translation.token_bytes import TokenBytes

_UNKNOWN = -2
_NOWHERE = -1


class FirstPieces:
    """For each teacher token the student's first piece of the same bytes, found when it is first asked for."""

    def __init__(self, teacher: TokenBytes, student: TokenBytes, roles: Mapping[int, int]) -> None:
        """Begin with the special tokens.

        Args:
            teacher: bytes of the teacher's tokens.
            student: bytes of the student's tokens.
            roles: student id for each of the teacher's special ids whose role the student has a token for.
        """
        self._teacher, self._student = teacher, student
        self._ids = np.full(teacher.vocab_size, _UNKNOWN, np.int32)
        self._exact = np.zeros(teacher.vocab_size, bool)
        for teacher_id in teacher.special_ids:
            self._ids[teacher_id] = _NOWHERE
        for teacher_id, student_id in roles.items():
            self._ids[teacher_id] = student_id
            self._exact[teacher_id] = True

    def __call__(self, teacher_ids: np.ndarray) -> np.ndarray:
        """Student ids, int32, same shape; -1 where a token has no place. Ids beyond the tokenizer's have none."""
        inside = teacher_ids < len(self._ids)
        known = self._ids[np.where(inside, teacher_ids, 0)]
        unknown = inside & (known == _UNKNOWN)
        if unknown.any():
            for token_id in np.unique(teacher_ids[unknown]).tolist():
                self._find(token_id)
            known = self._ids[np.where(inside, teacher_ids, 0)]
        return np.where(inside, known, np.int32(_NOWHERE))

    def is_exact(self, teacher_ids: np.ndarray) -> np.ndarray:
        """Whether the rule claims to be exact for tokens that were asked for before, bool, same shape."""
        inside = teacher_ids < len(self._ids)
        return inside & self._exact[np.where(inside, teacher_ids, 0)]

    def _find(self, token_id: int) -> None:
        text = self._teacher[token_id]
        found = self._student.first_piece(text) if text else None
        self._ids[token_id] = _NOWHERE if found is None else found
        self._exact[token_id] = found is not None and not self._student.is_extended(text)


@dataclass(frozen=True, slots=True, eq=False)
class ProjectedSupport:
    """A support on the student's ids; S' support tokens over P positions.

    Attributes:
        sizes: support tokens per position, uint16, shape (P,); 0 where nothing could be placed.
        ids: student ids, int32, shape (S',), in falling teacher probability.
        teacher_logprobs: nats, float32, shape (S',).
        advantages: nats, float32, shape (S',); None without a reference.
        teacher_tail: log of the teacher's mass elsewhere, nats, float32, shape (P,).
        reference_tail: as above, of the reference; None without a reference.
        placed: the teacher's mass that has a place, float64, shape (P,).
        exact: that part of it for which the rule claims to be exact, float64, shape (P,).
        unplaced: mass of the tokens without a place, summed over the positions, by the teacher's id.
    """

    sizes: np.ndarray
    ids: np.ndarray
    teacher_logprobs: np.ndarray
    advantages: np.ndarray | None
    teacher_tail: np.ndarray
    reference_tail: np.ndarray | None
    placed: np.ndarray
    exact: np.ndarray
    unplaced: Counter[int]


def project_support(
    pieces: FirstPieces,
    sizes: np.ndarray,
    topk_ids: np.ndarray,
    teacher_logprobs: np.ndarray,
    advantages: np.ndarray | None,
    teacher_tail: np.ndarray,
    reference_tail: np.ndarray | None,
) -> ProjectedSupport:
    """Project the supports of P positions onto the student's ids.

    A token that alone goes to its student token keeps its numbers bit for bit, and so do tails that nothing joins:
    a tokenizer with the same pieces under other ids changes nothing but ids.

    Args:
        pieces: where each teacher token goes.
        sizes: support tokens per position, shape (P,).
        topk_ids: the teacher's support, flat, shape (S,), in falling teacher probability.
        teacher_logprobs: nats, float32, shape (S,).
        advantages: teacher minus reference log-probability, nats, float32, shape (S,); or None.
        teacher_tail: log of the teacher's mass outside the support, nats, float32, shape (P,).
        reference_tail: as above, of the reference; or None.
    """
    num_positions = len(sizes)
    position = np.repeat(np.arange(num_positions, dtype=np.int64), sizes)
    student = pieces(topk_ids)
    mass = np.exp(teacher_logprobs.astype(np.float64))
    lost = student < 0
    reference = None if advantages is None else teacher_logprobs.astype(np.float64) - advantages
    placed = np.bincount(position, mass * ~lost, num_positions)
    exact = np.bincount(position, mass * pieces.is_exact(topk_ids), num_positions)
    logprobs, unplaced = teacher_logprobs, Counter[int]()
    if lost.any():
        for token_id, share in zip(topk_ids[lost].tolist(), mass[lost].tolist(), strict=True):
            unplaced[token_id] += share
        teacher_tail = _join_tail(teacher_tail, position[lost], mass[lost])
        if reference is not None and reference_tail is not None:
            reference_tail = _join_tail(reference_tail, position[lost], np.exp(reference[lost]))
        keep = ~lost
        position, student, logprobs = position[keep], student[keep], teacher_logprobs[keep]
        advantages = None if advantages is None else advantages[keep]
        reference = None if reference is None else reference[keep]
    key = position * (int(student.max(initial=0)) + 1) + student
    _, first, inverse, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    several = counts > 1
    if several.any():
        # A place among the sums for each entry that is one of several.
        merged = several[inverse]
        groups = (np.cumsum(several) - 1)[inverse[merged]]
        summed = _log_sums(logprobs[merged].astype(np.float64), groups)
        logprobs = logprobs.copy()
        logprobs[first[several]] = summed
        if advantages is not None and reference is not None:
            advantages = advantages.copy()
            advantages[first[several]] = summed - _log_sums(reference[merged], groups)
        order = np.sort(first)
        # Sums may be larger than entries before them; a stable sort moves nothing else.
        order = order[np.lexsort((-logprobs[order], position[order]))]
        position, student, logprobs = position[order], student[order], logprobs[order]
        advantages = None if advantages is None else advantages[order]
    return ProjectedSupport(
        sizes=np.bincount(position, minlength=num_positions).astype(np.uint16),
        ids=student.astype(np.int32),
        teacher_logprobs=logprobs.astype(np.float32),
        advantages=None if advantages is None else advantages.astype(np.float32),
        teacher_tail=teacher_tail,
        reference_tail=reference_tail,
        placed=placed,
        exact=exact,
        unplaced=unplaced,
    )


def _log_sums(logprobs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Log of the summed probabilities of each group; no more than log 1, which rounded entries may exceed.

    Args:
        logprobs: nats, float64, shape (N,).
        groups: which group each belongs to, from 0 to G - 1, none of them empty, shape (N,).
    Returns:
        Nats, float64, shape (G,).
    """
    largest = np.full(int(groups.max()) + 1, -np.inf)
    np.maximum.at(largest, groups, logprobs)
    return np.minimum(largest + np.log(np.bincount(groups, np.exp(logprobs - largest[groups]))), 0.0)


def _join_tail(tail: np.ndarray, position: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Add probabilities to the tails of their positions; tails that nothing joins stay bit for bit."""
    joining = np.bincount(position, mass, len(tail))
    joined = np.log(np.exp(tail.astype(np.float64)) + joining, where=joining > 0, out=np.zeros(len(tail)))
    return np.where(joining > 0, np.minimum(joined, 0.0), tail).astype(np.float32)
