"""Advantage-guided distillation: raise the teacher's expected advantage on the student's own responses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from data.errors import ConfigurationError
from student_training import objectives
from student_training.methods.advantage.shaping import (
    Shaping,
    advantage_setting,
    clip_setting,
    constant_advantage_setting,
    power_setting,
    scale_setting,
    tail_setting,
    unlikely_mass_setting,
)
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Term
from student_training.methods.initial_kl import initial_kl_terms
from student_training.methods.settings import MethodSettings, setting
from student_training.methods.sft import nll_term

if TYPE_CHECKING:
    import torch

    from student_training.head.chunk import SparseLogprobs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ADPASettings(MethodSettings):
    """Settings of adpa."""

    gamma: float = setting(1.0, help="weight of the expected advantage", minimum=0)
    clip: str = clip_setting("0:1", presets={"paper": "none", "published-code": "0:1"})
    nll_weight: float = setting(1.0, help="weight of NLL(chosen)", minimum=0)
    advantage_tail: str = tail_setting(presets={"paper": "zero", "published-code": "zero"})
    advantage_scale: float = scale_setting()
    initial_kl: float = setting(
        0.0,
        help="weight of a KL penalty to the student before training, on the student's own responses",
        minimum=0,
    )
    formula: str = setting(
        "exact",
        help="KL and expected advantage exactly, or with the published code's clamps and no term on the terminator",
        choices=("exact", "published"),
        aliases=("--reference-implementation",),
        presets={"paper": "exact", "published-code": "published"},
    )
    advantage_power: float = power_setting()
    advantage: str = advantage_setting()
    constant_advantage: float = constant_advantage_setting()
    unlikely_mass: float = unlikely_mass_setting()


def expected_advantage_term(settings: Any, *, weight: float) -> Term:
    """Minus the student's expected advantage on its own responses, by settings that adpa and hybrid share.

    Args:
        settings: with clip, advantage_tail, advantage_scale and those of `Shaping`.
        weight: its factor in what is maximised.
    """
    shaping = Shaping.from_settings(settings)

    def values(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        support, tail = shaping.advantages(positions, student.support, student.tail)
        return objectives.expected_advantage(
            student.support,
            student.tail,
            support,
            tail,
            clip=shaping.clip,
            # The tail's tokens are unlikely ones, too.
            tail="bucket" if shaping.constant is not None else settings.advantage_tail,
            support_mask=positions.support_mask,
        )

    return Term("expected_advantage", "student", -weight, values)


def _published_term(settings: ADPASettings) -> Term:
    """The same with the published code's clamps.

    Raises:
        ConfigurationError: for settings that these clamps leave no room for.
    """
    shaping = Shaping.from_settings(settings)
    if shaping.clip != (0.0, 1.0) or settings.advantage_tail != "zero":
        raise ConfigurationError(
            "--formula published: its advantages are clipped to 0:1 and its tail counts nothing; leave --clip, "
            "--advantage-tail and --advantage constant out"
        )

    def values(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        support, _ = shaping.advantages(positions, student.support, student.tail)
        found = objectives.published_expected_advantage(
            student.support, student.tail, support, support_mask=positions.support_mask
        )
        return found.masked_fill(positions.terminator, 0.0)

    return Term("expected_advantage", "student", -settings.gamma, values)


def _build(settings: ADPASettings) -> Method:
    published = settings.formula == "published"
    anchors = initial_kl_terms(settings.initial_kl)
    needs = Needs(
        roles=frozenset({"chosen", "student"}),
        signals=frozenset({"student"}),
        advantages=settings.advantage == "teacher",
        initial=bool(anchors),
    )
    terms = (
        nll_term(settings.nll_weight),
        _published_term(settings) if published else expected_advantage_term(settings, weight=settings.gamma),
        *anchors,
    )
    return Method("adpa", needs, terms=terms)


ADPA = MethodSpec(
    name="adpa", summary="NLL(chosen) − γ E(student) + κ KL(initial)", settings=ADPASettings, build=_build
)
