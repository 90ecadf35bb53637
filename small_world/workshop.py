"""The demo's folder: where each thing lies, and the commands' functions that make it."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError
from data.files import write_atomic
from small_world.commands import command_line
from small_world.plan import Plan
from student_training.options import TrainOptions
from student_training.run import train_student
from teacher_scoring.options import SampleOptions, ScoreOptions
from teacher_scoring.sample import sample_student
from teacher_scoring.score import score_teacher

__all__ = ["Workshop"]


class Workshop:
    """Makes models, rollouts and signals inside one folder; what is finished there is not made again.

    Attributes:
        out: the folder.
        commands: the command line of every step so far, in order.
    """

    def __init__(self, out: Path, *, seed: int, plan: Plan, report: Callable[[str], None]) -> None:
        """Take a folder over, unless it holds another demo.

        Raises:
            ConfigurationError: naming what differs.
        """
        self.out = out
        self.commands: list[str] = []
        self._seed = seed
        self._plan = plan
        self._report = report
        self._claim({"seed": seed, **dataclasses.asdict(plan)})

    def data(self, name: str) -> Path:
        """A JSONL file."""
        return self.out / "data" / f"{name}.jsonl"

    def model(self, name: str) -> Path:
        """A checkpoint folder."""
        return self.out / "models" / name

    def verdict(self, name: str) -> Path:
        """What the judge found about a model."""
        return self.out / "verdicts" / f"{name}.json"

    def train(
        self, name: str, *, start: str, method: str, steps: int, learning_rate: float, **more: Any
    ) -> None:
        """train-student.

        Args:
            name: of the model to make.
            start: name of the model to start from.
            method: training method.
            steps: optimizer steps.
            learning_rate: its peak.
            **more: what to train on (`data` or `signals`) and the method's own options.
        """
        options = TrainOptions(
            student=str(self.model(start)),
            out=str(self.model(name)),
            method=method,
            max_steps=steps,
            learning_rate=learning_rate,
            batch_size=self._plan.batch_size,
            warmup_steps=self._plan.warmup_steps,
            seed=self._seed,
            save_steps=steps,
            **more,
        )
        self._run("train-student", options, train_student)

    def score(self, name: str, *, data: Path, roles: tuple[str, ...], rollouts: str | None = None) -> None:
        """score-teacher: what the teacher and its reference think of responses, as signals of this name."""
        options = ScoreOptions(
            teacher=str(self.model("teacher")),
            reference=str(self.model("reference")),
            data=str(data),
            rollouts=None if rollouts is None else str(self.out / "rollouts" / rollouts),
            score=roles,
            top_k=self._plan.top_k,
            out=str(self.out / "signals" / name),
            pass_cache=str(self.out / "passes"),
            engine="transformers",
        )
        self._run("score-teacher", options, score_teacher)

    def signals(self, name: str) -> tuple[str]:
        """A signal dataset, as train-student takes it."""
        return (str(self.out / "signals" / name),)

    def sample(self, name: str, *, data: Path, max_new_tokens: int) -> None:
        """sample-student: one response of a model to each prompt, as rollouts of the model's name."""
        options = SampleOptions(
            student=str(self.model(name)),
            data=str(data),
            max_new_tokens=max_new_tokens,
            seed=self._seed,
            out=str(self.out / "rollouts" / name),
            engine="transformers",
        )
        self._run("sample-student", options, sample_student)

    def _run(self, command: str, options: Any, function: Callable[[Any], Any]) -> None:
        self.commands.append(command_line(command, options))
        started = time.monotonic()
        function(options)
        self._report(f"  {options.out}  ({time.monotonic() - started:.0f} s)")

    def _claim(self, demo: dict[str, Any]) -> None:
        record = self.out / "demo.json"
        if record.exists():
            kept = json.loads(record.read_text(encoding="utf-8"))
            for name, value in demo.items():
                if kept.get(name) != value:
                    raise ConfigurationError(
                        f"--out: {self.out} holds a demo with {name} {kept.get(name)}, this one has {value}; "
                        "choose another folder"
                    )
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if any(self.out.iterdir()):
            raise ConfigurationError(
                f"--out: {self.out} is not empty and holds no demo; choose another folder"
            )
        write_atomic(record, json.dumps(demo, indent=2) + "\n")
