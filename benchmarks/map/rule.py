"""Can the better of two methods be told from the signals before training? Thresholds on one figure, left-out cells.

python -m benchmarks.map.rule OUT [--methods "abd" "adpa, gamma 1"]
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.folders import folder_with
from benchmarks.map.figures import Cell, collect, prompt_rewards
from benchmarks.map.results import Results

Figures = Mapping[str, float]

FIGURES: Mapping[str, Callable[[Figures], float]] = {
    "ranking accuracy": lambda f: f["ranking_accuracy"],
    "advantage of chosen tokens": lambda f: f["advantage_chosen"],
    "its share of the teacher's own expected advantage": lambda f: (
        f["advantage_chosen"] / max(f["expected_advantage"], 1e-6)
    ),
    "that share, and 1 for teachers beyond 0.7 nats": lambda f: (
        f["advantage_chosen"] / max(f["expected_advantage"], 1e-6) if f["expected_advantage"] <= 0.7 else 1.0
    ),
    "teacher's expected advantage": lambda f: f["expected_advantage"],
    "advantage of chosen minus rejected": lambda f: f["advantage_chosen"] - f["advantage_rejected"],
    "teacher's NLL of chosen minus its entropy": lambda f: f["nll_chosen"] - f["entropy_teacher"],
    "teacher's NLL of chosen minus of student answers": lambda f: f["nll_chosen"] - f["nll_student"],
    "share of chosen tokens outside the support": lambda f: f["outside_chosen"],
    "advantage of student tokens": lambda f: f["advantage_student"],
}

"""What can be told before training, from the figures of `describe_signals`."""


@dataclass(frozen=True, slots=True)
class Case:
    """One cell with one seed.

    Attributes:
        cell: world, teacher, chosen.
        figures: of its signals.
        gain: score of the first method minus that of the second.
    """

    cell: Cell
    figures: Figures
    gain: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """Take the first method where a figure is above a value (or below it).

    Attributes:
        value: of the figure.
        above: whether the first method is for figures above it.
    """

    value: float
    above: bool

    def takes_first(self, figure: float) -> bool:
        """Whether the first method is recommended."""
        return (figure > self.value) == self.above


def cases_of(results: Results, first: str, second: str, measures: Sequence[str]) -> list[Case]:
    """Every cell and seed with both methods; the score is the mean reward over the measures."""
    cells = collect(results)
    found = []
    for line in results:
        if line["kind"] != "signals":
            continue
        cell = (line["world"], line["teacher"], line["chosen"])
        methods = cells.get(cell, {})
        both = [methods.get(name, {}).get(line["seed"]) for name in (first, second)]
        if None in both:
            continue
        scores = [np.mean([prompt_rewards(one or {}, m).mean() for m in measures]) for one in both]
        found.append(Case(cell, line["found"], float(scores[0] - scores[1])))
    return found


def fit_threshold(figures: Sequence[float], gains: Sequence[float]) -> Threshold:
    """The threshold that loses least reward: halfway between two neighbouring figures, or outside all of them."""
    order = np.unique(np.array(figures))
    candidates = [order[0] - 1, *((order[:-1] + order[1:]) / 2), order[-1] + 1]
    options = [Threshold(float(value), above) for value in candidates for above in (True, False)]

    def earned(option: Threshold) -> float:
        return float(sum(g for v, g in zip(figures, gains, strict=True) if option.takes_first(v)))

    return max(options, key=earned)


def leave_one_cell_out(cases: Sequence[Case], figure: Callable[[Figures], float]) -> tuple[float, float]:
    """Accuracy and mean reward lost against the better method, each cell judged by a threshold fitted without it."""
    right, lost = [], []
    for cell in {case.cell for case in cases}:
        rest = [case for case in cases if case.cell != cell]
        rule = fit_threshold([figure(case.figures) for case in rest], [case.gain for case in rest])
        for case in cases:
            if case.cell == cell:
                first = rule.takes_first(figure(case.figures))
                right.append(first == (case.gain > 0))
                lost.append(max(case.gain, 0) - (case.gain if first else 0))
    return float(np.mean(right)), float(np.mean(lost))


def rule_table(results: Results, first: str, second: str, measures: Sequence[str]) -> str:
    """One row for each figure, and one for always taking either method."""
    cases = cases_of(results, first, second, measures)
    if len({case.cell for case in cases}) < 2:
        return "Fewer than two cells: nothing to leave out."
    gains = np.array([case.gain for case in cases])
    num_cells = len({case.cell for case in cases})
    lines = [
        f"{first} against {second}, mean reward over {', '.join(measures)}; {len(cases)} cases of {num_cells} cells.",
        "",
        f"| figure | take {first} where it is | accuracy, cell left out | mean reward lost |",
        "| --- | --- | --- | --- |",
        f"| none: always {first} | | {np.mean(gains > 0):.2f} | {np.mean(np.maximum(-gains, 0)):.4f} |",
        f"| none: always {second} | | {np.mean(gains <= 0):.2f} | {np.mean(np.maximum(gains, 0)):.4f} |",
    ]
    for name, figure in FIGURES.items():
        accuracy, lost = leave_one_cell_out(cases, figure)
        rule = fit_threshold([figure(case.figures) for case in cases], gains.tolist())
        side = "above" if rule.above else "below"
        lines.append(f"| {name} | {side} {rule.value:.3f} | {accuracy:.2f} | {lost:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=folder_with("results.jsonl"), help="the map's folder")
    parser.add_argument("--methods", nargs=2, default=["abd", "adpa, gamma 1"])
    parser.add_argument("--measures", nargs="+", default=["sampled", "best", "greedy"])
    arguments = parser.parse_args()
    results = Results(arguments.out / "results.jsonl")
    first, second = arguments.methods
    print(rule_table(results, first, second, arguments.measures))


if __name__ == "__main__":
    main()
