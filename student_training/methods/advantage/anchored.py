"""Direct-OPD and W2S-OPD: the initial student, instead of the teacher, moved along the teacher's advantage.

Both have the optimum p₀·exp(A·γ/κ) (direct) or p₀·exp(λA) (w2s) at each position, p₀ the initial student, so that the
student takes over what the teacher learnt from its reference, and nothing else of the teacher. p₀ at the support comes
from one pass before training. The support is the teacher's, where the publications take the student's own top tokens;
the rest is the tail bucket.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from student_training import objectives
from student_training.methods.advantage.matching import MatchingSettings, boosted_by, matching_method
from student_training.methods.advantage.shaping import Shaping, clip_setting, power_setting
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Term
from student_training.methods.settings import MethodSettings, setting
from student_training.methods.sft import nll_term

if TYPE_CHECKING:
    import torch

    from student_training.head.chunk import SparseLogprobs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class W2SSettings(MatchingSettings):
    """Settings of w2s."""

    boost: float = setting(1.0, help="λ: how far the initial student is moved along the advantage", minimum=0)
    clip: str = clip_setting("none")
    advantage_power: float = power_setting()


def _w2s(settings: W2SSettings) -> Method:
    shaping = Shaping.from_settings(settings)
    target = boosted_by(settings.boost, shaping, method="w2s", anchor="initial")
    return matching_method("w2s", settings, target, advantages=True, initial_support=True)


W2S = MethodSpec(
    name="w2s",
    summary="α reverse KL to q ∝ p₀·exp(λ·A) on student rows, p₀ the initial student",
    settings=W2SSettings,
    build=_w2s,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DirectSettings(MethodSettings):
    """Settings of direct."""

    gamma: float = setting(1.0, help="weight of the expected advantage", minimum=0)
    initial_kl: float = setting(
        1.0, help="weight of the exact reverse KL to the student before training, on its support", minimum=0
    )
    clip: str = clip_setting("none")
    advantage_power: float = power_setting()
    nll_weight: float = setting(0.0, help="weight of NLL(chosen)", minimum=0)


def _direct(settings: DirectSettings) -> Method:
    shaping = Shaping.from_settings(settings)

    def expected_advantage(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        support, tail = shaping.advantages(positions, student.support, student.tail)
        if shaping.clip is not None:
            # The support's are clipped with the expectation; an empty tail's stays what it is, and counts as 0.
            tail = tail.clamp(*shaping.clip).where(tail.isfinite(), tail)
        return objectives.expected_advantage(
            student.support,
            student.tail,
            support,
            tail,
            clip=shaping.clip,
            tail="bucket",
            support_mask=positions.support_mask,
        )

    def initial_kl(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return objectives.reverse_kl(
            student.support,
            student.tail,
            positions.initial_support,
            positions.initial_tail,
            support_mask=positions.support_mask,
        )

    terms = (
        *((nll_term(settings.nll_weight),) if settings.nll_weight else ()),
        Term("expected_advantage", "student", -settings.gamma, expected_advantage),
        Term("loss/reverse_kl_initial", "student", settings.initial_kl, initial_kl),
    )
    needs = Needs(
        roles=frozenset({"student"}) | ({"chosen"} if settings.nll_weight else set()),
        signals=frozenset({"student"}),
        advantages=True,
        initial_support=True,
    )
    return Method("direct", needs, terms=terms)


DIRECT = MethodSpec(
    name="direct",
    summary="−γ E(student) + κ reverse KL to the initial student on student rows, the tail counted in both",
    settings=DirectSettings,
    build=_direct,
)
