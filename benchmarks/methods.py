"""Every method of train-student on a finished demo's data, and what each student is worth to the judge.

    python -m benchmarks.methods runs/demo --out runs/methods
    python -m benchmarks.methods runs/demo --out runs/clipped --method dppo-sequence --clip 1

Options that are not its own go to train-student.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from small_world.judge import Judge, judge_cached
from small_world.steps import Plan
from small_world.table import as_markdown, make_rows
from small_world.world import World
from student_training.methods import METHODS

COMMAND_LINE = Path(__file__).parent.parent / "cli.py"
BASELINE = "student SFT"
UNREPORTED = {"step", "epoch", "learning_rate", "tokens_per_second", "data_share", "tflops"}
"""Keys of metrics.jsonl that say nothing about what a method has reached."""


def command(method: str, demo: Path, out: Path, plan: Plan) -> list[str]:
    """The command line that trains one method: the demo's settings where it has some, else the defaults.

    Args:
        method: its name.
        demo: the finished demo's folder.
        out: where the student goes.
        plan: the demo's.
    """
    on_answers = method == "adpa" or method.startswith("dppo")
    signals = demo / "signals" / ("student-sft" if on_answers else "pairs")
    options = {
        "method": method,
        "student": demo / "models" / "student-sft",
        "signals": signals,
        "out": out,
        "learning-rate": plan.student_learning_rate,
        "warmup-steps": plan.warmup_steps,
        "max-steps": plan.student_steps,
        "batch-size": plan.batch_size,
        "save-steps": plan.student_steps,
        "threads": 1,
    }
    if method == "dpo":
        options["beta"] = plan.dpo_beta
    if method.startswith("dppo"):
        options["rollouts"] = demo / "rollouts" / "student-sft"
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, str(COMMAND_LINE), "train-student", *given]


def reached(out: Path) -> str:
    """What the last step's line of metrics.jsonl says of the method's terms."""
    last = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return ", ".join(f"{name} {value:.3g}" for name, value in last.items() if name not in UNREPORTED)


def main() -> None:
    """Train, judge, print two tables; what a folder holds already is not trained or judged again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path, help="folder of a finished `adpa demo`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the students")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="only these [all]")
    arguments, more = parser.parse_known_args()
    kept = json.loads((arguments.demo / "demo.json").read_text(encoding="utf-8"))
    seed = kept["seed"]
    plan = Plan(**{field.name: kept[field.name] for field in dataclasses.fields(Plan)})
    judge = Judge(World(seed), num_prompts=plan.judged_prompts, num_samples=plan.judged_samples, seed=seed)
    verdicts = {
        BASELINE: judge_cached(
            judge, arguments.demo / "models" / "student-sft", arguments.out / "verdicts" / "student-sft.json"
        )
    }
    print("| method | the last step's line |\n| --- | --- |")
    for method in arguments.method or METHODS:
        out = arguments.out / method
        subprocess.run(
            [*command(method, arguments.demo, out, plan), *more], check=True, stdout=subprocess.DEVNULL
        )
        verdicts[method] = judge_cached(judge, out, arguments.out / "verdicts" / f"{method}.json")
        print(f"| {method} | {reached(out)} |", flush=True)
    print()
    print(as_markdown(make_rows(verdicts, baseline=BASELINE)))


if __name__ == "__main__":
    main()
