"""Curves of three real runs side by side: a healthy one, a sharpened one and a collapsed one.

    python -m benchmarks.real_text.reading_a_run runs/real-text/friendly-0-fast --out docs/images/reading_a_run.svg

Trains the three on the student and signals of a finished comparison (benchmarks.real_text), unless they are there.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from benchmarks.folders import folder_with

# The same figure from the same numbers, to the byte.
matplotlib.rcParams["svg.hashsalt"] = "adpa"
matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a third of the size

_COMMAND_LINE = Path(__file__).parents[2] / "cli.py"

#: The options that tell the runs apart.
RUNS = {
    "healthy": ("--gamma", "1", "--learning-rate", "3e-4"),
    "sharpened": ("--gamma", "10", "--learning-rate", "3e-4"),
    "collapsed": ("--gamma", "30", "--clip", "none", "--learning-rate", "1e-3"),
}
_STEPS = 24

#: Metric, its yardstick from the teacher if there is one, and what the axis says.
_PANELS = (
    ("loss/nll", None, "NLL of chosen answers, nats"),
    ("expected_advantage", "teacher_expected_advantage", "expected advantage, nats"),
    ("support_entropy", "teacher_support_entropy", "entropy on the support, nats"),
    ("end_rate", "teacher_end_rate", "probability of the end"),
    ("rollout_ess", None, "effective sample of rollouts"),
)


def train_runs(folder: Path, out: Path) -> dict[str, list[dict[str, Any]]]:
    """Lines of metrics.jsonl of each run.

    Args:
        folder: of a comparison, with its student, signals and the rollouts that they were scored on.
        out: folder for the runs; finished ones are not trained again.
    """
    lines = {}
    for name, options in RUNS.items():
        command = [
            *("train-student", "--method", "adpa", *options, "--out", str(out / name)),
            *(
                "--student",
                str(folder / "models" / "student"),
                "--signals",
                str(folder / "signals" / "pairs"),
            ),
            *("--rollouts", str(folder / "rollouts" / "student-data-1")),
            *(
                "--warmup-steps",
                "2",
                "--max-steps",
                str(_STEPS),
                "--logging-steps",
                "1",
                "--save-minutes",
                "0",
            ),
        ]
        subprocess.run([sys.executable, str(_COMMAND_LINE), *command], check=True)
        text = (out / name / "metrics.jsonl").read_text()
        lines[name] = [json.loads(line) for line in text.splitlines()]
    return lines


def plot_runs(runs: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """One panel for each metric; dashed is the teacher, on the same positions."""
    figure, axes = plt.subplots(1, len(_PANELS), figsize=(2.6 * len(_PANELS), 2.6), layout="constrained")
    for axis, (metric, yardstick, label) in zip(axes, _PANELS, strict=True):
        for name, lines in runs.items():
            axis.plot(*_curve(lines, metric), label=name, linewidth=1.4)
        if yardstick is not None:
            axis.plot(*_curve(runs["healthy"], yardstick), "k--", linewidth=1, label="teacher")
        axis.set_title(label, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("step", fontsize=7)
    axes[1].legend(fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)
    print(out)


def _curve(lines: list[dict[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    points = [(line["step"], line[metric]) for line in lines if metric in line]
    return [step for step, _ in points], [value for _, value in points]


def main() -> None:
    """Train what is missing and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=folder_with("results.json"), help="folder of a comparison: its world, seed and size"
    )
    parser.add_argument("--runs", type=Path, help="folder for the three runs [FOLDER/reading]")
    parser.add_argument("--out", type=Path, required=True, help="the picture, .svg")
    options = parser.parse_args()
    plot_runs(train_runs(options.folder, options.runs or options.folder / "reading"), options.out)


if __name__ == "__main__":
    main()
