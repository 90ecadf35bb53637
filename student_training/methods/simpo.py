"""Simple preference optimisation: mean log-probabilities and a target margin, no reference."""

import torch

from student_training.methods.base import Method, MethodSpec, Needs, Responses, SequenceTerm, Settings
from student_training.objectives import simpo_loss

__all__ = ["SIMPO"]


def _build(settings: Settings) -> Method:
    beta, gamma = settings.beta, settings.gamma
    assert beta is not None
    assert gamma is not None

    def values(chosen: Responses, rejected: Responses) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = simpo_loss(
            chosen.student, rejected.student, chosen.lengths, rejected.lengths, beta=beta, gamma=gamma
        )
        margin = beta * (chosen.student / chosen.lengths - rejected.student / rejected.lengths)
        return loss, {"reward_margin": margin, "reward_accuracy": (margin > 0).float()}

    needs = Needs(roles=frozenset({"chosen", "rejected"}))
    term = SequenceTerm("loss/simpo", ("chosen", "rejected"), 1.0, values)
    return Method("simpo", needs, sequence_terms=(term,))


SIMPO = MethodSpec(
    name="simpo",
    summary="−log σ(β · difference of mean log-probabilities − γ)",
    defaults={"beta": 2.0, "gamma": 1.0},
    build=_build,
)
