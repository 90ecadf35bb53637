"""Advantage-boosted distillation: match the teacher tilted further along its own advantage.

Position by position this is the optimum of ExOPD (arXiv:2602.12125), reference·(teacher / reference)^(1 + λ), made
offline and clipped, on preference pairs, with forward KL and a tail bucket, beside NLL of the chosen answers.
AlignDistil (arXiv:2503.02832) has the same extrapolation with a λ per token.
"""

from __future__ import annotations

import dataclasses

from student_training.methods.advantage.matching import boosted_by, matching_method, on_setting
from student_training.methods.advantage.shaping import (
    Shaping,
    advantage_setting,
    clip_setting,
    constant_advantage_setting,
    power_setting,
    unlikely_mass_setting,
)
from student_training.methods.base import Method, MethodSpec
from student_training.methods.divergence import divergence_setting, jsd_weight_setting
from student_training.methods.settings import MethodSettings, setting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ABDSettings(MethodSettings):
    """Settings of abd."""

    boost: float = setting(
        1.0,
        help="λ: how far the teacher is tilted along its advantage",
        minimum=0,
        aliases=("--abd-lambda",),
    )
    clip: str = clip_setting("1")
    alpha: float = setting(1.0, help="weight of the KL terms", minimum=0)
    on: str = on_setting("pairs", aliases=("--abd-rows",))
    divergence: str = divergence_setting("by-role", by_role=True)
    jsd_weight: float = jsd_weight_setting()
    nll_weight: float = setting(1.0, help="weight of NLL(chosen)", minimum=0)
    advantage_power: float = power_setting()
    advantage: str = advantage_setting()
    constant_advantage: float = constant_advantage_setting()
    unlikely_mass: float = unlikely_mass_setting()


def _build(settings: ABDSettings) -> Method:
    shaping = Shaping.from_settings(settings)
    target = boosted_by(settings.boost, shaping, method="abd")
    return matching_method("abd", settings, target, advantages=shaping.reads_advantages)


ABD = MethodSpec(
    name="abd",
    summary="NLL(chosen) + α KL to q ∝ π·exp(λ·clip(A)): forward on chosen and rejected, or reverse on student rows",
    settings=ABDSettings,
    build=_build,
)
