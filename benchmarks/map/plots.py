"""Plots of the map: which method wins where, and how that goes with what the signals say before training.

python -m benchmarks.map.plots OUT --to docs/images
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.folders import folder_with
from benchmarks.map.figures import Cell, collect, mean_of, paired_difference
from benchmarks.map.plan.methods import CORE
from benchmarks.map.plan.sizes import CHOSEN, TEACHERS
from benchmarks.map.results import Results
from benchmarks.map.rule import FIGURES

_MEASURES = ("sampled", "best", "greedy")

_WORLDS = ("topics", "menus")


def plot_map(results: Results, path: Path, *, ours: str, theirs: str) -> None:
    """One panel for each world and measure: the difference of two methods by cell, and each cell's best method.

    Args:
        results: of the map.
        path: the SVG file.
        ours: a method; cells where it is ahead are blue.
        theirs: the other; cells where it is ahead are red.
    """
    cells = collect(results)
    figure, axes = plt.subplots(len(_WORLDS), len(_MEASURES), figsize=(10, 6.4), layout="constrained")
    image = None
    for row, world in enumerate(_WORLDS):
        for column, measure in enumerate(_MEASURES):
            image = _panel(axes[row, column], cells, world, measure, ours, theirs)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.7, label=f"mean reward, {ours} minus {theirs}")
    _save(figure, path)


def plot_rule(results: Results, path: Path, *, figure_name: str, ours: str, theirs: str) -> None:
    """Difference of two methods against one of `FIGURES`; one point for each world, seed and cell."""
    cells = collect(results)
    figure, axes = plt.subplots(1, len(_MEASURES), figsize=(10, 3.4), layout="constrained", sharex=True)
    for axis, measure in zip(axes, _MEASURES, strict=True):
        for world, marker in zip(_WORLDS, "os", strict=True):
            points = []
            for line in results:
                if line["kind"] != "signals" or line["world"] != world:
                    continue
                found = cells.get((world, line["teacher"], line["chosen"]), {})
                seed = line["seed"]
                if all(seed in found.get(name, {}) for name in (ours, theirs)):
                    first, second = ({seed: found[name][seed]} for name in (ours, theirs))
                    difference = paired_difference(first, second, measure)
                    assert difference is not None
                    points.append((FIGURES[figure_name](line["found"]), difference.mean))
            if points:
                axis.scatter(*np.array(points).T, marker=marker, s=22, label=world)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set_title(measure)
        axis.set_xlabel("chosen tokens' advantage / teacher's own", fontsize=8)
    axes[0].set_ylabel(f"{ours} minus {theirs}")
    axes[0].legend()
    _save(figure, path)


def _panel(axis: Any, cells: dict[Cell, Any], world: str, measure: str, ours: str, theirs: str) -> Any:
    values = np.full((len(CHOSEN), len(TEACHERS)), np.nan)
    for y, chosen in enumerate(CHOSEN):
        for x, teacher in enumerate(TEACHERS):
            found = cells.get((world, teacher, chosen), {})
            difference = paired_difference(found.get(ours, {}), found.get(theirs, {}), measure)
            if difference is None:
                continue
            values[y, x] = difference.mean
            best = max((name for name in CORE if name in found), key=lambda n: mean_of(found[n], measure))
            axis.text(x, y, f"{difference.mean:+.3f}\nbest: {best}", ha="center", va="center", fontsize=7)
    image = axis.imshow(values, cmap="RdBu", vmin=-0.15, vmax=0.15, origin="lower")
    axis.set_xticks(range(len(TEACHERS)), TEACHERS)
    axis.set_yticks(range(len(CHOSEN)), CHOSEN)
    axis.set_title(f"{world}: {measure}", fontsize=9)
    axis.set_xlabel("teacher", fontsize=8)
    axis.set_ylabel("chosen answers", fontsize=8)
    return image


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date and no random ids: the same results give the same file.
    plt.rcParams["svg.hashsalt"] = "map"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Draw both plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=folder_with("results.jsonl"), help="the map's folder")
    parser.add_argument("--to", type=Path, required=True, help="folder for the SVG files")
    arguments = parser.parse_args()
    results = Results(arguments.out / "results.jsonl")
    plot_map(results, arguments.to / "map.svg", ours="adpa, gamma 1", theirs="abd")
    plot_rule(
        results,
        arguments.to / "map_rule.svg",
        figure_name="that share, and 1 for teachers beyond 0.7 nats",
        ours="adpa, gamma 1",
        theirs="abd",
    )


if __name__ == "__main__":
    main()
