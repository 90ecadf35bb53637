"""The steps from real weights to students, each a public function; what is finished is not made again."""

import dataclasses
import json
import logging
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from adpa import SampleOptions, ScoreOptions, TrainOptions, sample_student, score_teacher, train_student
from benchmarks.real_text.models.gemma import gemma_reference
from benchmarks.real_text.models.weights import cut_student, smollm2_reference
from benchmarks.real_text.sizes import Size, Trained
from benchmarks.real_text.steps import Steps
from benchmarks.real_text.worlds.pairs import Answer, best_and_worst, finished_rows, read_answers
from benchmarks.real_text.worlds.world import Prompt, World
from data.files import write_atomic
from data.signals.rollouts import Rollout, RolloutDataset

logger = logging.getLogger(__name__)

# Prompts have up to 70 tokens. vLLM tries a whole batch out whenever it starts: 4,096 tokens, its default here, cost as
# much as sampling a hundred answers.
LENGTHS: dict[str, Any] = {"max_length": 192, "max_num_batched_tokens": 512}

# Methods that learn on the student's own answers.
_ON_STUDENT_ROWS = ("adpa", "dppo-token", "dppo-sequence", "exopd", "hybrid", "opd")

_REFERENCES = {"friendly": smollm2_reference, "constraints": gemma_reference}

# Standard deviation of what a labeller adds to the reward.
_LABEL_NOISE = 0.05


