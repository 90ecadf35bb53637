"""The demo's table: computed, formatted, written and printed."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.files import write_atomic
from evaluation.tables import markdown_table
from small_world.judge import COMMON_ENTROPY, Estimate, Verdict, mean_with_interval, win_rate
from small_world.steps import DemoSteps


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One model's line.

    Attributes:
        name: what the model is.
        sampled: mean reward of answers sampled at temperature 1.
        wins: share of prompts on which those beat the baseline's; None for the baseline itself.
        greedy: mean reward of greedy answers.
        entropy: at temperature 1, nats per position.
        matched: mean reward when the temperature is such that the entropy is `COMMON_ENTROPY`.
        matched_temperature: that temperature.
    """

    name: str
    sampled: Estimate
    wins: Estimate | None
    greedy: Estimate
    entropy: float
    matched: Estimate
    matched_temperature: float


def make_rows(verdicts: Mapping[str, Verdict], *, baseline: str) -> list[Row]:
    """One row for each verdict, in order, with win rates against the named one."""
    return [
        Row(
            name,
            sampled=mean_with_interval(verdict.sampled),
            wins=win_rate(verdict.sampled, verdicts[baseline].sampled) if name != baseline else None,
            greedy=mean_with_interval(verdict.greedy),
            entropy=verdict.entropy,
            matched=mean_with_interval(verdict.matched),
            matched_temperature=verdict.matched_temperature,
        )
        for name, verdict in verdicts.items()
    ]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain values, unrounded."""
    return [dataclasses.asdict(row) for row in rows]


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table that reads well as text and as Markdown."""
    header = (
        "model",
        "reward, T = 1",
        "wins against student SFT",
        "reward, greedy",
        "entropy, nats",
        f"reward at entropy {COMMON_ENTROPY:g}",
    )
    return markdown_table(header, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    wins = "" if row.wins is None else f"{row.wins.mean:.1%} ({row.wins.low:.1%} to {row.wins.high:.1%})"
    return (
        row.name,
        _plus_minus(row.sampled),
        wins,
        _plus_minus(row.greedy),
        f"{row.entropy:.2f}",
        _plus_minus(row.matched),
    )


def _plus_minus(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ± {estimate.high - estimate.mean:.3f}"


_NOTES = f"""\
Mean reward on held-out prompts, ± and brackets: 95% intervals by normal approximation over prompts.
A sharper model earns more at T = 1 without knowing more: the last column compares all at {COMMON_ENTROPY:g}
nats, each sampled at the temperature that gives it this entropy. ADPA+ has trained longer than the others:
DCKD's steps came before its own."""


def write_results(steps: DemoSteps, rows: Sequence[Row]) -> None:
    """Write results.json (every number, unrounded), table.md and commands.sh."""
    write_atomic(steps.out / "results.json", json.dumps(as_json(rows), indent=2) + "\n")
    write_atomic(steps.out / "table.md", f"{as_markdown(rows)}\n\n{_NOTES}\n")
    write_atomic(steps.out / "commands.sh", "\n".join(steps.commands) + "\n")


def summary(out: Path, commands: Sequence[str], rows: Sequence[Row]) -> str:
    """The table, how to read it, where everything is stored and how to do a step by hand."""
    examples = [
        next(line for line in commands if word in line) for word in ("score-teacher", "--method dckd")
    ]
    return "\n".join(
        (
            "",
            as_markdown(rows),
            "",
            _NOTES,
            "",
            f"{out}/data      conversations, preference pairs and held-out prompts, JSONL",
            f"{out}/models    every model: a transformers checkpoint, run.toml, metrics.jsonl",
            f"{out}/signals   teacher and reference scores of pairs and of answers, Parquet",
            f"{out}/rollouts  students' answers, Parquet",
            f"{out}/table.md, results.json",
            f"{out}/commands.sh: every step as a command; give one another --out to repeat it, such as",
            *(f"  {line}" for line in examples),
        )
    )
