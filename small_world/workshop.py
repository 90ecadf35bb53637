"""The demo's folder: where each thing lies, and the steps that make it with the commands' functions."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.command_line import command_line
from data.errors import ConfigurationError
from data.files import make_folder, write_atomic
from small_world.crew import Crew
from small_world.plan import Plan
from student_training.options import TrainOptions
from student_training.run import train_student
from teacher_scoring.options import SampleOptions, ScoreOptions
from teacher_scoring.sample import sample_student
from teacher_scoring.score import score_teacher

__all__ = ["Step", "Workshop"]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One command with its options."""

    command: str
    options: Any


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "train-student": train_student,
    "score-teacher": score_teacher,
    "sample-student": sample_student,
}


def _timed(step: Step) -> float:
    """Run a step; the seconds that it took."""
    started = time.monotonic()
    _FUNCTIONS[step.command](step.options)
    return time.monotonic() - started


class Workshop:
    """Makes models, rollouts and signals inside one folder; what is finished there is not made again.

    `train`, `score` and `sample` say what a step is; `run` runs steps, side by side where there are several.

    Attributes:
        out: the folder.
        commands: the command line of every step so far, in order.
    """

    def __init__(
        self, out: Path, *, seed: int, plan: Plan, crew: Crew, report: Callable[[str], None]
    ) -> None:
        """Take a folder over, unless it holds another demo.

        Args:
            out: the folder.
            seed: of all training and sampling.
            plan: how much of everything.
            crew: runs steps side by side.
            report: takes lines for the user.
        Raises:
            ConfigurationError: naming what differs.
        """
        self.out = out
        self.commands: list[str] = []
        self._seed = seed
        self._plan = plan
        self._crew = crew
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
    ) -> Step:
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
            threads=1,  # as in a crew; typed by hand it gives the same weights to the last bit
            **more,
        )
        return Step("train-student", options)

    def score(self, name: str, *, data: Path, roles: tuple[str, ...], rollouts: str | None = None) -> Step:
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
        return Step("score-teacher", options)

    def signals(self, name: str) -> tuple[str]:
        """A signal dataset, as train-student takes it."""
        return (str(self.out / "signals" / name),)

    def sample(self, name: str, *, data: Path, max_new_tokens: int) -> Step:
        """sample-student: one response of a model to each prompt, as rollouts of the model's name."""
        options = SampleOptions(
            student=str(self.model(name)),
            data=str(data),
            max_new_tokens=max_new_tokens,
            seed=self._seed,
            out=str(self.out / "rollouts" / name),
            engine="transformers",
        )
        return Step("sample-student", options)

    def run(self, *steps: Step) -> None:
        """Run steps that do not depend on each other."""
        self.commands += [command_line(step.command, step.options) for step in steps]
        seconds = self._crew.run([functools.partial(_timed, step) for step in steps])
        for step, taken in zip(steps, seconds, strict=True):
            self._report(f"  {step.options.out}  ({taken:.0f} s)")

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
        make_folder(self.out)
        if any(self.out.iterdir()):
            raise ConfigurationError(
                f"--out: {self.out} is not empty and holds no demo; choose another folder"
            )
        write_atomic(record, json.dumps(demo, indent=2) + "\n")
