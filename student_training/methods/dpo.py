"""Direct preference optimisation; its reference is the student before training."""

import torch

from student_training.methods.base import Method, MethodSpec, Needs, Responses, SequenceTerm, Settings
from student_training.objectives import dpo_loss

__all__ = ["DPO"]


def _build(settings: Settings) -> Method:
    beta = settings.beta
    assert beta is not None

    def values(chosen: Responses, rejected: Responses) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = dpo_loss(chosen.student, rejected.student, chosen.initial, rejected.initial, beta=beta)
        margin = beta * ((chosen.student - chosen.initial) - (rejected.student - rejected.initial))
        return loss, {"reward_margin": margin, "reward_accuracy": (margin > 0).float()}

    needs = Needs(roles=frozenset({"chosen", "rejected"}), initial=True)
    return Method(
        "dpo", needs, sequence_terms=(SequenceTerm("loss/dpo", ("chosen", "rejected"), 1.0, values),)
    )


DPO = MethodSpec(
    name="dpo", summary="−log σ(β · margin over the initial student)", defaults={"beta": 0.1}, build=_build
)
