"""What a run of the real-text benchmark cost: CPU seconds of its steps, and bytes of the signals."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from evaluation.tables import markdown_table

#: Trained before the methods.
_MADE_BEFORE = {"teacher": "the teacher's training", "student": "student: healing"}


def cost_table(folder: Path) -> str:
    """CPU seconds of what a run did, steps of one kind together."""
    lines = [json.loads(line) for line in (folder / "seconds.jsonl").read_text(encoding="utf-8").splitlines()]
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        parts[_kind(line["command"], line["out"])].append(line)
    rows = []
    for kind, steps in parts.items():
        seconds = [step["cpu_seconds"] for step in steps]
        each = f"{min(seconds):.0f} to {max(seconds):.0f}" if len(steps) > 1 else ""
        rows.append([kind, str(len(steps)), f"{sum(seconds):,.0f}", each, _bytes(folder, steps)])
    total = sum(line["cpu_seconds"] for line in lines)
    rows.append(["in all", str(len(lines)), f"{total:,.0f}", "", ""])
    return markdown_table(["what", "steps", "CPU seconds", "a step", "bytes of signals"], rows)


def _kind(command: str, out: str) -> str:
    if command == "score-teacher":
        return {
            "answers": "signals of the reference's answers (healing)",
            "held-out": "signals of held-out pairs",
            "pairs": "signals of the pairs and the student's answers",
        }.get(out, "signals of a trained student's answers")
    if command == "train-student":
        return _MADE_BEFORE.get(out, "a method's training")
    if "-held-out-" in out:
        return "held-out answers of a model at a temperature"
    return "answers to the training prompts"


def _bytes(folder: Path, steps: list[dict[str, Any]]) -> str:
    if steps[0]["command"] != "score-teacher":
        return ""
    files = (file for step in steps for file in (folder / "signals" / step["out"]).glob("*.parquet"))
    return f"{sum(file.stat().st_size for file in files):,}"
