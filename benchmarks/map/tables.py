"""The map's results as Markdown tables.

python -m benchmarks.map.tables OUT [--page docs/results/map.md]
"""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.map.figures import MEASURES, Cell, collect, mean_of, paired_difference, prompt_rewards
from benchmarks.map.plan import CORE, KEY, METHODS
from benchmarks.map.results import Results
from benchmarks.map.rule import rule_table

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


def make_tables(results: Results) -> dict[str, str]:
    """Every table by name, from what has been measured so far."""
    cells = collect(results)
    return {
        "start": base_table(results),
        **{f"means-{measure}": means_table(cells, measure) for measure in MEASURES},
        "losses": regret_table(cells),
        **{f"differences-{measure}": contrast_table(cells, measure) for measure in MEASURES},
        "settings": settings_table(cells),
        "distances": distance_table(cells),
        "signals": signals_table(results),
        "rule": rule_table(results, "abd", "adpa, gamma 1", ("sampled", "best", "greedy")),
    }


def write_tables(results: Results, folder: Path) -> Path:
    """Write every table into one file, `tables.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tables.md"
    parts = [f"## {name}\n\n{table}" for name, table in make_tables(results).items()]
    path.write_text("\n\n".join(["# The map's tables", *parts]) + "\n", encoding="utf-8")
    return path


def fill_page(results: Results, page: Path) -> None:
    """Renew the tables of a page: what is between `<!-- table: NAME -->` and `<!-- end of table -->`.

    Raises:
        KeyError: for a name that is no table's.
    """
    tables = make_tables(results)
    text = re.sub(
        r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)",
        lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    page.write_text(text, encoding="utf-8")


def base_table(lines: Iterable[dict[str, Any]]) -> str:
    """Rewards of student, reference, teachers and chosen answers, means over seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "chosen":
            groups.setdefault((line["world"], f"chosen answers, {line['chosen']}"), []).append(line["found"])
        elif line["kind"] == "model" and line["method"] in ("initial", "reference", "teacher"):
            name = {"initial": "student SFT", "reference": "reference"}.get(line["method"])
            groups.setdefault((line["world"], name or f"teacher, {line['teacher']}"), []).append(
                line["found"]
            )
    rows = []
    for (world, name), found in sorted(groups.items(), reverse=True):
        if "chosen" in found[0]:
            means = [f"{np.mean([one['chosen'] for one in found]):.3f}", "", "", "", ""]
        else:
            means = [
                *(f"{np.mean([prompt_rewards(one, m).mean() for one in found]):.3f}" for m in MEASURES),
                f"{np.mean([one['entropy'] for one in found]):.2f}",
            ]
        rows.append([world, name, str(len(found)), *means])
    return _markdown(("world", "what", "seeds", *MEASURES, "entropy"), rows)


def means_table(cells: Mapping[Cell, Any], measure: str) -> str:
    """Mean reward of each method by cell, over the seeds that the cell has; the best one in bold."""
    methods = [name for name in CORE if any(name in found for found in cells.values())]
    rows = []
    for cell, found in cells.items():
        means = {name: mean_of(found[name], measure) for name in methods if name in found}
        best = max(means.values())
        texts = [_bold(means.get(name), best) for name in methods]
        seeds = {len(found[name]) for name in means}
        rows.append([*cell, "-".join(str(n) for n in sorted({min(seeds), max(seeds)})), *texts])
    return _markdown(("world", "teacher", "chosen", "seeds", *methods), rows)


def regret_table(cells: Mapping[Cell, Any]) -> str:
    """For each core method: how far below the best core method of the same cell and seed, mean and worst case.

    Only over cells and seeds in which all the methods were measured that the table shows.
    """
    lines = []
    for methods in (KEY, CORE):
        cases = [
            (cell, seed)
            for cell, found in cells.items()
            for seed in found.get("abd", {})
            if all(seed in found.get(name, {}) for name in methods)
        ]
        rows = []
        for name in methods:
            texts = []
            for measure in MEASURES:
                scores = np.array(
                    [[mean_of(cells[c][m], measure, [s]) for m in methods] for c, s in cases]
                ).reshape(len(cases), len(methods))
                lost = scores.max(axis=1, initial=0) - scores[:, methods.index(name)]
                texts.append(f"{lost.mean():.3f} / {lost.max():.3f}" if cases else "")
            rows.append([name, *texts])
        lines.append(
            f"{len(cases)} cells and seeds; mean / worst.\n\n{_markdown(('method', *MEASURES), rows)}"
        )
    return "\n\n".join(lines)


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


def settings_table(cells: Mapping[Cell, Any]) -> str:
    """Methods beside the core, by world and cell: best and greedy reward minus those of the method they vary."""
    others = [name for name in METHODS if name not in CORE]
    columns = [cell for cell, found in cells.items() if any(name in found for name in others)]
    rows = []
    for name in others:
        base = _base_of(name)
        texts = []
        for cell in columns:
            ours, theirs = cells[cell].get(name, {}), cells[cell].get(base, {})
            found = [paired_difference(ours, theirs, measure) for measure in ("best", "greedy")]
            texts.append(
                " / ".join("" if one is None else f"{one.mean:+.3f} ± {one.half_width:.3f}" for one in found)
            )
        if any(text.strip(" /") for text in texts):
            rows.append([name, base, *texts])
    return _markdown(("method", "minus", *(" ".join(cell) for cell in columns)), rows)


def _base_of(name: str) -> str:
    """The core method that another one varies; abd for relatives of other names."""
    first = name.partition(",")[0]
    bases = {
        "adpa": "adpa, gamma 1",
        "adpa 1": "adpa, gamma 1",
        "adpa 3": "adpa, gamma 3",
        "hybrid": "hybrid",
    }
    return bases.get(first, "abd")


def distance_table(cells: Mapping[Cell, Any]) -> str:
    """Entropy, distances, preference accuracy and length of each method by cell, means over seeds."""
    names = ("entropy", "kl_teacher", "kl_initial", "preference_accuracy", "length")
    rows = []
    for cell, found in cells.items():
        for method, seeds in found.items():
            if method not in CORE:
                continue
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the map's folder")
    parser.add_argument("--page", type=Path, help="a page whose tables to renew, such as docs/results/map.md")
    arguments = parser.parse_args()
    results = Results(arguments.out / "results.jsonl")
    print(write_tables(results, arguments.out / "tables"))
    if arguments.page is not None:
        fill_page(results, arguments.page)


if __name__ == "__main__":
    main()
