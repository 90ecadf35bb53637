"""Three sources in one run: NLL on chosen answers, the teacher on pairs, its advantage on the student's own answers."""

from __future__ import annotations

import dataclasses

from data.errors import ConfigurationError
from student_training.methods.advantage.adpa import expected_advantage_term
from student_training.methods.advantage.matching import PAIR_ROLES, boosted_by, divergence_terms
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
from student_training.methods.base import Method, MethodSpec, Needs, Term
from student_training.methods.divergence import divergence_setting, jsd_weight_setting
from student_training.methods.initial_kl import initial_kl_terms
from student_training.methods.settings import MethodSettings, parse_clip, setting
from student_training.methods.sft import nll_term


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HybridSettings(MethodSettings):
    """Settings of hybrid: three weights, and those of the parts."""

    nll_weight: float = setting(1.0, help="weight of NLL(chosen)", minimum=0)
    alpha: float = setting(1.0, help="weight of the KL terms", minimum=0)
    gamma: float = setting(1.0, help="weight of the expected advantage", minimum=0)
    boost: float = setting(0.0, help="λ: how far the teacher is tilted along its advantage", minimum=0)
    boost_clip: str = setting(
        "1", help="clip of the advantages that boost the teacher on pairs, nats: c or none"
    )
    divergence: str = divergence_setting("forward")
    jsd_weight: float = jsd_weight_setting()
    clip: str = clip_setting("0:1")
    advantage_tail: str = tail_setting()
    advantage_scale: float = scale_setting()
    advantage_power: float = power_setting()
    advantage: str = advantage_setting()
    constant_advantage: float = constant_advantage_setting()
    unlikely_mass: float = unlikely_mass_setting()
    initial_kl: float = setting(
        0.0,
        help="weight of a KL penalty to the student before training, on the student's own responses",
        minimum=0,
    )


def _build(settings: HybridSettings) -> Method:
    terms: list[Term] = []
    signals: set[str] = set()
    advantages = False
    if settings.nll_weight:
        terms.append(nll_term(settings.nll_weight))
    if settings.alpha:
        shaping = Shaping(
            clip=parse_clip(settings.boost_clip),
            power=settings.advantage_power,
            scale=settings.advantage_scale,
        )
        target = boosted_by(settings.boost, shaping, method="hybrid")
        terms += divergence_terms(settings, PAIR_ROLES, target)
        signals |= set(PAIR_ROLES)
        advantages |= settings.boost > 0
    if settings.gamma:
        terms.append(expected_advantage_term(settings, weight=settings.gamma))
        signals.add("student")
        advantages |= settings.advantage == "teacher"
    if not terms:
        raise ConfigurationError(
            "--nll-weight, --alpha, --gamma: all of them are 0, so there is nothing to learn; give one a weight"
        )
    anchors = initial_kl_terms(settings.initial_kl)
    terms += anchors
    needs = Needs(
        roles=frozenset(term.role for term in terms),
        signals=frozenset(signals),
        advantages=advantages,
        initial=bool(anchors),
    )
    return Method("hybrid", needs, terms=tuple(terms))


HYBRID = MethodSpec(
    name="hybrid",
    summary="NLL(chosen) + α (KL(chosen) + KL(rejected)) to q ∝ π·exp(λ·clip(A)) − γ E(student) + κ KL(initial)",
    settings=HybridSettings,
    build=_build,
)
