"""Models, rollouts and signals of one world and seed, made by the package's public functions; nothing is made twice."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from adpa import SampleOptions, ScoreOptions, TrainOptions, sample_student, score_teacher, train_student
from benchmarks.map.plan.methods import METHODS, Job, MethodRun
from benchmarks.map.plan.sizes import CHOSEN, TEACHERS, Plan
from benchmarks.map.worlds import WORLDS, draw_conversations, draw_pairs, save_models, write_lines
from student_training.checkpoints.saving import is_finished

logger = logging.getLogger(__name__)


class Workshop:
    """One world and seed in a separate folder.

    Every step is a call of `train_student`, `score_teacher` or `sample_student` with the options that the commands
    of the same names take; in one process, which saves the commands' start. What a folder holds is not made again.

    Attributes:
        world: its toy world.
        seed: of the world and of all training.
    """

    def __init__(self, folder: Path, *, world: str, seed: int, plan: Plan) -> None:
        self.world = WORLDS[world](seed)
        self.seed = seed
        self._folder = folder
        self._plan = plan
        if not (self.model("untrained-student") / "tokenizer.json").exists():
            save_models(self.world, folder / "models", seed=seed, teacher_width=plan.teacher_width)

    def model(self, name: str) -> Path:
        """The folder of a checkpoint."""
        return self._folder / "models" / name

    def held_out_pairs(self) -> list[dict[str, Any]]:
        """Pairs on held-out prompts, best of four, for measures that need answers."""
        rng = np.random.default_rng((self.seed, 5))
        prompts = self.world.held_out_prompts[: self._plan.num_measured_pairs]
        return draw_pairs(self.world, rng, prompts, best_of=4, noise=0.05)

    def conversations(self) -> Path:
        """Supervised data, which reference and student start from."""
        path = self._folder / "data" / "conversations.jsonl"
        if not path.exists():
            rng = np.random.default_rng((self.seed, 1))
            write_lines(path, draw_conversations(self.world, rng, self._plan.num_conversations))
        return path

    def teacher_pairs(self, count: int) -> Path:
        """Pairs for a teacher's DPO; students do not see them."""
        path = self._folder / "data" / f"teacher-pairs-{count}.jsonl"
        if not path.exists():
            rng = np.random.default_rng((self.seed, 2))
            prompts = self.world.draw_prompts(rng, count)
            write_lines(path, draw_pairs(self.world, rng, prompts, best_of=4, noise=0.05))
        return path

    def pairs(self, chosen: str) -> Path:
        """The students' pairs with chosen answers of one quality; prompts are the same for every quality."""
        path = self._folder / "data" / f"pairs-{chosen}.jsonl"
        if not path.exists():
            kind = CHOSEN[chosen]
            rng = np.random.default_rng((self.seed, 4))
            rows = draw_pairs(self.world, rng, self._drawn_prompts(), best_of=kind.best_of, noise=kind.noise)
            write_lines(path, rows)
        return path

    def prompts(self) -> Path:
        """The prompts of the pairs alone, which are the same for every quality."""
        path = self._folder / "data" / "prompts.jsonl"
        if not path.exists():
            drawn = enumerate(self._drawn_prompts())
            write_lines(
                path, ({"id": f"pair-{n}", "prompt": self.world.messages(prompt)} for n, prompt in drawn)
            )
        return path

    def _drawn_prompts(self) -> np.ndarray:
        return self.world.draw_prompts(np.random.default_rng((self.seed, 3)), self._plan.num_pairs)

    def true_rewards(self, chosen: str) -> tuple[float, float]:
        """Mean true rewards of chosen and of rejected answers of one quality."""
        with self.pairs(chosen).open(encoding="utf-8") as lines:
            found = np.array([json.loads(line)["true_rewards"] for line in lines])
        return float(found[:, 0].mean()), float(found[:, 1].mean())

    def reference(self) -> Path:
        """The supervised model that every teacher is aligned from."""
        return self._train(
            "reference",
            start="untrained-teacher",
            method="sft",
            data=str(self.conversations()),
            steps=self._plan.reference_steps,
            learning_rate=self._plan.reference_learning_rate,
            batch_size=self._plan.sft_batch_size,
        )

    def student(self) -> Path:
        """The supervised student that every method starts from."""
        return self._train(
            "student",
            start="untrained-student",
            method="sft",
            data=str(self.conversations()),
            steps=self._plan.student_sft_steps,
            learning_rate=self._plan.student_sft_learning_rate,
            batch_size=self._plan.sft_batch_size,
        )

    def teacher(self, name: str, chosen: str) -> Path:
        """A teacher: the reference after DPO.

        Args:
            name: a name of `TEACHERS`.
            chosen: the students' pairs; only a teacher that learns from these depends on it.
        """
        self.reference()
        kind, share = TEACHERS[name], self._plan.teacher_share
        if kind.num_pairs is None:
            folder, pairs = f"teacher-{_plain(name)}-{chosen}", self.pairs(chosen)
        else:
            folder, pairs = f"teacher-{name}", self.teacher_pairs(max(1, round(kind.num_pairs * share)))
        return self._train(
            folder,
            start="reference",
            method="dpo",
            data=str(pairs),
            beta=kind.beta,
            steps=max(1, round(kind.steps * share)),
            learning_rate=self._plan.teacher_learning_rate,
            batch_size=kind.batch_size,
        )

    def rollouts(self, student: str) -> Path:
        """A student's own answers, one to each prompt of the pairs."""
        out = self._folder / "rollouts" / student
        sample_student(
            SampleOptions(
                student=str(self.model(student)),
                data=str(self.prompts()),
                max_new_tokens=self.world.max_answer_tokens,
                seed=self.seed,
                out=str(out),
                engine="transformers",
            )
        )
        return out

    def signals(self, teacher: str, chosen: str, *, student: str = "student", **scoring: Any) -> Path:
        """What a teacher and the reference think of the pairs of one quality and of a student's answers.

        Args:
            teacher: a name of `TEACHERS`.
            chosen: a name of `CHOSEN`.
            student: whose answers are scored; of another one than the initial student the answers alone.
            **scoring: settings of score-teacher that differ from the map's.
        """
        suffix = "".join(f"-{name}-{value}" for name, value in sorted(scoring.items()))
        out = self._folder / "signals" / f"{student}-{_plain(teacher)}-{chosen}{suffix}"
        score_teacher(
            ScoreOptions(
                teacher=str(self.teacher(teacher, chosen)),
                reference=str(self.reference()),
                data=str(self.pairs(chosen)),
                rollouts=str(self.rollouts(student)),
                score=("chosen", "rejected", "student") if student == "student" else ("student",),
                out=str(out),
                pass_cache=str(self._folder / "passes"),
                engine="transformers",
                **{"top_k": self._plan.top_k, **scoring},
            )
        )
        return out

    def student_of(self, job: Job) -> Path:
        """The folder of a job's student, trained or not."""
        return self.model(f"{_plain(job.teacher)}-{job.chosen}-{_plain(job.method)}")

    def trained(self, job: Job) -> Path:
        """The student of a job."""
        self.student()
        run = METHODS[job.method]
        name = self.student_of(job).name
        if not run.needs_teacher:
            return self._method(name, run, data=str(self.pairs(job.chosen)))
        steps, start = self._plan.student_steps, "student"
        if run.after is not None:
            first = METHODS[run.after]
            start = f"{_plain(job.teacher)}-{job.chosen}-{_plain(run.after)}-half"
            signals = self.signals(job.teacher, job.chosen)
            self._method(start, first, signals=(str(signals),), steps=steps // 2)
            steps -= steps // 2
        signals = self.signals(job.teacher, job.chosen, student=start, **run.scoring)
        return self._method(name, run, start=start, steps=steps, signals=(str(signals),))

    def _method(self, name: str, run: MethodRun, *, start: str = "student", **more: Any) -> Path:
        more.setdefault("steps", self._plan.student_steps)
        rate = run.learning_rate or self._plan.student_learning_rate
        return self._train(name, start=start, method=run.method, learning_rate=rate, **more, **run.settings)

    def _train(self, name: str, *, start: str, steps: int, **more: Any) -> Path:
        out = self.model(name)
        if is_finished(out):
            return out
        more.setdefault("batch_size", self._plan.batch_size)
        train_student(
            TrainOptions(
                student=str(self.model(start)),
                out=str(out),
                max_steps=steps,
                warmup_steps=self._plan.warmup_steps,
                seed=self.seed,
                save_steps=steps,
                threads=1,
                **more,
            )
        )
        return out


def _plain(name: str) -> str:
    """A name of a method or teacher as a part of a folder's name."""
    return name.replace(", ", "-").replace(" ", "-")
