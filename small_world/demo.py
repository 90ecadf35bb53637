"""The demo: build a synthetic task, train with every method, compare."""

import functools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.errors import TrainingError
from small_world.judge import Judge, Verdict, judge_cached
from small_world.models import MAX_ANSWER_TOKENS
from small_world.options import DemoOptions
from small_world.steps import FAST, FULL, DemoSteps, Plan, ProcessPool, Step, write_initial_data
from small_world.table import Row, make_rows, summary, write_results
from small_world.world import World

logger = logging.getLogger(__name__)

# Models in the table's order, by the names of their folders.
_TITLES = {
    "reference": "reference (teacher SFT)",
    "teacher": "teacher (reference + DPO)",
    "student-sft": "student SFT",
    "student-chosen": "SFT on chosen",
    "student-dpo": "DPO on student",
    "student-dckd": "DCKD",
    "student-abd": "ABD",
    "student-adpa": "ADPA",
    "student-adpa-plus": "ADPA+",
}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """A finished demo.

    Attributes:
        out: its folder.
        rows: the table's.
        commands: the command line of every step, in order.
        seconds: that it took.
    """

    out: Path
    rows: tuple[Row, ...]
    commands: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        return f"{summary(self.out, self.commands, self.rows)}\n{self.seconds:.0f} s in all"


def run_demo(options: DemoOptions) -> DemoResult:
    """Make a small world, take a teacher's preferences to students the public way, and compare.

    Args:
        options: where, which world, how much.
    Raises:
        ConfigurationError: when the folder holds another demo.
        TrainingError: when the aligned teacher is no better than its reference: nothing to teach.
    """
    started = time.monotonic()
    with ProcessPool(options.workers) as pool:
        steps, rows = _run(options, pool)
    return DemoResult(steps.out, tuple(rows), tuple(steps.commands), time.monotonic() - started)


def _run(options: DemoOptions, pool: ProcessPool) -> tuple[DemoSteps, list[Row]]:
    plan = FAST if options.fast else FULL
    world = World(options.seed)
    steps = DemoSteps(Path(options.out), seed=options.seed, plan=plan, pool=pool)
    judge = Judge(world, plan.judged_prompts, plan.judged_samples, seed=options.seed)

    def verdicts(*names: str) -> list[Verdict]:
        return pool.run(
            [functools.partial(judge_cached, judge, steps.model(n), steps.verdict(n)) for n in names]
        )

    teachers = (steps.model("teacher"), steps.model("reference"))
    unhide_folders(*teachers)
    logger.info(f"small world {options.seed}: data and untrained models")
    write_initial_data(steps, world, plan)
    logger.info("reference and student: supervised training on what people write")
    _train_supervised(steps, plan)
    logger.info("teacher: the reference aligned to preferences by DPO; meanwhile the student answers")
    _align_teacher(steps, plan)
    check_teacher(*verdicts("teacher", "reference"))
    logger.info("stage one: teacher and reference score the preference pairs and the student's answers")
    _score(steps)
    logger.info("students, while the folders of teacher and reference cannot be read")
    with hidden_folders(*teachers):
        steps.run(*_students(steps, plan))
    logger.info(
        f"{_TITLES['student-adpa-plus']}: {_TITLES['student-dckd']} answers, the teacher scores, it learns"
    )
    steps.run(steps.sample("student-dckd", data=steps.data("pairs"), max_new_tokens=MAX_ANSWER_TOKENS))
    steps.run(_score_answers(steps, "student-dckd"))
    with hidden_folders(*teachers):
        steps.run(_adpa(steps, plan, "student-adpa-plus", "student-dckd"))
    logger.info(f"judging on {plan.judged_prompts:,} held-out prompts")
    found = dict(zip(_TITLES.values(), verdicts(*_TITLES), strict=True))
    rows = make_rows(found, baseline=_TITLES["student-sft"])
    write_results(steps, rows)
    return steps, rows


