"""What a finished demo leaves behind and says: its table, and where everything lies."""

import json
from collections.abc import Sequence

from data.files import write_atomic
from small_world.judge import COMMON_ENTROPY
from small_world.table import Row, as_json, as_markdown
from small_world.workshop import Workshop

__all__ = ["summary", "write_results"]

_NOTES = f"""\
Mean reward on held-out prompts, ± and brackets: 95% intervals by normal approximation over prompts.
A sharper model earns more at T = 1 without knowing more: the last column compares all at {COMMON_ENTROPY:g}
nats, each sampled at the temperature that gives it this entropy. ADPA+ has trained longer than the others:
DCKD's steps came before its own."""


def write_results(shop: Workshop, rows: Sequence[Row]) -> None:
    """Write results.json (every number, unrounded), table.md and commands.sh."""
    write_atomic(shop.out / "results.json", json.dumps(as_json(rows), indent=2) + "\n")
    write_atomic(shop.out / "table.md", f"{as_markdown(rows)}\n\n{_NOTES}\n")
    write_atomic(shop.out / "commands.sh", "\n".join(shop.commands) + "\n")


def summary(shop: Workshop, rows: Sequence[Row]) -> str:
    """The table, how to read it, where everything lies and how to do a step by hand."""
    examples = [
        next(line for line in shop.commands if word in line) for word in ("score-teacher", "--method dckd")
    ]
    return "\n".join(
        (
            "",
            as_markdown(rows),
            "",
            _NOTES,
            "",
            f"{shop.out}/data      conversations, preference pairs and held-out prompts, JSONL",
            f"{shop.out}/models    every model: a transformers checkpoint, run.toml, metrics.jsonl",
            f"{shop.out}/signals   what teacher and reference think of pairs and of answers, Parquet",
            f"{shop.out}/rollouts  students' answers, Parquet",
            f"{shop.out}/table.md, results.json",
            f"{shop.out}/commands.sh: every step as a command; give one another --out to repeat it, such as",
            *(f"  {line}" for line in examples),
        )
    )
