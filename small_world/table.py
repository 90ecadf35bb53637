"""The demo's table: what the judge found about every model, computed and laid out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from small_world.judge import COMMON_ENTROPY, Estimate, Verdict, mean_with_interval, win_rate

__all__ = ["Row", "as_json", "as_markdown", "make_rows"]


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
    cells = [header, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    rule = tuple("-" * width for width in widths)
    lines = (cells[0], rule, *cells[1:])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


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
