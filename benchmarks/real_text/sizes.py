"""How much of everything the real-text benchmark makes, and which methods it compares."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything.

    Attributes:
        common_tokens: most frequent tokens that stay in the vocabulary, beside those of the prompts.
        train_prompts: prompts of the pairs.
        samples: answers of the reference to each of them.
        held_out: prompts that models are judged on.
        max_new_tokens: longest answer.
        teacher_steps: of the teacher's training.
        teacher_rate: its peak learning rate.
        heal_steps: of the cut student on the reference's answers.
        student_steps: of every method.
        student_rate: peak learning rate of every method.
        batch_size: pairs in a step.
        judged_samples: answers to each held-out prompt at temperature 1; two below, one greedily.
        layers: of the reference that the student keeps.
        teacher_lora_rank: rank of the adapters that the teacher is trained through; None trains all its weights.
    """

    common_tokens: int
    train_prompts: int
    samples: int
    held_out: int
    max_new_tokens: int
    teacher_steps: int
    teacher_rate: float
    heal_steps: int
    student_steps: int
    student_rate: float
    batch_size: int
    judged_samples: int
    layers: tuple[int, ...]
    teacher_lora_rank: int | None = None


FAST = Size(
    common_tokens=8000,
    train_prompts=160,
    samples=4,
    held_out=128,
    max_new_tokens=28,
    teacher_steps=20,
    teacher_rate=3e-5,
    heal_steps=150,
    student_steps=24,
    student_rate=3e-4,
    batch_size=8,
    judged_samples=4,
    layers=(0, 1, 28, 29),
)
#: With Gemma, whose last layer is 17; capital letters and lists take more tokens. DPO of all its weights breaks it, at
#: 1e-5, too (after twenty steps it does not end its answers any more); through adapters it does not.
FAST_CONSTRAINTS = replace(
    FAST,
    max_new_tokens=36,
    teacher_rate=5e-5,
    teacher_lora_rank=16,
    heal_steps=100,
    judged_samples=2,
    layers=(0, 1, 16, 17),
)
#: A student that speaks: two fifths of the reference's layers, healed on three times as many answers and steps.
FULL = replace(
    FAST,
    train_prompts=480,
    max_new_tokens=36,
    teacher_steps=48,
    teacher_rate=2e-5,
    heal_steps=500,
    student_steps=48,
    student_rate=2e-4,
    layers=(*range(6), *range(24, 30)),
)
FULL_CONSTRAINTS = replace(
    FULL,
    max_new_tokens=48,
    teacher_rate=5e-5,
    teacher_lora_rank=16,
    judged_samples=2,
    layers=(*range(4), *range(14, 18)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A row of the table: a student trained by one method.

    Attributes:
        name: in the table.
        start: the model that it starts from, by name.
        rows: what it is trained on: `data` for the pairs' texts, `pairs` for the signals of chosen, rejected and the
            student's own answers, or the model on whose answers the teacher's signals are.
        settings: fields of `TrainOptions`, the method among them.
        share_of_steps: of those that every method has.
        rate_factor: on the learning rate that every method has.
    """

    name: str
    start: str = "student"
    rows: str = "pairs"
    settings: dict[str, Any] = field(default_factory=dict)
    share_of_steps: float = 1.0
    rate_factor: float = 1.0


#: NLL and a little KL to the teacher boosted along its advantage, so that what DPO has changed counts five times. These
#: settings and the next were chosen for a translated teacher (benchmarks/cross_tokenizer).
ABD_ON_CHOSEN: dict[str, Any] = {"method": "abd", "on": "chosen", "boost": 4.0, "clip": "2", "alpha": 0.3}

#: NLL and a little KL to the untouched student moved along the advantage: of the teacher, only what DPO has changed.
W2S_ON_CHOSEN: dict[str, Any] = {
    "method": "w2s",
    "on": "chosen",
    "divergence": "forward",
    "nll_weight": 1.0,
    "boost": 3.0,
    "clip": "2",
    "alpha": 0.3,
}

#: Equal steps, batches and learning rate for all, the two rounds of ADPA together (and ADPA+ after those of DCKD).
MAIN_METHODS = (
    Trained(name="DCKD", settings={"method": "dckd"}),
    Trained(name="SFT on chosen", rows="data", settings={"method": "sft"}),
    Trained(name="ADPA, gamma 3", settings={"method": "adpa", "gamma": 3.0}),
    Trained(name="ADPA, gamma 1", settings={"method": "adpa", "gamma": 1.0}),
    Trained(name="DPO", rows="data", settings={"method": "dpo"}),
    Trained(name="ADPA+", start="DCKD", rows="DCKD", settings={"method": "adpa", "gamma": 3.0}),
    Trained(name="hybrid", settings={"method": "hybrid"}),
    Trained(name="ABD with NLL", settings={"method": "abd", "nll_weight": 1.0}),
    Trained(name="constant advantage", settings={"method": "adpa", "gamma": 3.0, "advantage": "constant"}),
    Trained(name="SimPO", rows="data", settings={"method": "simpo"}),
    Trained(name="vanilla KD", settings={"method": "vanilla-kd"}),
)

#: With `--all`: relatives of these, and what single statements are about.
FURTHER_METHODS = (
    Trained(name="ABD", settings={"method": "abd", "nll_weight": 0.0}),
    Trained(name="ExOPD", settings={"method": "exopd"}),
    Trained(name="OPD", settings={"method": "opd"}),
    Trained(name="ABD on chosen", settings=ABD_ON_CHOSEN),
    Trained(name="W2S on chosen", settings=W2S_ON_CHOSEN),
    Trained(name="DPKD", settings={"method": "dpkd"}),
    Trained(name="DPPO, token", settings={"method": "dppo-token"}),
    Trained(name="DPPO, sequence", settings={"method": "dppo-sequence"}),
    Trained(name="ADPA, one round of two", settings={"method": "adpa", "gamma": 1.0}, share_of_steps=0.5),
    Trained(
        name="ADPA, two rounds",
        start="ADPA, one round of two",
        rows="ADPA, one round of two",
        settings={"method": "adpa", "gamma": 1.0},
        share_of_steps=0.5,
    ),
    # The control for it: two trainings, and the answers of before the first one in both.
    Trained(
        name="ADPA, one round, halved",
        start="ADPA, one round of two",
        settings={"method": "adpa", "gamma": 1.0},
        share_of_steps=0.5,
    ),
)

METHODS = (*MAIN_METHODS, *FURTHER_METHODS)

#: The main ones for the second world, with the default gamma throughout.
CONSTRAINTS_METHODS = (
    *(
        method
        for method in METHODS
        if method.name
        in ("DCKD", "SFT on chosen", "ADPA, gamma 1", "DPO", "ABD", "ABD with NLL", "vanilla KD")
    ),
    Trained(name="constant, gamma 1", settings={"method": "adpa", "gamma": 1.0, "advantage": "constant"}),
    Trained(name="ADPA+, gamma 1", start="DCKD", rows="DCKD", settings={"method": "adpa", "gamma": 1.0}),
    Trained(name="hybrid", settings={"method": "hybrid"}),
)

#: By world: sizes of `--fast` and `--full`, the rows of the table, and those that `--all` adds.
PLANS: dict[str, tuple[Size, Size, tuple[Trained, ...], tuple[Trained, ...]]] = {
    "friendly": (FAST, FULL, MAIN_METHODS, FURTHER_METHODS),
    "constraints": (FAST_CONSTRAINTS, FULL_CONSTRAINTS, CONSTRAINTS_METHODS, ()),
}

#: The main ones once more, from the same student on the same rows in another order: how much training alone varies.
AGAIN = tuple(
    replace(method, name=f"{method.name}, again", settings={**method.settings, "seed": 1000})
    for method in METHODS
    if method.name in ("DCKD", "ABD", "SFT on chosen", "ADPA, gamma 3", "ADPA, gamma 1", "DPO")
)

#: Learning rates that `--tune` tries beside the size's own, as factors of it: three runs for each of `TUNED`.
RATE_FACTORS = (0.3, 3.0)

#: The methods that are tuned.
TUNED = (
    "SFT on chosen",
    "DPO",
    "SimPO",
    "vanilla KD",
    "DCKD",
    "ABD with NLL",
    "ADPA, gamma 1",
    "ADPA, gamma 3",
    "hybrid",
)


def at_rate(name: str, factor: float) -> str:
    """The name of a method at a factor of the learning rate."""
    return name if factor == 1 else f"{name}, rate × {factor:g}"


def at_other_rates(methods: Sequence[Trained]) -> tuple[Trained, ...]:
    """Those of `methods` that are tuned, once for each of the other rates."""
    return tuple(
        replace(method, name=at_rate(method.name, factor), rate_factor=factor)
        for method in methods
        for factor in RATE_FACTORS
        if method.name in TUNED
    )


#: Models that the table of tuning alone shows.
ONLY_FOR_TUNING = frozenset(at_rate(name, factor) for name in TUNED for factor in RATE_FACTORS)

#: Rows that claims are about, each against what it is claimed to be better than.
COMPARED = (
    ("teacher", "reference"),
    ("DCKD", "vanilla KD"),
    ("ADPA, gamma 3", "DCKD"),
    ("ADPA, gamma 3", "ADPA, gamma 1"),
    ("ADPA+", "ADPA, gamma 3"),
    ("ADPA, gamma 3", "constant advantage"),
    ("ADPA, gamma 3", "SFT on chosen"),
    ("ADPA, gamma 3", "DPO"),
    ("ADPA, gamma 3", "SimPO"),
    ("ADPA, gamma 3", "teacher"),
    ("hybrid", "ADPA, gamma 3"),
    ("ADPA, gamma 1", "DCKD"),
    ("ADPA, gamma 1", "SFT on chosen"),
    ("ADPA, gamma 1", "DPO"),
    ("ADPA, gamma 1", "teacher"),
    ("ADPA, gamma 1", "constant, gamma 1"),
    ("ADPA, gamma 1", "ABD with NLL"),
    ("ADPA+, gamma 1", "ADPA, gamma 1"),
    ("hybrid", "ADPA, gamma 1"),
    ("ABD", "DCKD"),
    ("ABD with NLL", "DCKD"),
    ("ABD with NLL", "ABD"),
    ("ABD with NLL", "SFT on chosen"),
    ("DCKD", "SFT on chosen"),
    ("ABD with NLL", "vanilla KD"),
    ("ABD on chosen", "vanilla KD"),
    ("ABD on chosen", "ABD with NLL"),
    ("ABD on chosen", "SFT on chosen"),
    ("W2S on chosen", "SFT on chosen"),
    ("W2S on chosen", "ABD on chosen"),
    ("ADPA, gamma 3", "DPKD"),
    ("ADPA, gamma 3", "DPPO, token"),
    ("ADPA, gamma 1", "DPPO, token"),
    ("ADPA, gamma 1", "DPPO, sequence"),
    ("ADPA, two rounds", "ADPA, gamma 1"),
    ("ADPA, two rounds", "ADPA, one round of two"),
    ("ADPA, two rounds", "ADPA, one round, halved"),
    ("ADPA, one round, halved", "ADPA, gamma 1"),
    ("vanilla KD", "SFT on chosen"),
    ("ExOPD", "OPD"),
)

#: Where gains could be those of sharpening: the less sharp one is cooled to the other's entropy.
MATCHED = (
    ("ADPA, gamma 3", "DCKD"),
    ("ADPA, gamma 3", "teacher"),
    ("ADPA, gamma 3", "SFT on chosen"),
    ("ADPA, gamma 3", "DPO"),
    ("ADPA, gamma 3", "constant advantage"),
    ("ADPA, gamma 1", "DCKD"),
    ("ADPA, gamma 1", "teacher"),
    ("ADPA, gamma 1", "SFT on chosen"),
    ("ADPA, gamma 1", "DPO"),
    ("ADPA, gamma 1", "constant, gamma 1"),
    ("ABD with NLL", "DCKD"),
)

#: In the matrix of wins.
SHOWN = (
    "teacher",
    "student",
    "SFT on chosen",
    "DPO",
    "DCKD",
    "ABD",
    "ADPA, gamma 3",
    "ADPA, gamma 1",
    "ADPA+",
    "constant advantage",
    "constant, gamma 1",
    "ADPA+, gamma 1",
)
