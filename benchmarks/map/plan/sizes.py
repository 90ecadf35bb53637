"""How much of everything a map has, its teachers, and the qualities of its chosen answers."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Sizes and settings of a map; every student has the same number of optimizer steps.

    Attributes:
        num_conversations: supervised conversations, drawn from the behaviour distribution.
        num_pairs: preference pairs of the students.
        reference_steps: supervised optimizer steps of the reference.
        student_sft_steps: supervised optimizer steps of the student.
        student_steps: optimizer steps of every method.
        teacher_share: factor on the DPO steps and pairs that `TEACHERS` names.
        num_prompts: held-out prompts to measure on.
        num_measured_pairs: held-out pairs for preference accuracy and distances.
        teacher_width: hidden size of reference and teachers.
        top_k: teacher tokens kept at each position.
    """

    num_conversations: int
    num_pairs: int
    reference_steps: int
    student_sft_steps: int
    student_steps: int
    num_prompts: int
    num_measured_pairs: int
    teacher_share: float = 1.0
    teacher_width: int = 64
    top_k: int = 16
    sft_batch_size: int = 64
    batch_size: int = 32
    warmup_steps: int = 20
    reference_learning_rate: float = 2e-3
    student_sft_learning_rate: float = 4e-3
    teacher_learning_rate: float = 1e-3
    student_learning_rate: float = 5e-3


FULL = Plan(
    num_conversations=16_000,
    num_pairs=3_000,
    reference_steps=600,
    student_sft_steps=500,
    student_steps=200,
    num_prompts=600,
    num_measured_pairs=200,
)

FAST = Plan(
    num_conversations=1_000,
    num_pairs=200,
    reference_steps=30,
    student_sft_steps=30,
    student_steps=10,
    num_prompts=100,
    num_measured_pairs=20,
    teacher_share=0.1,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Teacher:
    """How a teacher comes from the reference: by DPO.

    Attributes:
        beta: of its DPO; a high one keeps it near the reference.
        steps: optimizer steps of its DPO.
        num_pairs: best-of-four pairs of its DPO, which no student sees; None for the students' own pairs.
        batch_size: pairs in a step.
    """

    beta: float
    steps: int
    num_pairs: int | None
    batch_size: int


TEACHERS: Mapping[str, Teacher] = {
    "weak": Teacher(beta=1.0, steps=25, num_pairs=4_000, batch_size=32),
    "middle": Teacher(beta=0.3, steps=100, num_pairs=4_000, batch_size=32),
    "strong": Teacher(beta=0.3, steps=300, num_pairs=12_000, batch_size=64),
    # Two and a half passes over few pairs with a small beta: confident, and worse than the reference.
    "overtrained": Teacher(beta=0.1, steps=300, num_pairs=4_000, batch_size=32),
    # As in the paper: teacher and student learn from one dataset, of whatever quality it is.
    "same pairs": Teacher(beta=0.3, steps=188, num_pairs=None, batch_size=32),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """Where the students' chosen answers come from: the judged best of several of the behaviour distribution.

    Attributes:
        best_of: how many.
        noise: deviation of the judge's error, in units of the reward (whose deviation is about 0.13 to 0.16).
    """

    best_of: int
    noise: float


CHOSEN: Mapping[str, Chosen] = {
    "poor": Chosen(best_of=2, noise=0.1),
    "good": Chosen(best_of=6, noise=0.05),
    "excellent": Chosen(best_of=32, noise=0.02),
}
