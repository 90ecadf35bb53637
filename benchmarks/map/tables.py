"""The map's results as Markdown tables.

python -m benchmarks.map.tables OUT [--page docs/results/map.md]
"""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.folders import folder_with
from benchmarks.map.figures import (
    MEASURES,
    Cell,
    Found,
    collect,
    mean_of,
    paired_difference,
    pooled_difference,
    prompt_rewards,
)
from benchmarks.map.plan.methods import (
    CORE,
    MAP_RATE,
    NO_TEACHER,
    RELATIVES,
    SWEEPS,
    TUNED,
    VARIANTS,
    at_rate,
)
from benchmarks.map.plan.order import TUNING_CELLS
from benchmarks.map.results import Results
from benchmarks.map.rule import rule_table
from benchmarks.map.tuning import TUNING_SEED, best_rate, scores_by_rate

CONTRASTS = (
    ("abd", "dckd"),
    ("abd, NLL 0.3", "abd"),
    ("abd, NLL", "abd"),
    ("adpa, gamma 1", "dckd"),
    ("adpa, gamma 1", "abd"),
    ("adpa, gamma 1", "sft"),
    ("adpa+, gamma 1", "adpa, gamma 1"),
    ("hybrid", "abd, NLL"),
)

"""Pairs of methods whose difference is shown for every kind of cell."""


