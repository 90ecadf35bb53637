"""How much the demo does: sizes, steps and learning rates."""

import dataclasses

__all__ = ["FAST", "FULL", "Plan"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Sizes and settings of one demo.

    Attributes:
        num_conversations: supervised conversations, drawn from the behaviour distribution.
        num_pairs: preference pairs.
        reference_steps: supervised optimizer steps of the teacher before alignment, which is the reference.
        teacher_steps: optimizer steps of the teacher's DPO.
        student_sft_steps: supervised optimizer steps of the student.
        student_steps: optimizer steps of every method that is compared.
        judged_prompts: held-out prompts to judge on.
        judged_samples: answers sampled to each.
        batch_size: conversations or pairs in a step.
        warmup_steps: of every training.
        top_k: teacher tokens kept at each position.
    """

    num_conversations: int
    num_pairs: int
    reference_steps: int
    teacher_steps: int
    student_sft_steps: int
    student_steps: int
    judged_prompts: int
    judged_samples: int
    batch_size: int = 64
    warmup_steps: int = 20
    top_k: int = 16
    reference_learning_rate: float = 2e-3
    teacher_learning_rate: float = 1e-3
    student_sft_learning_rate: float = 4e-3
    student_learning_rate: float = 5e-3
    dpo_beta: float = 0.3
    kl_weight: float = 5.0
    advantage_weight: float = 3.0
    advantage_clip: str = "0:1"
    boost: float = 1.0
    boost_clip: str = "1"


FULL = Plan(
    num_conversations=24_000,
    num_pairs=10_000,
    reference_steps=1_200,
    teacher_steps=300,
    student_sft_steps=1_200,
    student_steps=300,
    judged_prompts=1_000,
    judged_samples=2,
)
FAST = Plan(
    num_conversations=8_000,
    num_pairs=3_000,
    reference_steps=300,
    teacher_steps=80,
    student_sft_steps=300,
    student_steps=80,
    judged_prompts=250,
    judged_samples=1,
)
