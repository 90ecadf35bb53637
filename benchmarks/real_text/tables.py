"""The tables over one or several seeds: rewards, differences, matched entropy, guards, wins, costs; and examples.

    python -m benchmarks.real_text.tables runs/real-text/friendly-[0-2]-fast --page docs/results/real_text.md

writes each table into a page where `<!-- table: NAME -->` and `<!-- end of table -->` are.
"""

import argparse
import json
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.folders import folder_with
from benchmarks.real_text.costs import cost_table
from benchmarks.real_text.judging import (
    TEMPERATURES,
    Comparison,
    Judged,
    at_entropy,
    pooled,
    win_rate,
)
from benchmarks.real_text.sizes import COMPARED, MATCHED, ONLY_FOR_TUNING, SHOWN
from benchmarks.real_text.tuning import FACTORS, chosen_factors, mean_scores, tuned
from data.files import write_atomic
from evaluation.metrics.statistics import Estimate, mean_estimate
from evaluation.tables import markdown_table

#: The figure of a model that is its entropy at this temperature.
COOLED, COOLED_ENTROPY = 0.5, "entropy at T = 0.5, nats"

_MOST_SAMPLES = 4

Figures = Mapping[str, Mapping[str, float]]


def read_results(file: Path) -> tuple[dict[str, dict[float, Judged]], dict[str, dict[str, float]]]:
    """What results.json has: answers judged, and figures, by model."""
    judged, figures = {}, {}
    for model, found in json.loads(file.read_text(encoding="utf-8")).items():
        figures[model] = {name: value for name, value in found.items() if not isinstance(value, dict)}
        judged[model] = {}
        for temperature in TEMPERATURES:
            values = {**found[f"{temperature:g}"]}
            if temperature == COOLED:
                values["entropy"] = figures[model].get(COOLED_ENTROPY, np.nan)
            judged[model][temperature] = Judged(**{**values, "rewards": np.array(values["rewards"])})
    return judged, figures


def all_tables(folders: Sequence[Path]) -> dict[str, str]:
    """Every table by its name, over the runs in some folders."""
    seeds, figures = zip(*(read_results(folder / "results.json") for folder in folders), strict=True)
    by_rate = [seed for seed in seeds if not ONLY_FOR_TUNING.isdisjoint(seed)]
    seeds = tuple(_without(seed, ONLY_FOR_TUNING) for seed in seeds)
    together = pooled(seeds)
    shown = {model: found for model, found in together.items() if model in SHOWN}
    return {
        "rewards": reward_table(seeds, baseline="student"),
        "differences": difference_table(seeds, COMPARED),
        "tuning": tuning_table(by_rate),
        "tuned differences": difference_table(tuned(by_rate), COMPARED),
        "matched entropy": matched_table(seeds, MATCHED),
        "guards": guard_table(together, figures),
        "wins": win_table(shown, 1.0),
        "costs": cost_table(folders[-1]),
        "examples": (folders[-1] / "examples.md").read_text(encoding="utf-8"),
    }


def reward_table(seeds: Sequence[Comparison], *, baseline: str) -> str:
    """Mean rewards by temperature, of every seed where there are several, and the difference to the student before."""
    rows = []
    for model, found in (together := pooled(seeds)).items():
        row = [model, *(_with_interval(found[temperature].mean()) for temperature in TEMPERATURES)]
        if len(seeds) > 1:
            row += [_by_seed([seed[model][t].per_prompt for seed in seeds]) for t in (1.0, 0.0)]
        row += [
            "" if model == baseline else _signed(found[t].against(together[baseline][t])) for t in (1.0, 0.0)
        ]
        best = found[1.0].best(_MOST_SAMPLES)
        rows.append([*row, "" if np.isnan(best) else _figure(best)])
    head = ["model", "T = 1", "T = 0.5", "greedy"]
    head += ["T = 1 by seed", "greedy by seed"] if len(seeds) > 1 else []
    head += [f"T = 1 against {baseline}", f"greedy against {baseline}"]
    return markdown_table([*head, f"best of {_MOST_SAMPLES}, T = 1"], rows)


def difference_table(seeds: Sequence[Comparison], pairs: Sequence[tuple[str, str]]) -> str:
    """Differences of mean rewards between two models, paired over prompts, by temperature."""
    rows, together = [], pooled(seeds)
    for ours, theirs in pairs:
        if ours in together and theirs in together:
            row = [f"{ours} − {theirs}"]
            row += [_signed(together[ours][t].against(together[theirs][t])) for t in TEMPERATURES]
            if len(seeds) > 1:
                for t in (1.0, 0.0):
                    found = [seed[ours][t].per_prompt - seed[theirs][t].per_prompt for seed in seeds]
                    row.append(_by_seed(found, sign="+"))
            rows.append(row)
    head = ["difference", "T = 1", "T = 0.5", "greedy"]
    return markdown_table([*head, *(["T = 1 by seed", "greedy by seed"] if len(seeds) > 1 else [])], rows)