class Pipeline:
    """Makes data, models, rollouts and signals of one world and seed in one folder."""

    def __init__(
        self,
        out: Path,
        world: World,
        seed: int,
        size: Size,
        *,
        source: Path | None = None,
        engine: str = "auto",
    ) -> None:
        """Take the folder, unless it holds another run.

        Args:
            out: the folder.
            world: prompts and reward.
            seed: of prompts, labels, sampling and training.
            size: how much of everything.
            source: the checkpoint that all models are made of; None takes the weights out of their package.
            engine: that samples and scores.
        Raises:
            SystemExit: naming what differs.
        """
        self.out, self.world, self.seed, self.size, self._source = out, world, seed, size, source
        self._engine = engine
        out.mkdir(parents=True, exist_ok=True)
        self._claim_folder()
        self._steps = Steps(out)
        self.train = world.prompts(seed, size.train_prompts)
        held_out = world.prompts(seed + 1000, size.held_out + size.train_prompts)
        seen = {prompt.text for prompt in self.train}
        self.held_out = [prompt for prompt in held_out if prompt.text not in seen][: size.held_out]

    def _claim_folder(self) -> None:
        asked = json.dumps(
            {"world": self.world.name, "seed": self.seed, **dataclasses.asdict(self.size)}, indent=2
        )
        record = self.out / "plan.json"
        if record.exists() and json.loads(record.read_text()) != json.loads(asked):
            raise SystemExit(f"{self.out}: holds a run of another size, world or seed; choose another --out")
        write_atomic(record, asked + "\n")

    def model(self, name: str) -> Path:
        """Folder of a model by the name in the tables."""
        return self.out / "models" / _file_name(name)

    def signals(self, name: str) -> Path:
        """Folder of signals: `pairs`, `held-out`, or the model on whose answers they are."""
        return self.out / "signals" / _file_name(name)

    def make_teacher(self) -> None:
        """Reference, pairs of its answers, and the teacher trained from it on them by DPO."""
        size, weights = self.size, self.out.parent / "weights"
        make_reference = _REFERENCES[self.world.name]
        reference = make_reference(weights, common=size.common_tokens, source=self._source)
        if not self.model("reference").exists():
            self.model("reference").parent.mkdir(parents=True, exist_ok=True)
            self.model("reference").symlink_to(reference.resolve())
        self._write_prompts("train", self.train)
        self._write_prompts("held-out", self.held_out)
        self.sample("reference", "train", size.samples, 1.0)
        self._write_pairs()
        options = {
            "student": str(reference),
            "data": str(self._data("data")),
            "method": "dpo",
            "lora_rank": size.teacher_lora_rank,
        }
        # Half the pairs at once: all of the reference's layers are trained.
        batch_size = max(size.batch_size // 2, 1)
        self._train(
            "teacher",
            options,
            steps=size.teacher_steps,
            rate=size.teacher_rate,
            batch_size=batch_size,
            accumulation=2,
        )

    def make_student(self) -> None:
        """The student, cut out of the reference and healed; and what it is trained from."""
        size = self.size
        reference = self.model("reference").resolve()
        cut = cut_student(
            reference,
            reference.with_name(f"{reference.name}-layers-{'-'.join(map(str, size.layers))}"),
            size.layers,
        )
        # By the answers and by the reference's distributions at them: from the texts of some hundred answers alone, a
        # model that has lost most of its layers does not learn to speak again.
        self._score(
            "answers", {"data": str(self._data("answers")), "score": ("chosen",)}, teacher="reference"
        )
        options = {"student": str(cut), "signals": (str(self.signals("answers")),), "method": "vanilla-kd"}
        self._train("student", options, steps=size.heal_steps, rate=1e-3, batch_size=2 * size.batch_size)
        self._score_answers("pairs", "student", ("chosen", "rejected", "student"))

    def make_method(self, trained: Trained) -> None:
        """A student trained by one method, with the rollouts and signals that it needs."""
        options: dict[str, Any] = {"student": str(self.model(trained.start)), **trained.settings}
        if trained.rows == "data":
            options["data"] = str(self._data("data"))
        else:
            if trained.rows != "pairs":
                self._score_answers(trained.rows, trained.rows, ("student",))
            options["signals"] = (str(self.signals(trained.rows)),)
            if trained.settings["method"] in _ON_STUDENT_ROWS:
                # Only for the metric of how stale the answers have become.
                model = "student" if trained.rows == "pairs" else trained.rows
                options["rollouts"] = (str(self._rollouts(model, "data", 1.0)),)
        size = self.size
        self._train(
            trained.name,
            options,
            steps=max(round(size.student_steps * trained.share_of_steps), 1),
            rate=size.student_rate * trained.rate_factor,
            batch_size=size.batch_size,
        )

    def score_held_out(self) -> Path:
        """Signals of the reference's answers to held-out prompts, the better of two as chosen."""
        if not self._data("held-out-pairs").exists():
            answers = self.answers("reference", 1.0)
            pairs = best_and_worst(self.world, self.held_out, answers, random.Random(0), noise=0.0)
            self._write("held-out-pairs", self._pair_rows(pairs))
        self._score("held-out", {"data": str(self._data("held-out-pairs"))})
        return self.signals("held-out")

    def answers(self, model: str, temperature: float, samples: int | None = None) -> dict[str, list[Answer]]:
        """A model's answers to the held-out prompts, by the prompt's id."""
        if samples is None:
            samples = {1.0: self.size.judged_samples, 0.0: 1}.get(temperature, 2)
        self.sample(model, "held-out", samples, temperature)
        return read_answers(self._rollouts(model, "held-out", temperature))

    def sample(self, model: str, prompts: str, samples: int, temperature: float) -> None:
        """Answers of a model to a file of prompts, as rollouts."""
        out = self._rollouts(model, prompts, temperature)
        options = SampleOptions(
            student=str(self.model(model)),
            data=str(self._data(prompts)),
            out=str(out),
            num_samples=samples,
            temperature=temperature,
            seed=self.seed,
            max_new_tokens=self.size.max_new_tokens,
            # The unit of resuming: some minutes of the reference.
            shard_pairs=128 if prompts == "held-out" else 32,
            engine=self._engine,
            own_process=False,
            **LENGTHS,
        )
        self._steps.run("sample-student", sample_student, options, out / "manifest.json")

    def held_out_rows(self, model: str, temperature: float) -> list[Rollout]:
        """A model's first answers to the held-out prompts with their ids, sampled before."""
        first: dict[str, Rollout] = {}
        for row in RolloutDataset.open(self._rollouts(model, "held-out", temperature)).iterate():
            first.setdefault(row.pair_id, row)
        return list(first.values())

    def _write_prompts(self, name: str, prompts: Iterable[Prompt]) -> None:
        if not self._data(name).exists():
            self._write(name, map(self.world.row, prompts))

    def _write_pairs(self) -> None:
        """Pairs out of the reference's answers, labelled by the reward with noise; and its finished answers."""
        if self._data("answers").exists():
            return
        answers = read_answers(self._rollouts("reference", "train", 1.0))
        pairs = best_and_worst(
            self.world, self.train, answers, random.Random(f"labels {self.seed}"), noise=_LABEL_NOISE
        )
        self._write("data", self._pair_rows(pairs))
        self._write("answers", finished_rows(self.world, self.train, answers))

    def _pair_rows(self, pairs: Iterable[tuple[Prompt, str, str]]) -> Iterator[dict[str, Any]]:
        for prompt, chosen, rejected in pairs:
            yield {**self.world.row(prompt), "chosen": chosen, "rejected": rejected}

    def _write(self, name: str, rows: Iterator[dict[str, Any]]) -> None:
        self._data(name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._data(name), "".join(json.dumps(row) + "\n" for row in rows))

    def _train(
        self,
        name: str,
        given: dict[str, Any],
        *,
        steps: int,
        rate: float,
        batch_size: int,
        accumulation: int = 1,
    ) -> None:
        options = TrainOptions(
            **{"seed": self.seed, **given},
            out=str(self.model(name)),
            max_steps=steps,
            learning_rate=rate,
            batch_size=batch_size,
            gradient_accumulation=accumulation,
            warmup_steps=max(steps // 10, 1),
            logging_steps=1,
        )
        self._steps.run("train-student", train_student, options, self.model(name) / "config.json")
        # From which a run could be extended: with the optimizer's state three times the model.
        shutil.rmtree(self.model(name) / "checkpoints", ignore_errors=True)

    def _score_answers(self, name: str, model: str, roles: tuple[str, ...]) -> None:
        """Signals of the pairs and of a model's own answers to their prompts."""
        self.sample(model, "data", 1, 1.0)
        rollouts = str(self._rollouts(model, "data", 1.0))
        self._score(name, {"data": str(self._data("data")), "rollouts": rollouts, "score": roles})

    def _score(self, name: str, given: dict[str, Any], *, teacher: str = "teacher") -> None:
        options = ScoreOptions(
            **given,
            teacher=str(self.model(teacher)),
            reference=str(self.model("reference")) if teacher == "teacher" else None,
            out=str(self.signals(name)),
            store_conversations=True,
            shard_pairs=32,
            engine=self._engine,
            own_process=False,
            **LENGTHS,
        )
        self._steps.run("score-teacher", score_teacher, options, self.signals(name) / "manifest.json")

    def _data(self, name: str) -> Path:
        return self.out / "data" / f"{name}.jsonl"

    def _rollouts(self, model: str, prompts: str, temperature: float) -> Path:
        return self.out / "rollouts" / f"{_file_name(model)}-{prompts}-{temperature:g}"


def _file_name(name: str) -> str:
    return name.replace(" ", "-").replace(",", "").replace("+", "-plus").lower()
