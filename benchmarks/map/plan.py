"""What the map consists of: sizes, teachers, qualities of chosen answers, methods, and in which order it is made."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


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


@dataclasses.dataclass(frozen=True, slots=True)
class MethodRun:
    """How one student is trained.

    Attributes:
        method: `--method` of train-student.
        settings: the method's own settings.
        needs_teacher: whether it reads signals; without, preference data.
        after: the method whose student, trained for half of the steps, answers and goes on for the other half.
        scoring: settings of score-teacher that differ from the map's.
    """

    method: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs_teacher: bool = True
    after: str | None = None
    scoring: Mapping[str, Any] = dataclasses.field(default_factory=dict)


METHODS: Mapping[str, MethodRun] = {
    "sft": MethodRun("sft", needs_teacher=False),
    "dpo": MethodRun("dpo", {"beta": 0.3}, needs_teacher=False),
    "dckd": MethodRun("dckd"),
    "abd": MethodRun("abd"),
    "abd, NLL": MethodRun("abd", {"nll_weight": 1.0}),
    "adpa, gamma 1": MethodRun("adpa", {"gamma": 1.0}),
    "adpa, gamma 3": MethodRun("adpa", {"gamma": 3.0}),
    "adpa+": MethodRun("adpa", {"gamma": 3.0}, after="dckd"),
    "hybrid": MethodRun("hybrid"),
    "hybrid, boost 1": MethodRun("hybrid", {"boost": 1.0}),
    "opd": MethodRun("opd"),
    "exopd": MethodRun("exopd"),
    "aligndistil": MethodRun("aligndistil"),
    "direct": MethodRun("direct"),
    "w2s": MethodRun("w2s"),
    "abd on rollouts": MethodRun("abd", {"on": "student"}),
    "abd, constant": MethodRun("abd", {"advantage": "constant"}),
    "adpa, constant": MethodRun("adpa", {"gamma": 1.0, "advantage": "constant"}),
    "adpa 3, top-p 0.95": MethodRun("adpa", {"gamma": 3.0}, scoring={"top_p": 0.95}),
    "adpa 3, power 0.5": MethodRun("adpa", {"gamma": 3.0, "advantage_power": 0.5}),
    "adpa 1, power 0.5": MethodRun("adpa", {"gamma": 1.0, "advantage_power": 0.5}),
    "abd, NLL 0.3": MethodRun("abd", {"nll_weight": 0.3}),
    "abd, boost 0.5": MethodRun("abd", {"boost": 0.5}),
    "abd, boost 2": MethodRun("abd", {"boost": 2.0}),
    "abd, no clip": MethodRun("abd", {"clip": "none"}),
    "abd, forward on rollouts": MethodRun("abd", {"on": "student", "divergence": "forward"}),
    "abd, top-k 4": MethodRun("abd", scoring={"top_k": 4}),
    "abd, top-k 64": MethodRun("abd", scoring={"top_k": 64}),
    "abd, top-p 0.9": MethodRun("abd", scoring={"top_k": 64, "top_p": 0.9}),
    "abd, exact": MethodRun("abd", scoring={"precision": "exact"}),
    "adpa, gamma 0.3": MethodRun("adpa", {"gamma": 0.3}),
    "adpa, no clip": MethodRun("adpa", {"gamma": 1.0, "clip": "none"}),
    "adpa, clip 1": MethodRun("adpa", {"gamma": 1.0, "clip": "1"}),
    "adpa, top-k 4": MethodRun("adpa", {"gamma": 1.0}, scoring={"top_k": 4}),
    "hybrid, alpha 0.3": MethodRun("hybrid", {"alpha": 0.3}),
    "hybrid, alpha 3": MethodRun("hybrid", {"alpha": 3.0}),
    "hybrid, gamma 0.3": MethodRun("hybrid", {"gamma": 0.3}),
}

"""The core methods first, then their relatives, then one setting at a time."""

CORE = tuple(METHODS)[:9]

KEY = tuple(name for name in CORE if name not in ("dpo", "adpa+"))

BRIEF = ("sft", "abd", "adpa, gamma 1", "hybrid")

CONTROLS = (
    "abd, constant",
    "adpa, constant",
    "adpa 3, top-p 0.95",
    "adpa 3, power 0.5",
    "exopd",
    "abd on rollouts",
)

_RELATIVES_AND_SWEEPS = tuple(METHODS)[9:]

RELATIVES, SWEEPS = _RELATIVES_AND_SWEEPS[:13], _RELATIVES_AND_SWEEPS[13:]

NO_TEACHER = "none"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One student of the map.

    Attributes:
        world: a name of `WORLDS`.
        seed: of the world and of all training.
        teacher: a name of `TEACHERS`, or `none` for a method without one.
        chosen: a name of `CHOSEN`.
        method: a name of `METHODS`.
    """

    world: str
    seed: int
    teacher: str
    chosen: str
    method: str


_CORNERS = tuple((teacher, chosen) for teacher in ("weak", "strong") for chosen in ("poor", "excellent"))

_SAME_PAIRS = tuple(("same pairs", chosen) for chosen in CHOSEN)

_ALL_CELLS = tuple((t, chosen) for t in TEACHERS if t != "same pairs" for chosen in CHOSEN)

_MIDDLE = tuple(cell for cell in _ALL_CELLS if cell not in _CORNERS)

_OPPOSITE = (("weak", "excellent"), ("strong", "poor"))

_OVERTRAINED = (("overtrained", "poor"), ("overtrained", "excellent"))

_WORLDS = ("topics", "menus")


def jobs_in_order(*, fast: bool) -> Iterator[Job]:
    """Every student once, what matters most first: the corners, the middle, further seeds.

    Args:
        fast: one cell of the second world with its core methods only.
    """
    if fast:
        yield from _cells(0, (("weak", "excellent"),), CORE, worlds=("menus",))
        return
    seen: set[Job] = set()
    for job in _all_jobs():
        if job not in seen:
            seen.add(job)
            yield job


def _all_jobs() -> Iterator[Job]:
    yield from _cells(0, _CORNERS, CORE)
    yield from _cells(0, _OVERTRAINED, CORE)
    yield from _cells(1, _CORNERS, KEY)
    yield from _cells(0, _SAME_PAIRS, BRIEF, worlds=("topics",))
    yield from _cells(0, _OPPOSITE, CONTROLS)
    yield from _cells(0, _SAME_PAIRS, BRIEF)
    yield from _cells(0, _MIDDLE, BRIEF)
    yield from _cells(0, _OPPOSITE, RELATIVES)
    yield from _cells(0, _OPPOSITE, SWEEPS)
    yield from _cells(2, _CORNERS, KEY)
    yield from _cells(1, _SAME_PAIRS, BRIEF)
    yield from _cells(1, _OVERTRAINED, KEY)
    yield from _cells(1, _OPPOSITE, RELATIVES)
    yield from _cells(1, _MIDDLE, BRIEF)
    yield from _cells(3, _CORNERS, KEY)


def _cells(
    seed: int,
    cells: tuple[tuple[str, str], ...],
    methods: tuple[str, ...],
    *,
    worlds: tuple[str, ...] = _WORLDS,
) -> Iterator[Job]:
    for world in worlds:
        for teacher, chosen in cells:
            for method in methods:
                given = teacher if METHODS[method].needs_teacher else NO_TEACHER
                yield Job(world, seed, given, chosen, method)