def tuning_table(seeds: Sequence[Comparison]) -> str:
    """Each tuned method: its scores by rate, the rate chosen for each seed without it, and what that is worth there."""
    found = tuned(seeds)
    rows = []
    for method in found[0]:
        untuned = pooled([{method: seed[method]} for seed in seeds])[method]
        ours = pooled([{method: seed[method]} for seed in found])[method]
        scores = mean_scores(seeds, method)
        rows.append(
            [
                method,
                *(_figure(scores[factor]) for factor in sorted(FACTORS)),
                " ".join(f"{factor:g}" for factor in chosen_factors(seeds, method)),
                *(_with_interval(ours[t].mean()) for t in TEMPERATURES),
                *(_signed(ours[t].against(untuned[t])) for t in (1.0, 0.0)),
            ]
        )
    head = ["method", *(f"rate × {factor:g}" for factor in sorted(FACTORS)), "chosen, by seed"]
    head += ["T = 1", "T = 0.5", "greedy", "T = 1 against untuned", "greedy against untuned"]
    return markdown_table(head, rows)


def _without(seed: Comparison, names: Container[str]) -> dict[str, Mapping[float, Judged]]:
    return {model: found for model, found in seed.items() if model not in names}


def matched_table(seeds: Sequence[Comparison], pairs: Sequence[tuple[str, str]]) -> str:
    """Differences where the less sharp one of two models is cooled to the entropy that the other has at T = 1."""
    rows = []
    for ours, theirs in pairs:
        found = [_matched(seed[ours], seed[theirs]) for seed in seeds if ours in seed and theirs in seed]
        known = [each for each in found if each is not None]
        if known and len(known) == len(found):
            differences = [difference for difference, _ in known]
            entropies = " ".join(f"{entropy:.2f}" for _, entropy in known)
            row = [f"{ours} − {theirs}", entropies, _signed(mean_estimate(np.concatenate(differences)))]
            rows.append([*row, *([_by_seed(differences, sign="+")] if len(seeds) > 1 else [])])
    head = ["difference", "both at, nats", "reward"]
    return markdown_table([*head, *(["by seed"] if len(seeds) > 1 else [])], rows)


def _matched(ours: Mapping[float, Judged], theirs: Mapping[float, Judged]) -> tuple[np.ndarray, float] | None:
    """Difference of every prompt's rewards, and the entropy that both have."""
    entropy = min(ours[1.0].nll, theirs[1.0].nll)
    first, second = at_entropy(ours, entropy), at_entropy(theirs, entropy)
    return None if first is None or second is None else (first - second, entropy)


def guard_table(together: Comparison, figures: Sequence[Figures]) -> str:
    """What must not break while the reward rises: length, endings, entropy, fluency; and how near the teacher is."""
    names = list(dict.fromkeys(name for seed in figures for found in seed.values() for name in found))
    rows = []
    for model, found in together.items():
        sampled = found[1.0]
        row = [model, f"{sampled.tokens:.1f}", f"{sampled.finished:.0%}", f"{sampled.nll:.2f}"]
        for name in names:
            values = [seed[model][name] for seed in figures if name in seed[model]]
            row.append(f"{np.mean(values):.2f}" if values else "")
        rows.append(row)
    return markdown_table(["model", "tokens", "finished", "entropy, nats", *names], rows)


def win_table(judged: Comparison, temperature: float) -> str:
    """How often the row's answers earn more than the column's, percent; ties are half."""
    models = list(judged)
    rows = []
    for ours in models:
        row = [ours]
        for theirs in models:
            wins = win_rate(judged[ours][temperature], judged[theirs][temperature]).value
            row.append("" if ours == theirs else f"{100 * wins:.0f}")
        rows.append(row)
    return markdown_table(["wins of ↓ against →, %", *models], rows)


def _figure(value: float, *, sign: str = "") -> str:
    """Rewards are below 1: without the zero, wide tables stay readable."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3f}"


def _with_interval(estimate: Estimate) -> str:
    return f"{_figure(estimate.value)} ± {_figure((estimate.high - estimate.low) / 2)}"


def _signed(estimate: Estimate) -> str:
    ends = (_figure(each, sign="+") for each in (estimate.low, estimate.high))
    return f"{_figure(estimate.value, sign='+')} ({' to '.join(ends)})"


def _by_seed(values: Sequence[np.ndarray], *, sign: str = "") -> str:
    return " ".join(_figure(float(each.mean()), sign=sign) for each in values)


def fill_page(page: str, tables: Mapping[str, str]) -> str:
    """A page with each table where its markers are.

    Raises:
        SystemExit: for a marker without a table.
    """

    def table(marker: re.Match[str]) -> str:
        if marker[1] not in tables:
            raise SystemExit(f"no table {marker[1]!r}; there are {', '.join(tables)}")
        return f"<!-- table: {marker[1]} -->\n{tables[marker[1]]}\n<!-- end of table -->"

    return re.sub(r"<!-- table: ([^>]+) -->.*?<!-- end of table -->", table, page, flags=re.DOTALL)


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=folder_with("results.json"),
        help="folders of finished runs, one for each seed",
    )
    parser.add_argument("--page", type=Path, help="a page with markers")
    options = parser.parse_args()
    tables = all_tables(options.runs)
    if options.page:
        write_atomic(options.page, fill_page(options.page.read_text(encoding="utf-8"), tables))
    else:
        print("\n\n".join(tables.values()))


if __name__ == "__main__":
    main()
