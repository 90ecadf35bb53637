"""Simple preference optimisation: mean log-probabilities and a target margin, no reference."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from student_training import objectives
from student_training.methods.base import Method, MethodSpec, Needs, Responses, SequenceTerm
from student_training.methods.settings import MethodSettings, setting

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SimPOSettings(MethodSettings):
    """Settings of simpo."""

    beta: float = setting(2.0, help="scale of mean log-probabilities, 1 / nats", minimum=0)
    gamma: float = setting(1.0, help="target margin", minimum=0)


def _build(settings: SimPOSettings) -> Method:
    beta, gamma = settings.beta, settings.gamma

    def values(chosen: Responses, rejected: Responses) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = objectives.simpo_loss(
            chosen.student, rejected.student, chosen.lengths, rejected.lengths, beta=beta, gamma=gamma
        )
        margin = beta * (chosen.student / chosen.lengths - rejected.student / rejected.lengths)
        return loss, {"reward_margin": margin, "reward_accuracy": (margin > 0).float()}

    needs = Needs(roles=frozenset({"chosen", "rejected"}))
    term = SequenceTerm("loss/simpo", ("chosen", "rejected"), 1.0, values)
    return Method("simpo", needs, sequence_terms=(term,))


SIMPO = MethodSpec(
    name="simpo",
    summary="−log σ(β · (difference of mean log-probabilities) − γ)",
    settings=SimPOSettings,
    build=_build,
)
