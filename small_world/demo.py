"""The whole pipeline on a small world, from a world's birth to a table of what each method is worth."""

import time
from collections.abc import Callable
from pathlib import Path

from data.errors import TrainingError
from small_world.beginnings import make_beginnings
from small_world.judge import Judge, Verdict
from small_world.models import MAX_ANSWER_TOKENS
from small_world.options import DemoOptions
from small_world.out_of_reach import bring_back, out_of_reach
from small_world.plan import FAST, FULL, Plan
from small_world.results import summary, write_results
from small_world.table import Row, make_rows
from small_world.verdicts import judge_once
from small_world.workshop import Workshop
from small_world.world import World

__all__ = ["DemoOptions", "run_demo"]

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
    plan = FAST if options.fast else FULL
    world = World(options.seed)
    shop = Workshop(Path(options.out), seed=options.seed, plan=plan, report=report)
    judge = Judge(world, plan.judged_prompts, plan.judged_samples, seed=options.seed)

    def verdict(name: str) -> Verdict:
        return judge_once(judge, shop.model(name), shop.verdict(name))

    teachers = (shop.model("teacher"), shop.model("reference"))
    bring_back(*teachers)
    report(f"small world {options.seed}: data and untrained models")
    make_beginnings(shop, world, plan)
    report("reference and student: supervised training on what people write")
    _train_supervised(shop, plan)
    report("teacher: the reference aligned to preferences by DPO")
    _align_teacher(shop, plan)
    _check_teacher(verdict("teacher"), verdict("reference"))
    report("stage one: teacher and reference score the preference pairs")
    shop.score("pairs", data=shop.data("pairs"), roles=("chosen", "rejected"))
    report("students that learn from pairs, with teacher and reference out of reach")
    with out_of_reach(*teachers):
        _train_on_pairs(shop, plan)
    for name, start in (("student-adpa", "student-sft"), ("student-adpa-plus", "student-dckd")):
        report(f"{_TITLES[name]}: {_TITLES[start]} answers, the teacher scores, the student learns")
        shop.sample(start, data=shop.data("pairs"), max_new_tokens=MAX_ANSWER_TOKENS)
        shop.score(start, data=shop.data("pairs"), roles=("student",), rollouts=start)
        with out_of_reach(*teachers):
            _train_on_answers(shop, plan, name, start)
    report(f"judging on {plan.judged_prompts:,} held-out prompts")
    rows = make_rows(
        {title: verdict(name) for name, title in _TITLES.items()}, baseline=_TITLES["student-sft"]
    )
    write_results(shop, rows)
    report(summary(shop, rows))
    report(f"{time.monotonic() - started:.0f} s in all")
    return rows


def _train_supervised(shop: Workshop, plan: Plan) -> None:
    conversations = str(shop.data("conversations"))
    shop.train(
        "reference",
        start="untrained-teacher",
        method="sft",
        data=conversations,
        steps=plan.reference_steps,
        learning_rate=plan.reference_learning_rate,
    )
    shop.train(
        "student-sft",
        start="untrained-student",
        method="sft",
        data=conversations,
        steps=plan.student_sft_steps,
        learning_rate=plan.student_sft_learning_rate,
    )


def _align_teacher(shop: Workshop, plan: Plan) -> None:
    shop.train(
        "teacher",
        start="reference",
        method="dpo",
        data=str(shop.data("pairs")),
        beta=plan.dpo_beta,
        steps=plan.teacher_steps,
        learning_rate=plan.teacher_learning_rate,
    )


def _check_teacher(teacher: Verdict, reference: Verdict) -> None:
    for kind in ("sampled", "greedy"):
        ours, theirs = getattr(teacher, kind).mean(), getattr(reference, kind).mean()
        if ours <= theirs:
            raise TrainingError(
                f"the aligned teacher earns {ours:.3f} with {kind} answers, its reference {theirs:.3f}: "
                "nothing to teach, so the demo stops; give its DPO more steps in small_world/plan.py"
            )


def _train_on_pairs(shop: Workshop, plan: Plan) -> None:
    pairs, signals = str(shop.data("pairs")), shop.signals("pairs")
    shared = {
        "start": "student-sft",
        "steps": plan.student_steps,
        "learning_rate": plan.student_learning_rate,
    }
    shop.train("student-chosen", method="sft", data=pairs, **shared)
    shop.train("student-dpo", method="dpo", data=pairs, beta=plan.dpo_beta, **shared)
    shop.train("student-dckd", method="dckd", signals=signals, alpha=plan.kl_weight, **shared)
    shop.train("student-abd", method="abd", signals=signals, boost=plan.boost, clip=plan.boost_clip, **shared)


def _train_on_answers(shop: Workshop, plan: Plan, name: str, start: str) -> None:
    shop.train(
        name,
        start=start,
        method="adpa",
        signals=shop.signals(start),
        gamma=plan.advantage_weight,
        clip=plan.advantage_clip,
        steps=plan.student_steps,
        learning_rate=plan.student_learning_rate,
    )
