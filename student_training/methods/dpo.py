"""Direct preference optimisation; its reference is the student before training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from student_training import objectives
from student_training.methods.base import Method, MethodSpec, Needs, Responses, SequenceTerm
from student_training.methods.settings import MethodSettings, setting

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DPOSettings(MethodSettings):
    """Settings of dpo."""

    beta: float = setting(0.1, help="scale of the implicit reward, 1 / nats", minimum=0)


def _build(settings: DPOSettings) -> Method:
    beta = settings.beta

    def values(chosen: Responses, rejected: Responses) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = objectives.dpo_loss(
            chosen.student, rejected.student, chosen.initial, rejected.initial, beta=beta
        )
        margin = beta * ((chosen.student - chosen.initial) - (rejected.student - rejected.initial))
        return loss, {"reward_margin": margin, "reward_accuracy": (margin > 0).float()}

    needs = Needs(roles=frozenset({"chosen", "rejected"}), initial=True)
    term = SequenceTerm("loss/dpo", ("chosen", "rejected"), 1.0, values)
    return Method("dpo", needs, sequence_terms=(term,))


DPO = MethodSpec(
    name="dpo",
    summary="−log σ(β · (chosen − rejected log-ratio to the initial student))",
    settings=DPOSettings,
    build=_build,
)
