"""The mathematics of every training method: pure functions over small tensors of log-probabilities (nats)."""

from student_training.objectives.advantage import (
    expected_advantage,
    sequence_advantages,
    tail_advantage,
    teacher_expected_advantage,
)
from student_training.objectives.divergence import boosted_target, forward_kl, reverse_kl
from student_training.objectives.pairwise import dpkd_loss, dpo_loss, simpo_loss
from student_training.objectives.published import published_expected_advantage, published_forward_kl
from student_training.objectives.surrogate import clipped_surrogate

__all__ = [
    "boosted_target",
    "clipped_surrogate",
    "dpkd_loss",
    "dpo_loss",
    "expected_advantage",
    "forward_kl",
    "published_expected_advantage",
    "published_forward_kl",
    "reverse_kl",
    "sequence_advantages",
    "simpo_loss",
    "tail_advantage",
    "teacher_expected_advantage",
]
