"""Published relatives of abd on the student's own responses: on-policy distillation, ExOPD and AlignDistil.

They run offline here, on rollouts that a student has sampled before: with the student of the rollouts, their first step
is the published method's. Each position's divergence is exact on the stored support and the tail bucket, where the
publications sample one token or take a top-k without a tail.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from student_training import objectives
from student_training.methods.advantage.matching import MatchingSettings, boosted_by, matching_method
from student_training.methods.advantage.shaping import Shaping, clip_setting, power_setting
from student_training.methods.base import Method, MethodSpec, Positions
from student_training.methods.settings import setting

if TYPE_CHECKING:
    import torch

_LEAST_BOOST = 1e-3
"""Of AlignDistil's λ, as in its published code: where the teacher has not moved, its loss divides by this."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OPDSettings(MatchingSettings):
    """Settings of opd."""


def _opd(settings: OPDSettings) -> Method:
    # With λ = 0 the advantages do not enter; the teacher's rounded probabilities are normalised, as they are for abd.
    return matching_method(
        "opd", settings, boosted_by(0.0, Shaping(clip=None), method="opd"), advantages=False
    )


OPD = MethodSpec(
    name="opd", summary="α reverse KL to the teacher on student rows", settings=OPDSettings, build=_opd
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExOPDSettings(MatchingSettings):
    """Settings of exopd."""

    boost: float = setting(0.25, help="λ: how far the teacher is tilted along its advantage", minimum=0)
    clip: str = clip_setting("none")
    advantage_power: float = power_setting()


def _exopd(settings: ExOPDSettings) -> Method:
    target = boosted_by(settings.boost, Shaping.from_settings(settings), method="exopd")
    return matching_method("exopd", settings, target, advantages=True)


EXOPD = MethodSpec(
    name="exopd",
    summary="α reverse KL to q ∝ r·(π/r)^(1 + λ) on student rows",
    settings=ExOPDSettings,
    build=_exopd,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlignDistilSettings(MatchingSettings):
    """Settings of aligndistil; defaults are those of its published scripts."""

    alpha: float = setting(0.1, help="weight of the KL terms", minimum=0)
    boost: float = setting(15.0, help="s of λ = s·Σ|π − r| + 0.001 at each position", minimum=0)
    position_weight: str = setting(
        "inverse-boost",
        help="factor on each position's divergence: 1/λ, as RLHF's objective has it, or 1",
        choices=("inverse-boost", "even"),
    )


def _boosts(positions: Positions, factor: float) -> torch.Tensor:
    """λ of each position, shape (N,)."""
    shift = objectives.teacher_shift(
        positions.teacher_logprobs,
        positions.teacher_tail,
        positions.advantages,
        positions.reference_tail,
        support_mask=positions.support_mask,
    )
    return factor * shift + _LEAST_BOOST


def _aligndistil(settings: AlignDistilSettings) -> Method:
    def target(positions: Positions) -> tuple[torch.Tensor, torch.Tensor]:
        return objectives.boosted_target(
            positions.teacher_logprobs,
            positions.teacher_tail,
            positions.advantages,
            positions.teacher_tail - positions.reference_tail,
            scale=_boosts(positions, settings.boost),
            clip=None,
            support_mask=positions.support_mask,
        )

    def weights(positions: Positions) -> torch.Tensor:
        return 1 / _boosts(positions, settings.boost)

    return matching_method(
        "aligndistil",
        settings,
        target,
        advantages=True,
        weights=weights if settings.position_weight == "inverse-boost" else None,
    )


ALIGNDISTIL = MethodSpec(
    name="aligndistil",
    summary="α/λ reverse KL to q ∝ π·(π/r)^λ on student rows, λ = s·Σ|π − r| + 0.001 at each position",
    settings=AlignDistilSettings,
    build=_aligndistil,
)
