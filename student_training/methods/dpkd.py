"""Direct preference knowledge distillation: DPO with the teacher in the reference's place."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from student_training import objectives
from student_training.methods.base import Method, MethodSpec, Needs, Responses, SequenceTerm
from student_training.methods.settings import MethodSettings, setting

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DPKDSettings(MethodSettings):
    """Settings of dpkd."""

    beta: float = setting(0.1, help="scale of the implicit reward, 1 / nats", minimum=0)
    length_normalize: bool = setting(False, help="divide log-ratios by their response's length")


def _build(settings: DPKDSettings) -> Method:
    beta, length_normalize = settings.beta, settings.length_normalize

    def values(chosen: Responses, rejected: Responses) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = objectives.dpkd_loss(
            chosen.student,
            rejected.student,
            chosen.teacher,
            rejected.teacher,
            beta=beta,
            chosen_lengths=chosen.lengths if length_normalize else None,
            rejected_lengths=rejected.lengths if length_normalize else None,
        )
        sides = [
            (side.student - side.teacher) / (side.lengths if length_normalize else 1.0)
            for side in (chosen, rejected)
        ]
        margin = beta * (sides[0] - sides[1])
        return loss, {"reward_margin": margin, "reward_accuracy": (margin > 0).float()}

    roles = frozenset({"chosen", "rejected"})
    term = SequenceTerm("loss/dpkd", ("chosen", "rejected"), 1.0, values)
    return Method("dpkd", Needs(roles=roles, signals=roles), sequence_terms=(term,))


DPKD = MethodSpec(
    name="dpkd",
    summary="−log σ(β · (chosen − rejected log-ratio to the teacher))",
    settings=DPKDSettings,
    build=_build,
)
