"""What a training run returns: its folder, its first and last numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"

#: What a line says of its last step alone.
_OF_ONE_STEP = {"step", "epoch", "learning_rate", "grad_norm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """A finished run.

    Attributes:
        out: the folder of the trained student.
        steps: optimizer steps that it has taken.
        first: metrics of the first logged step.
        last: metrics over the last steps, as many as one line of metrics.jsonl covers or more; averaged by steps, so
            that the small batch at the end of an epoch does not decide. Empty where nothing was logged.
        last_steps: how many steps that is.
        held_out_first: metrics on the held-out pairs before training; empty without any.
        held_out: the same of the student that was saved.
        checkpoint: the resumable checkpoint that stays, from which the run can be extended; None without one.
        resumed_from: the step that this command continued from; None where it began at the first.
        already_finished: whether the run had been finished before, so that nothing was done.
        seconds: that the command took.
    """

    out: Path
    steps: int
    first: Mapping[str, float] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
    last_steps: int = 0
    held_out_first: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    resumed_from: int | None = None
    already_finished: bool = False
    seconds: float = 0.0

    @classmethod
    def from_metrics(
        cls, out: Path, lines: Sequence[Mapping[str, Any]], *, window: int, saved_step: int, **known: Any
    ) -> "TrainingResult":
        """Sum up the lines of metrics.jsonl.

        Args:
            out: the run's folder.
            lines: training steps and evaluations, in their order.
            window: steps that the closing numbers cover at least.
            saved_step: the step whose student was saved.
            **known: the other attributes.
        """
        trained = [line for line in lines if "loss" in line]
        evaluated = [line for line in lines if "eval_loss" in line]
        last, last_steps = _closing(trained, window)
        before = [line for line in evaluated if line["step"] == 0]
        of_saved = [line for line in evaluated if line["step"] == saved_step]
        return cls(
            out=out,
            first=dict(trained[0]) if trained else {},
            last=last,
            last_steps=last_steps,
            held_out_first=dict(before[0]) if before else {},
            held_out=dict((of_saved or evaluated)[-1]) if evaluated else {},
            **known,
        )

    @property
    def next_step(self) -> str:
        """What to type next."""
        return (
            f"adpa report {self.out}, adpa chat {self.out}, or adpa evaluate win-rate --model {self.out} "
            "--baseline STUDENT --data PROMPTS --judge-model JUDGE --out WINS"
        )

    def __str__(self) -> str:
        """The closing line."""
        parts = [f"{self.out}: {self.steps:,} step{'s' * (self.steps != 1)}"]
        if self.first and self.last:
            parts.append(f"loss {self.first['loss']:.4g} at step {self.first['step']}, {self._last_loss()}")
        if self.held_out:
            before = (
                f"{self.held_out_first['eval_loss']:.4g} before training, " if self.held_out_first else ""
            )
            parts.append(
                f"held-out loss {before}{self.held_out['eval_loss']:.4g} at step {self.held_out['step']}"
            )
        return "; ".join(parts)

    def _last_loss(self) -> str:
        over = f"over the last {self.last_steps:,} steps" if self.last_steps > 1 else "at the last one"
        return f"{self.last['loss']:.4g} {over}"


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where the file is not there or a line is torn."""
    lines = []
    try:
        text = (out / METRICS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def _closing(lines: Sequence[Mapping[str, Any]], window: int) -> tuple[dict[str, float], int]:
    """The mean of the last lines that cover `window` steps, weighted by steps; and how many steps they cover."""
    taken: list[tuple[int, Mapping[str, Any]]] = []
    steps = 0
    for place in range(len(lines) - 1, -1, -1):
        before = lines[place - 1]["step"] if place else 0
        # Lines of an earlier run of the same steps never come here: they are dropped when a run continues.
        covered = max(1, lines[place]["step"] - before)
        taken.append((covered, lines[place]))
        steps += covered
        if steps >= window:
            break
    if not taken:
        return {}, 0
    _, last = taken[0]
    means = {
        name: sum(covered * line[name] for covered, line in taken) / steps
        for name in last
        if name not in _OF_ONE_STEP and all(name in line for _, line in taken)
    }
    return {**last, **means}, steps
