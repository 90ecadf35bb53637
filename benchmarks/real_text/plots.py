"""Plots of finished runs, over their seeds: rewards with intervals, and reward against entropy.

python -m benchmarks.real_text.plots runs/real-text/friendly-[0-2]-fast --out docs/images
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt

from benchmarks.folders import folder_with
from benchmarks.real_text.judging import Comparison, pooled
from benchmarks.real_text.tables import read_results

# The same figure from the same numbers, to the byte.
matplotlib.rcParams["svg.hashsalt"] = "adpa"
_METADATA: dict[str, Any] = {"Date": None}

_MADE_BEFORE = ("reference", "teacher", "student")


def plot_rewards(together: Comparison, out: Path) -> None:
    """Mean reward of every model, sampled at temperature 1 and greedily, with 95% intervals over prompts."""
    models = list(together)[::-1]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.32 * len(models)), layout="constrained")
    for shift, (temperature, label) in enumerate(((1.0, "T = 1"), (0.0, "greedy"))):
        found = [together[model][temperature].mean() for model in models]
        values = np.array([each.value for each in found])
        errors = [values - [each.low for each in found], [each.high for each in found] - values]
        places = np.arange(len(models)) + 0.15 - 0.3 * shift
        axes.errorbar(values, places, xerr=errors, fmt="o" if shift == 0 else "s", markersize=4, label=label)
    axes.set_yticks(np.arange(len(models)), models)
    axes.set_xlabel("mean reward on held-out prompts")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    _save(figure, out)


def plot_entropy(together: Comparison, out: Path) -> None:
    """Reward against sharpness: each model at its temperatures, from 1 down to greedy.

    A method that only sharpens moves along the line of the model that it started from; one that learns is above it.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for model, found in together.items():
        axes.plot(
            [found[1.0].nll, found[0.5].entropy, 0.0],
            [found[temperature].mean().value for temperature in (1.0, 0.5, 0.0)],
            marker="o",
            markersize=3,
            linestyle="--" if model in _MADE_BEFORE else "-",
            label=model,
        )
    axes.set_xlabel("entropy, nats a token: T = 1, 0.5, greedy from right to left")
    axes.set_ylabel("mean reward")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata=_METADATA)
    plt.close(figure)
    print(out)


def main() -> None:
    """Read results.json of every run and write the plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=folder_with("results.json"), help="folders of one world, one for each seed"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    together = pooled([read_results(run / "results.json")[0] for run in options.runs])
    world = options.runs[0].name.partition("-")[0]
    plot_rewards(together, options.out / f"real_text_{world}_rewards.svg")
    plot_entropy(together, options.out / f"real_text_{world}_entropy.svg")


if __name__ == "__main__":
    main()