def _train_supervised(steps: DemoSteps, plan: Plan) -> None:
    conversations = str(steps.data("conversations"))
    steps.run(
        steps.train(
            "reference",
            start="untrained-teacher",
            method="sft",
            data=conversations,
            steps=plan.reference_steps,
            learning_rate=plan.reference_learning_rate,
        ),
        steps.train(
            "student-sft",
            start="untrained-student",
            method="sft",
            data=conversations,
            steps=plan.student_sft_steps,
            learning_rate=plan.student_sft_learning_rate,
        ),
    )


def _align_teacher(steps: DemoSteps, plan: Plan) -> None:
    steps.run(
        steps.train(
            "teacher",
            start="reference",
            method="dpo",
            data=str(steps.data("pairs")),
            beta=plan.dpo_beta,
            steps=plan.teacher_steps,
            learning_rate=plan.teacher_learning_rate,
        ),
        steps.sample("student-sft", data=steps.data("pairs"), max_new_tokens=MAX_ANSWER_TOKENS),
    )


def check_teacher(teacher: Verdict, reference: Verdict) -> None:
    """Refuse to go on with an aligned teacher that is no better than its reference, sampled or greedy.

    Raises:
        TrainingError: with both rewards.
    """
    for kind in ("sampled", "greedy"):
        ours, theirs = getattr(teacher, kind).mean(), getattr(reference, kind).mean()
        if ours <= theirs:
            raise TrainingError(
                f"the aligned teacher earns {ours:.3f} with {kind} answers, its reference {theirs:.3f}: "
                "nothing to teach, so the demo stops; give its DPO more steps in small_world/steps.py"
            )


def _score(steps: DemoSteps) -> None:
    pairs = steps.score("pairs", data=steps.data("pairs"), roles=("chosen", "rejected"))
    steps.run(pairs, _score_answers(steps, "student-sft"))


def _score_answers(steps: DemoSteps, name: str) -> Step:
    return steps.score(name, data=steps.data("pairs"), roles=("student",), rollouts=name)


def _students(steps: DemoSteps, plan: Plan) -> list[Step]:
    """The methods that start from the supervised student, the longest first."""
    pairs, signals = str(steps.data("pairs")), steps.signals("pairs")
    shared = {
        "start": "student-sft",
        "steps": plan.student_steps,
        "learning_rate": plan.student_learning_rate,
    }
    return [
        steps.train("student-dpo", method="dpo", data=pairs, beta=plan.dpo_beta, **shared),
        steps.train("student-dckd", method="dckd", signals=signals, alpha=plan.kl_weight, **shared),
        steps.train(
            "student-abd",
            method="abd",
            signals=signals,
            boost=plan.boost,
            clip=plan.boost_clip,
            nll_weight=plan.boost_nll_weight,
            **shared,
        ),
        _adpa(steps, plan, "student-adpa", "student-sft"),
        steps.train("student-chosen", method="sft", data=pairs, **shared),
    ]


def _adpa(steps: DemoSteps, plan: Plan, name: str, start: str) -> Step:
    return steps.train(
        name,
        start=start,
        method="adpa",
        signals=steps.signals(start),
        gamma=plan.advantage_weight,
        clip=plan.advantage_clip,
        steps=plan.student_steps,
        learning_rate=plan.student_learning_rate,
    )


_SUFFIX = ".moved-aside"


@contextmanager
def hidden_folders(*folders: Path) -> Iterator[None]:
    """Rename folders while the block runs, and name them back however it ends.

    A killed process cannot clean up: `unhide_folders` does so at the next start.
    """
    try:
        for folder in folders:
            folder.rename(_aside(folder))
        yield
    finally:
        unhide_folders(*folders)


def unhide_folders(*folders: Path) -> None:
    """Give moved folders their names again; those in their place stay as they are."""
    for folder in folders:
        if _aside(folder).exists():
            _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + _SUFFIX)
