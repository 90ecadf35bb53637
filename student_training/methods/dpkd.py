"""Direct preference knowledge distillation: DPO with the teacher in the reference's place."""

import torch

from student_training.methods.base import Method, MethodSpec, Needs, Responses, SequenceTerm, Settings
from student_training.objectives import dpkd_loss

__all__ = ["DPKD"]


def _build(settings: Settings) -> Method:
    beta, length_normalize = settings.beta, settings.length_normalize
    assert beta is not None

    def values(chosen: Responses, rejected: Responses) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = dpkd_loss(
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
    summary="−log σ(β · margin over the teacher)",
    defaults={"beta": 0.1, "length_normalize": False},
    build=_build,
)
