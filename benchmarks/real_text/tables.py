"""The benchmark's tables: rewards with intervals, guards beside them, the matrix of wins, the cost of every step."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.real_text.judging import TEMPERATURES, Judged, win_rate
from evaluation.metrics.statistics import Estimate
from evaluation.tables import markdown_table


def reward_table(judged: Mapping[str, Mapping[float, Judged]], *, baseline: str) -> str:
    """Mean rewards by temperature, and the difference to the student before training."""
    rows = []
    for model, found in judged.items():
        row = [model]
        for temperature in TEMPERATURES:
            row.append(_with_interval(found[temperature].mean()))
        sampled = found[1.0]
        row.append("" if model == baseline else _signed(sampled.against(judged[baseline][1.0])))
        row.append("" if model == baseline else _signed(found[0.0].against(judged[baseline][0.0])))
        rows.append([*row, f"{sampled.best:.3f}"])
    samples = next(iter(judged.values()))[1.0].rewards.shape[1]
    head = ["model", "T = 1", "T = 0.5", "greedy", f"T = 1 against {baseline}", f"greedy against {baseline}"]
    return markdown_table([*head, f"best of {samples}, T = 1"], rows)


def difference_table(judged: Mapping[str, Mapping[float, Judged]], pairs: Sequence[tuple[str, str]]) -> str:
    """Differences of mean rewards between two models, paired over prompts, by temperature."""
    rows = [
        [f"{ours} − {theirs}", *(_signed(judged[ours][t].against(judged[theirs][t])) for t in TEMPERATURES)]
        for ours, theirs in pairs
        if ours in judged and theirs in judged
    ]
    return markdown_table(["difference", "T = 1", "T = 0.5", "greedy"], rows)


def guard_table(
    judged: Mapping[str, Mapping[float, Judged]], figures: Mapping[str, Mapping[str, float]]
) -> str:
    """What must not break while the reward rises: length, endings, entropy, fluency; and how near the teacher is."""
    names = list(dict.fromkeys(name for found in figures.values() for name in found))
    rows = []
    for model, found in judged.items():
        sampled = found[1.0]
        row = [model, f"{sampled.tokens:.1f}", f"{sampled.finished:.0%}", f"{sampled.nll:.2f}"]
        own = figures.get(model, {})
        rows.append([*row, *(f"{own[name]:.3f}" if name in own else "" for name in names)])
    return markdown_table(["model", "tokens", "finished", "entropy, nats", *names], rows)


def win_table(judged: Mapping[str, Mapping[float, Judged]], temperature: float) -> str:
    """How often the row's answers earn more than the column's, percent; ties are half."""
    models = list(judged)
    rows = [
        [
            ours,
            *(
                ""
                if ours == theirs
                else f"{100 * win_rate(judged[ours][temperature], judged[theirs][temperature]).value:.0f}"
                for theirs in models
            ),
        ]
        for ours in models
    ]
    return markdown_table(["wins of ↓ against →, %", *models], rows)


def cost_table(seconds: Path, sizes: Mapping[tuple[str, str], int]) -> str:
    """Seconds of every step, and bytes of what it wrote where that counts."""
    lines = [json.loads(line) for line in seconds.read_text(encoding="utf-8").splitlines()]
    rows: Sequence[list[str]] = [
        [
            line["command"],
            line["out"],
            f"{line['seconds']:.0f}",
            f"{line['cpu_seconds']:.0f}",
            f"{sizes[key]:,}" if (key := (line["command"], line["out"])) in sizes else "",
        ]
        for line in lines
    ]
    return markdown_table(["command", "out", "seconds", "CPU seconds", "bytes"], rows)


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ± {(estimate.high - estimate.low) / 2:.3f}"


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
