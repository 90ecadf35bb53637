"""The demo: build a synthetic task, train with every method, compare."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import TrainingError
from small_world.judge import Judge, Verdict, judge_once
from small_world.models import MAX_ANSWER_TOKENS
from small_world.options import DemoOptions
from small_world.steps import FAST, FULL, Crew, Plan, Step, Workshop, make_beginnings
from small_world.table import Row, make_rows, summary, write_results
from small_world.world import World

__all__ = ["DemoOptions", "bring_back", "check_teacher", "out_of_reach", "run_demo"]


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


def run_demo(options: DemoOptions, *, report: Callable[[str], None] = print) -> list[Row]:
    """Make a small world, take a teacher's preferences to students the public way, and compare.

    Args:
        options: where, which world, how much.
        report: takes lines for the user.
    Returns:
        The table's rows.
    Raises:
        ConfigurationError: when the folder holds another demo.
        TrainingError: when the aligned teacher is no better than its reference: nothing to teach.
    """
    started = time.monotonic()
    with Crew(options.workers) as crew:
        return _run(options, crew, started, report)


def _run(options: DemoOptions, crew: Crew, started: float, report: Callable[[str], None]) -> list[Row]:
    plan = FAST if options.fast else FULL
    world = World(options.seed)
    shop = Workshop(Path(options.out), seed=options.seed, plan=plan, crew=crew, report=report)
    judge = Judge(world, plan.judged_prompts, plan.judged_samples, seed=options.seed)

    def verdicts(*names: str) -> list[Verdict]:
        return crew.run([functools.partial(judge_once, judge, shop.model(n), shop.verdict(n)) for n in names])

    teachers = (shop.model("teacher"), shop.model("reference"))
    bring_back(*teachers)
    report(f"small world {options.seed}: data and untrained models")
    make_beginnings(shop, world, plan)
    report("reference and student: supervised training on what people write")
    _train_supervised(shop, plan)
    report("teacher: the reference aligned to preferences by DPO; meanwhile the student answers")
    _align_teacher(shop, plan)
    check_teacher(*verdicts("teacher", "reference"))
    report("stage one: teacher and reference score the preference pairs and the student's answers")
    _score(shop)
    report("students, with teacher and reference out of reach")
    with out_of_reach(*teachers):
        shop.run(*_students(shop, plan))
    report(
        f"{_TITLES['student-adpa-plus']}: {_TITLES['student-dckd']} answers, the teacher scores, it learns"
    )
    shop.run(shop.sample("student-dckd", data=shop.data("pairs"), max_new_tokens=MAX_ANSWER_TOKENS))
    shop.run(_score_answers(shop, "student-dckd"))
    with out_of_reach(*teachers):
        shop.run(_adpa(shop, plan, "student-adpa-plus", "student-dckd"))
    report(f"judging on {plan.judged_prompts:,} held-out prompts")
    found = dict(zip(_TITLES.values(), verdicts(*_TITLES), strict=True))
    rows = make_rows(found, baseline=_TITLES["student-sft"])
    write_results(shop, rows)
    report(summary(shop, rows))
    report(f"{time.monotonic() - started:.0f} s in all")
    return rows


def _train_supervised(shop: Workshop, plan: Plan) -> None:
    conversations = str(shop.data("conversations"))
    shop.run(
        shop.train(
            "reference",
            start="untrained-teacher",
            method="sft",
            data=conversations,
            steps=plan.reference_steps,
            learning_rate=plan.reference_learning_rate,
        ),
        shop.train(
            "student-sft",
            start="untrained-student",
            method="sft",
            data=conversations,
            steps=plan.student_sft_steps,
            learning_rate=plan.student_sft_learning_rate,
        ),
    )


def _align_teacher(shop: Workshop, plan: Plan) -> None:
    shop.run(
        shop.train(
            "teacher",
            start="reference",
            method="dpo",
            data=str(shop.data("pairs")),
            beta=plan.dpo_beta,
            steps=plan.teacher_steps,
            learning_rate=plan.teacher_learning_rate,
        ),
        shop.sample("student-sft", data=shop.data("pairs"), max_new_tokens=MAX_ANSWER_TOKENS),
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
                "nothing to teach, so the demo stops; give its DPO more steps in small_world/plan.py"
            )


def _score(shop: Workshop) -> None:
    pairs = shop.score("pairs", data=shop.data("pairs"), roles=("chosen", "rejected"))
    shop.run(pairs, _score_answers(shop, "student-sft"))


def _score_answers(shop: Workshop, name: str) -> Step:
    return shop.score(name, data=shop.data("pairs"), roles=("student",), rollouts=name)


def _students(shop: Workshop, plan: Plan) -> list[Step]:
    """The methods that start from the supervised student, the longest first."""
    pairs, signals = str(shop.data("pairs")), shop.signals("pairs")
    shared = {
        "start": "student-sft",
        "steps": plan.student_steps,
        "learning_rate": plan.student_learning_rate,
    }
    return [
        shop.train("student-dpo", method="dpo", data=pairs, beta=plan.dpo_beta, **shared),
        shop.train("student-dckd", method="dckd", signals=signals, alpha=plan.kl_weight, **shared),
        shop.train(
            "student-abd", method="abd", signals=signals, boost=plan.boost, clip=plan.boost_clip, **shared
        ),
        _adpa(shop, plan, "student-adpa", "student-sft"),
        shop.train("student-chosen", method="sft", data=pairs, **shared),
    ]


def _adpa(shop: Workshop, plan: Plan, name: str, start: str) -> Step:
    return shop.train(
        name,
        start=start,
        method="adpa",
        signals=shop.signals(start),
        gamma=plan.advantage_weight,
        clip=plan.advantage_clip,
        steps=plan.student_steps,
        learning_rate=plan.student_learning_rate,
    )


_SUFFIX = ".moved-aside"


@contextmanager
def out_of_reach(*folders: Path) -> Iterator[None]:
    """Rename folders while the block runs, and name them back however it ends.

    A killed process cannot clean up: `bring_back` does so at the next start.
    """
    try:
        for folder in folders:
            folder.rename(_aside(folder))
        yield
    finally:
        bring_back(*folders)


def bring_back(*folders: Path) -> None:
    """Give moved folders their names again; those in their place stay as they are."""
    for folder in folders:
        if _aside(folder).exists():
            _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + _SUFFIX)
