"""Advantage-guided distillation: raise the teacher's expected advantage on the student's own responses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from data.errors import ConfigurationError
from student_training import objectives
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Term
from student_training.methods.initial_kl import initial_kl_terms
from student_training.methods.settings import MethodSettings, parse_clip, setting
from student_training.methods.sft import nll_term

if TYPE_CHECKING:
    import torch

    from student_training.head.chunk import SparseLogprobs

__all__ = ["ADPA", "ADPASettings"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ADPASettings(MethodSettings):
    """Settings of adpa."""

    gamma: float = setting(3.0, help="weight of the expected advantage", minimum=0)
    clip: str = setting(
        "0:1",
        help="clip of advantages, nats: low:high, c for -c:c, or none",
        presets={"paper": "none", "published-code": "0:1"},
    )
    nll_weight: float = setting(1.0, help="weight of NLL(chosen)", minimum=0)
    advantage_tail: str = setting(
        "zero",
        help="advantage of tokens outside the support",
        choices=("zero", "bucket"),
        presets={"paper": "zero", "published-code": "zero"},
    )
    advantage_scale: float = setting(
        1.0, help="factor on advantages before the clip: β of the teacher's DPO", minimum=0
    )
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


def _build(settings: ADPASettings) -> Method:
    clip, tail, scale = parse_clip(settings.clip), settings.advantage_tail, settings.advantage_scale
    if settings.formula == "published" and (clip != (0.0, 1.0) or tail != "zero"):
        raise ConfigurationError(
            "--formula published: its advantages are clipped to 0:1 and its tail counts nothing; leave --clip and "
            "--advantage-tail out"
        )

    def exact(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return objectives.expected_advantage(
            student.support,
            student.tail,
            scale * positions.advantages,
            scale * (positions.teacher_tail - positions.reference_tail),
            clip=clip,
            tail=tail,
            support_mask=positions.support_mask,
        )

    def published(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        values = objectives.published_expected_advantage(
            student.support, student.tail, scale * positions.advantages, support_mask=positions.support_mask
        )
        return values.masked_fill(positions.terminator, 0.0)

    anchors = initial_kl_terms(settings.initial_kl)
    needs = Needs(
        roles=frozenset({"chosen", "student"}),
        signals=frozenset({"student"}),
        advantages=True,
        initial=bool(anchors),
    )
    values = published if settings.formula == "published" else exact
    terms = (
        nll_term(settings.nll_weight),
        Term("expected_advantage", "student", -settings.gamma, values),
        *anchors,
    )
    return Method("adpa", needs, terms=terms)


ADPA = MethodSpec(
    name="adpa", summary="NLL(chosen) − γ E(student) + κ KL(initial)", settings=ADPASettings, build=_build
)
