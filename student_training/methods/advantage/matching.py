"""Matching a moved distribution: what the methods that minimise a divergence have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from data.errors import ConfigurationError
from student_training import objectives
from student_training.methods.advantage.shaping import Shaping
from student_training.methods.base import Method, Needs, Positions, Term
from student_training.methods.divergence import (
    DIVERGENCE_METRICS,
    divergence_function,
    divergence_setting,
    jsd_weight_setting,
)
from student_training.methods.settings import MethodSettings, setting
from student_training.methods.sft import nll_term

if TYPE_CHECKING:
    import torch

    from student_training.head.chunk import SparseLogprobs

    Target = Callable[[Positions], tuple[torch.Tensor, torch.Tensor]]
    Weights = Callable[[Positions], torch.Tensor]

PAIR_ROLES = ("chosen", "rejected")

_ROWS = {
    "pairs": PAIR_ROLES,
    "chosen": ("chosen",),
    "student": ("student",),
    "all": (*PAIR_ROLES, "student"),
}


def on_setting(default: str, **description: Any) -> Any:
    """The setting `--on`."""
    return setting(
        default,
        help="rows to learn on: chosen and rejected, chosen alone, the student's own, or all of them",
        choices=tuple(_ROWS),
        **description,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MatchingSettings(MethodSettings):
    """Settings of every method that matches a distribution on the student's own rows, unless others are named."""

    alpha: float = setting(1.0, help="weight of the KL terms", minimum=0)
    on: str = on_setting("student")
    divergence: str = divergence_setting("reverse")
    jsd_weight: float = jsd_weight_setting()
    nll_weight: float = setting(0.0, help="weight of NLL(chosen)", minimum=0)


def divergence_terms(
    settings: Any, roles: Sequence[str], target: Target, *, weights: Weights | None = None
) -> list[Term]:
    """The divergence from a target on rows of some roles, one term for each.

    Args:
        settings: with alpha, divergence and jsd_weight.
        roles: of the rows.
        target: from positions to log-probabilities of the target at the support, (N, K), and of its tail, (N,).
        weights: factor on each position's divergence, shape (N,); none for 1.
    """

    def term(role: str) -> Term:
        kind = settings.divergence
        if kind == "by-role":
            kind = "reverse" if role == "student" else "forward"
        divergence = divergence_function(kind, settings.jsd_weight)

        def values(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
            found = divergence(
                student.support, student.tail, *target(positions), support_mask=positions.support_mask
            )
            return found if weights is None else weights(positions) * found

        return Term(f"{DIVERGENCE_METRICS[kind]}_{role}", role, settings.alpha, values)

    return [term(role) for role in roles]


def matching_method(
    name: str,
    settings: Any,
    target: Target,
    *,
    advantages: bool,
    initial_support: bool = False,
    weights: Weights | None = None,
) -> Method:
    """A method that minimises the divergence from a target, with NLL(chosen) beside it where that has a weight.

    Args:
        name: the method's.
        settings: with the fields of `MatchingSettings`.
        target: as for `divergence_terms`.
        advantages: whether the target needs a scored reference.
        initial_support: whether it needs the initial student's distribution.
        weights: as for `divergence_terms`.
    """
    roles = _ROWS[settings.on]
    terms = divergence_terms(settings, roles, target, weights=weights)
    if settings.nll_weight:
        terms.insert(0, nll_term(settings.nll_weight))
    needs = Needs(
        roles=frozenset(term.role for term in terms),
        signals=frozenset(roles),
        advantages=advantages,
        initial_support=initial_support,
    )
    return Method(name, needs, terms=tuple(terms))


def boosted_by(boost: float, shaping: Shaping, *, method: str, anchor: str = "teacher") -> Target:
    """The teacher, or the initial student, moved along shaped advantages by the same λ everywhere.

    Args:
        boost: λ.
        shaping: of the advantages.
        method: its name, for messages.
        anchor: `teacher`, or `initial` for the initial student.
    Raises:
        ConfigurationError: for a clip that is not symmetric.
    """
    bound = _symmetric_bound(shaping.clip, method)

    def target(positions: Positions) -> tuple[torch.Tensor, torch.Tensor]:
        base = (
            (positions.teacher_logprobs, positions.teacher_tail)
            if anchor == "teacher"
            else (positions.initial_support, positions.initial_tail)
        )
        return objectives.boosted_target(
            *base,
            *shaping.advantages(positions, *base),
            scale=boost,
            clip=bound,
            support_mask=positions.support_mask,
        )

    return target


def _symmetric_bound(clip: tuple[float, float] | None, method: str) -> float | None:
    """The largest absolute advantage, nats; None for no bound.

    Raises:
        ConfigurationError: for bounds that differ.
    """
    if clip is None:
        return None
    low, high = clip
    if low != -high:
        raise ConfigurationError(
            f"--clip: {method} bounds advantages alike on both sides, {low:g}:{high:g} is not; give one number c for "
            "-c:c"
        )
    return high