def make_tables(results: Results) -> dict[str, str]:
    """Every table by name, from what has been measured so far."""
    cells = collect(results)
    return {
        "start": base_table(results),
        **{f"means-{measure}": means_table(cells, measure) for measure in MEASURES},
        "losses": regret_table(cells),
        "differences": contrast_table(cells),
        "settings": settings_table(cells),
        "tuning": tuning_table(results),
        "best-of-four": best_of_four_table(results),
        "distances": distance_table(cells),
        "signals": signals_table(results),
        "rule": rule_table(results, "abd, NLL", "adpa, gamma 1", ("sampled", "best", "greedy")),
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
            if name is None:
                name = f"teacher, {line['teacher']}"
                # A teacher of the students' own pairs is another one for each quality of these.
                name += "" if line["chosen"] == NO_TEACHER else f", {line['chosen']}"
            groups.setdefault((line["world"], name), []).append(line["found"])
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
    """Mean reward of each core method by cell, over the seeds that all its methods have; the best one in bold."""
    columns = [name for name in CORE if any(name in found for found in cells.values())]
    rows = []
    for cell, found in cells.items():
        methods = [name for name in CORE if name in found]
        seeds = sorted(set.intersection(*(set(found[name]) for name in methods)))
        means = {name: mean_of(found[name], measure, seeds) for name in methods}
        texts = [_bold(means.get(name), max(means.values())) for name in columns]
        rows.append([*cell, str(len(seeds)), *texts])
    return _markdown(("world", "teacher", "chosen", "seeds", *columns), rows)


def regret_table(cells: Mapping[Cell, Any]) -> str:
    """For each core method: how far below the best core method of the same cell and seed, mean and worst case.

    Only over cells and seeds in which all of them were measured.
    """
    cases = [
        (cell, seed)
        for cell, found in cells.items()
        for seed in sorted(found.get("abd", {}))
        if all(seed in found.get(name, {}) for name in CORE)
    ]
    if not cases:
        return "No cell has all methods yet."
    rows = [[name] for name in CORE]
    for measure in MEASURES:
        scores = np.array([[mean_of(cells[c][m], measure, [s]) for m in CORE] for c, s in cases])
        lost = scores.max(axis=1, keepdims=True) - scores
        for row, each in zip(rows, lost.T, strict=True):
            row.append(f"{each.mean():.3f} / {each.max():.3f}")
    return f"{len(cases)} cells and seeds; mean / worst.\n\n{_markdown(('method', *MEASURES), rows)}"


def contrast_table(cells: Mapping[Cell, Any], contrasts: Sequence[tuple[str, str]] = CONTRASTS) -> str:
    """Paired differences by teacher and chosen answers, both worlds together: best and greedy reward."""
    groups = list(dict.fromkeys((teacher, chosen) for _, teacher, chosen in cells))
    rows = []
    for teacher, chosen in groups:
        both = [found for cell, found in cells.items() if cell[1:] == (teacher, chosen)]
        texts = []
        for ours, theirs in contrasts:
            pairs = [(found.get(ours, {}), found.get(theirs, {})) for found in both]
            each = [pooled_difference(pairs, measure) for measure in ("best", "greedy")]
            texts.append(" / ".join(str(one) for one in each if one is not None))
        rows.append([f"{teacher}, {chosen}", *texts])
    return _markdown(("teacher, chosen", *(f"{ours} − {theirs}" for ours, theirs in contrasts)), rows)


def settings_table(cells: Mapping[Cell, Any]) -> str:
    """Methods beside the core, by world and cell: best and greedy reward minus those of the method they vary."""
    others = [*RELATIVES, *SWEEPS, *VARIANTS]
    columns = [cell for cell, found in cells.items() if any(name in found for name in RELATIVES)]
    rows = []
    for name in others:
        base = _base_of(name)
        texts = []
        for cell in columns:
            ours, theirs = cells[cell].get(name, {}), cells[cell].get(base, {})
            found = [paired_difference(ours, theirs, measure) for measure in ("best", "greedy")]
            texts.append(
                " / ".join(f"{one.mean:+.3f} ± {one.half_width:.3f}" for one in found if one is not None)
            )
        if any(texts):
            rows.append([name, base, *texts])
    return _markdown(("method", "minus", *(" ".join(cell) for cell in columns)), rows)


def _base_of(name: str) -> str:
    """The method that another one varies; abd for relatives of other names."""
    first = name.partition(",")[0]
    bases = {
        "adpa": "adpa, gamma 1",
        "adpa 3": "adpa, gamma 3",
        "adpa+": "adpa+, gamma 1",
        "hybrid": "hybrid",
    }
    return bases.get(first, "abd")


def tuning_table(results: Results) -> str:
    """What the best learning rate on one seed is worth on the others: rate, best and greedy reward, difference."""
    cells = collect(results)
    rows = []
    for world in dict.fromkeys(cell[0] for cell in cells):
        for method in TUNED:
            scores = scores_by_rate(results, world, method)
            rate = best_rate(results, world, method)
            pairs = [
                (_other_seeds(found.get(at_rate(method, rate), {})), _other_seeds(found.get(method, {})))
                for cell, found in cells.items()
                if cell[0] == world and cell[1:] in TUNING_CELLS
            ]
            if not scores or not all(tuned for tuned, _ in pairs):
                continue
            found = [pooled_difference(pairs, measure) for measure in ("best", "greedy")]
            means = [
                np.mean([mean_of(tuned, measure) for tuned, _ in pairs]) for measure in ("best", "greedy")
            ]
            texts = ["" if rate == MAP_RATE else str(one) for one in found]
            tried = ", ".join(f"{each:g}: {score:.3f}" for each, score in scores.items())
            rows.append([world, method, tried, f"{rate:g}", *(f"{mean:.3f}" for mean in means), *texts])
    header = ("world", "method", f"seed {TUNING_SEED}, by rate", "rate", "best", "greedy")
    return _markdown((*header, "best minus untuned", "greedy minus untuned"), rows)


def _other_seeds(found: Found) -> Found:
    return {seed: one for seed, one in found.items() if seed != TUNING_SEED}


def best_of_four_table(lines: Iterable[dict[str, Any]]) -> str:
    """Mean reward of the best of four answers at temperature 1, by cell, over the seeds that all methods have."""
    groups: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    for line in lines:
        if line["kind"] != "best of four":
            continue
        for teacher in ("weak", "strong") if line["teacher"] == NO_TEACHER else (line["teacher"],):
            found = groups.setdefault((line["world"], teacher, line["chosen"]), {})
            found.setdefault(line["method"], {})[line["seed"]] = float(np.mean(line["found"]["rewards"]))
    rows = []
    for cell, found in groups.items():
        seeds = set.intersection(*(set(found.get(name, {})) for name in CORE))
        if seeds:
            means = [float(np.mean([found[name][seed] for seed in seeds])) for name in CORE]
            rows.append([*cell, str(len(seeds)), *(_bold(mean, max(means)) for mean in means)])
    return _markdown(("world", "teacher", "chosen", "seeds", *CORE), rows)


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
    """What the signals say of each cell before training, means over seeds."""
    names = (
        "nll_chosen",
        "nll_student",
        "entropy_teacher",
        "advantage_chosen",
        "advantage_rejected",
        "expected_advantage",
        "ranking_accuracy",
        "outside_chosen",
    )
    groups: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for line in lines:
        if line["kind"] == "signals":
            groups.setdefault((line["world"], line["teacher"], line["chosen"]), []).append(line["found"])
    rows = [
        [*cell, str(len(found)), *(f"{np.mean([one[name] for one in found]):.3f}" for name in names)]
        for cell, found in groups.items()
    ]
    return _markdown(("world", "teacher", "chosen", "seeds", *names), rows)


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
    parser.add_argument("out", type=folder_with("results.jsonl"), help="the map's folder")
    parser.add_argument("--page", type=Path, help="a page whose tables to renew, such as docs/results/map.md")
    arguments = parser.parse_args()
    results = Results(arguments.out / "results.jsonl")
    print(write_tables(results, arguments.out / "tables"))
    if arguments.page is not None:
        fill_page(results, arguments.page)


if __name__ == "__main__":
    main()
