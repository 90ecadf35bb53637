"""The demo's steps, their sizes, their folder, and running independent ones side by side."""

import dataclasses
import functools
import json
import logging
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from data.errors import ConfigurationError
from data.files import make_folder, write_atomic
from data.options.command_line import command_line
from small_world.models import save_untrained_student, save_untrained_teacher
from small_world.pairs import draw_conversations, draw_pairs, write_conversations, write_pairs, write_prompts
from small_world.world import World, prompt_text
from student_training.options import TrainOptions
from student_training.run import train_student
from teacher_scoring.options import SampleOptions, ScoreOptions
from teacher_scoring.sample import sample_student
from teacher_scoring.score import score_teacher

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Sizes and settings of one demo.

    Attributes:
        num_conversations: supervised conversations, drawn from the behaviour distribution.
        num_pairs: preference pairs.
        reference_steps: supervised optimizer steps of the teacher before alignment, which is the reference.
        teacher_steps: optimizer steps of the teacher's DPO.
        student_sft_steps: supervised optimizer steps of the student.
        student_steps: optimizer steps of every method that is compared.
        judged_prompts: held-out prompts to judge on.
        judged_samples: answers sampled to each.
        batch_size: conversations or pairs in a step.
        warmup_steps: of every training.
        top_k: teacher tokens kept at each position.
    """

    num_conversations: int
    num_pairs: int
    reference_steps: int
    teacher_steps: int
    student_sft_steps: int
    student_steps: int
    judged_prompts: int
    judged_samples: int
    batch_size: int = 64
    warmup_steps: int = 20
    top_k: int = 16
    reference_learning_rate: float = 2e-3
    teacher_learning_rate: float = 1e-3
    student_sft_learning_rate: float = 4e-3
    student_learning_rate: float = 5e-3
    dpo_beta: float = 0.3
    kl_weight: float = 5.0
    # Not the method's default of 1: docs/decisions/0007-gamma-of-adpa.md.
    advantage_weight: float = 3.0
    advantage_clip: str = "0:1"
    boost: float = 1.0
    boost_clip: str = "1"
    # Not the method's default, either: docs/decisions/0008-nll-of-abd.md.
    boost_nll_weight: float = 0.0


FULL = Plan(
    num_conversations=24_000,
    num_pairs=10_000,
    reference_steps=1_200,
    teacher_steps=300,
    student_sft_steps=1_200,
    student_steps=300,
    judged_prompts=1_000,
    judged_samples=2,
)

FAST = Plan(
    num_conversations=8_000,
    num_pairs=3_000,
    reference_steps=300,
    teacher_steps=80,
    student_sft_steps=300,
    student_steps=80,
    judged_prompts=250,
    judged_samples=1,
)

Job = Callable[[], Any]


class ProcessPool:
    """A few worker processes, started when there is first something to do side by side.

    Every job has one thread, also one that runs alone: models this small lose by a second one
    (docs/lab_notes.md), and results do not depend on how many workers there are.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None
        self._threads_before = torch.get_num_threads()

    def __enter__(self) -> Self:
        torch.set_num_threads(1)
        return self

    def __exit__(self, *exception: object) -> None:
        torch.set_num_threads(self._threads_before)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: list[Job]) -> list[Any]:
        """Run jobs and return their results in order; a single one runs in this process.

        Args:
            jobs: picklable functions without arguments (`functools.partial` of importable ones).
        Raises:
            Exception: the first that a job raised; jobs not yet started are dropped.
        """
        if self._num_workers < 2 or len(jobs) < 2:
            return [job() for job in jobs]
        if self._pool is None:
            # Not fork: torch's thread pools do not survive it.
            self._pool = ProcessPoolExecutor(
                self._num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=torch.set_num_threads,
                initargs=(1,),
            )
        futures = [self._pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


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


class DemoSteps:
    """Makes models, rollouts and signals inside one folder; what is finished there is not made again.

    `train`, `score` and `sample` say what a step is; `run` runs steps, side by side where there are several.

    Attributes:
        out: the folder.
        commands: the command line of every step so far, in order.
    """

    def __init__(self, out: Path, *, seed: int, plan: Plan, pool: ProcessPool) -> None:
        """Take a folder over, unless it holds another demo.

        Args:
            out: the folder.
            seed: of all training and sampling.
            plan: how much of everything.
            pool: runs steps side by side.
        Raises:
            ConfigurationError: naming what differs.
        """
        self.out = out
        self.commands: list[str] = []
        self._seed = seed
        self._plan = plan
        self._crew = pool
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
            threads=1,  # as in a pool; typed by hand it gives the same weights to the last bit
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
            logger.info("  %s  (%.0f s)", step.options.out, taken)

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


def write_initial_data(steps: DemoSteps, world: World, plan: Plan) -> None:
    """Write data and untrained models that are not there yet.

    Each kind of data draws from a separate generator, so that the size of one does not change another.
    """
    conversations, pairs, held_out = (steps.data(name) for name in ("conversations", "pairs", "held-out"))
    if not conversations.exists():
        rng = np.random.default_rng((world.seed, 1))
        write_conversations(conversations, draw_conversations(world, rng, plan.num_conversations))
    if not pairs.exists():
        write_pairs(pairs, draw_pairs(world, np.random.default_rng((world.seed, 2)), plan.num_pairs))
    if not held_out.exists():
        write_prompts(held_out, map(prompt_text, world.held_out_prompts[: plan.judged_prompts]))
    for name, save in (
        ("untrained-teacher", save_untrained_teacher),
        ("untrained-student", save_untrained_student),
    ):
        if not (steps.model(name) / "tokenizer.json").exists():  # written last
            save(steps.model(name), seed=world.seed)
