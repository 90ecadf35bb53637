"""The map's results as Markdown tables."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.map.figures import MEASURES, Cell, collect, mean_of, paired_difference, prompt_rewards
from benchmarks.map.plan import METHODS, NO_TEACHER
from benchmarks.map.results import Results

__all__ = ["CONTRASTS", "base_table", "contrast_table", "means_table", "signals_table", "write_tables"]

CONTRASTS = (
    ("abd", "dckd"),
    ("abd, NLL", "abd"),
    ("adpa, gamma 1", "dckd"),
    ("adpa, gamma 1", "abd"),
    ("adpa, gamma 1", "adpa, gamma 3"),
    ("adpa+", "adpa, gamma 3"),
    ("adpa, gamma 1", "sft"),
    ("abd", "sft"),
)

"""Pairs of methods whose difference is shown for every cell."""

_TITLES = {
    "sampled": "reward at temperature 1",
    "best": "reward at each method's best temperature",
    "greedy": "reward of greedy answers",
    "matched": "reward at the world's common entropy",
}


def write_tables(results: Results, folder: Path) -> Path:
    """Write every table into one file, `tables.md`, from what has been measured so far."""
    cells = collect(results)
    parts = [
        f"# The map's tables\n\n{len(cells)} cells.",
        f"## Where it starts\n\n{base_table(results)}",
        *(f"## Mean {_TITLES[m]}\n\n{means_table(cells, m)}" for m in MEASURES),
        *(f"## Paired differences, {_TITLES[m]}\n\n{contrast_table(cells, m)}" for m in MEASURES),
        f"## Distances, preferences and length\n\n{distance_table(cells)}",
        f"## The signals before training\n\n{signals_table(results)}",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tables.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def base_table(lines: Iterable[dict[str, Any]]) -> str:
    """Rewards of student, reference and teachers before anything is distilled, and of the chosen answers."""
    rows = []
    for line in sorted(lines, key=lambda line: (line["world"], line["seed"])):
        about = [line["world"], str(line["seed"])]
        if line["kind"] == "chosen":
            found = line["found"]
            rows.append([*about, f"answers, {line['chosen']}", f"{found['chosen']:.3f}", "", "", "", ""])
        elif line["kind"] == "model" and line["method"] in ("initial", "reference", "teacher"):
            found = line["found"]
            name = f"teacher, {line['teacher']}" if line["teacher"] != NO_TEACHER else line["method"]
            means = [f"{prompt_rewards(found, measure).mean():.3f}" for measure in MEASURES]
            rows.append([*about, name, *means, f"{found['entropy']:.2f}"])
    return _markdown(("world", "seed", "what", *MEASURES, "entropy"), rows)


def means_table(cells: Mapping[Cell, Any], measure: str) -> str:
    """Mean reward of each method by cell, over the seeds that the cell has; the best one in bold."""
    methods = [name for name in METHODS if any(name in found for found in cells.values())]
    rows = []
    for cell, found in cells.items():
        means = {name: mean_of(found[name], measure) for name in methods if name in found}
        best = max(means.values())
        texts = [_bold(means.get(name), best) for name in methods]
        seeds = {len(found[name]) for name in means}
        rows.append([*cell, "-".join(str(n) for n in sorted({min(seeds), max(seeds)})), *texts])
    return _markdown(("world", "teacher", "chosen", "seeds", *methods), rows)


def contrast_table(
    cells: Mapping[Cell, Any], measure: str, contrasts: Sequence[tuple[str, str]] = CONTRASTS
) -> str:
    """Paired differences of methods by cell, with 95% intervals and how many seeds agree in sign."""
    rows = []
    for cell, found in cells.items():
        differences = [
            paired_difference(found.get(ours, {}), found.get(theirs, {}), measure)
            for ours, theirs in contrasts
        ]
        rows.append([*cell, *("" if one is None else str(one) for one in differences)])
    titles = [f"{ours} − {theirs}" for ours, theirs in contrasts]
    return _markdown(("world", "teacher", "chosen", *titles), rows)


def distance_table(cells: Mapping[Cell, Any]) -> str:
    """Entropy, distances, preference accuracy and length of each method by cell, means over seeds."""
    names = ("entropy", "kl_teacher", "kl_initial", "preference_accuracy", "length")
    rows = []
    for cell, found in cells.items():
        for method, seeds in found.items():
            values = [[one[name] for one in seeds.values() if name in one] for name in names]
            rows.append([*cell, method, *(f"{np.mean(each):.2f}" if each else "" for each in values)])
    return _markdown(("world", "teacher", "chosen", "method", *names), rows)


def signals_table(lines: Iterable[dict[str, Any]]) -> str:
    """What signals say before training, one row for each dataset."""
    rows, names = [], None
    for line in lines:
        if line["kind"] == "signals":
            names = names or list(line["found"])
            about = [line["world"], str(line["seed"]), line["teacher"], line["chosen"]]
            rows.append([*about, *(f"{line['found'][name]:.3f}" for name in names)])
    return _markdown(("world", "seed", "teacher", "chosen", *(names or ())), rows)


def _bold(value: float | None, best: float) -> str:
    if value is None:
        return ""
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Draw the tables of a map that is made or being made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the map's folder")
    arguments = parser.parse_args()
    print(write_tables(Results(arguments.out / "results.jsonl"), arguments.out / "tables"))


if __name__ == "__main__":
    main()
