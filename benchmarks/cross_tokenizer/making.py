"""Pairs, teacher, signals and students of the training comparison; what is finished is not made again."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from adpa import (
    SampleOptions,
    ScoreOptions,
    SignalDataset,
    TrainOptions,
    sample_student,
    score_teacher,
    train_student,
)
from benchmarks.cross_tokenizer.held_out import HELD_OUT
from benchmarks.cross_tokenizer.plan import Family, Plan, Trained
from benchmarks.cross_tokenizer.preferences import matched_pairs
from benchmarks.real_text.models.gemma import small_gemma
from benchmarks.real_text.models.weights import WORLDS, cut_student, extract_gemma, smollm2_reference
from benchmarks.real_text.pipeline import LENGTHS
from benchmarks.real_text.steps import Steps
from benchmarks.real_text.worlds.pairs import Answer, finished_rows, read_answers
from data.files import write_atomic
from data.translation.dataset import translate_dataset

_BATCH = 8


class Making:
    """Makes what the comparison needs, in one folder.

    Attributes:
        out: the folder.
        plan: how much of everything.
        world: prompts and reward.
        reference: checkpoint of the model that the answers are of, and the teacher was aligned from.
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        *,
        weights: Path,
        source: Path | None = None,
        gemma: Path | None = None,
        engine: str = "auto",
    ) -> None:
        """Take the folder, unless it holds a comparison of other sizes.

        Args:
            out: the folder.
            plan: how much of everything.
            weights: a folder for models that several runs share.
            source: checkpoint that the reference is made of; None takes SmolLM2's weights out of their package.
            gemma: checkpoint of Gemma 3 270M; None takes its weights out of their package.
            engine: that samples and scores.
        Raises:
            SystemExit: naming what differs, or a package that is missing.
        """
        self.out, self.plan, self.world = out, plan, WORLDS["friendly"]
        self._engine, self._weights, self._gemma = engine, weights, gemma
        out.mkdir(parents=True, exist_ok=True)
        record, asked = out / "plan.json", json.dumps(dataclasses.asdict(plan), indent=2) + "\n"
        if record.exists() and record.read_text() != asked:
            raise SystemExit(f"{out}: holds a comparison of other sizes (plan.json); choose another --out")
        write_atomic(record, asked)
        self._steps = Steps(out)
        self.reference = smollm2_reference(weights, common=plan.common_tokens, source=source)
        sizes = {
            "train": plan.train_prompts,
            "tuning": plan.tuning_prompts,
            "teacher-only": plan.teacher_prompts,
        }
        prompts = iter(self.world.prompts(plan.seed, sum(sizes.values())))
        self._prompts = {name: [next(prompts) for _ in range(size)] for name, size in sizes.items()}
        self._prompts["held-out"] = HELD_OUT.prompts(plan.seed, plan.held_out_prompts)

    def families(self) -> tuple[Family, Family]:
        """The student with another tokenizer, and the one with the teacher's."""
        plan, own = self.plan, self.reference
        return (
            Family(name="Gemma", source=self._small_gemma(), layers=plan.gemma_layers, translated=True),
            Family(name="SmolLM2", source=own, layers=plan.own_layers, translated=False),
        )

    def pairs(self, name: str) -> Path:
        """Preference rows of train, tuning or held-out prompts, out of the reference's answers to them.

        One pair of a prompt, but all that there are to measure on.
        """
        file = self.out / "data" / f"{name}-pairs.jsonl"
        if not file.exists():
            _write(file, self._pair_rows(name, most=None if name == "held-out" else 1))
        return file

    def teacher(self) -> Path:
        """The reference after DPO on all pairs of the training prompts and of prompts that students do not see."""
        file = self.out / "data" / "teacher-pairs.jsonl"
        if not file.exists():
            _write(
                file, (row for name in ("train", "teacher-only") for row in self._pair_rows(name, most=None))
            )
        # All of the reference's layers are trained: half the pairs at a time.
        half = _BATCH // 2
        options = {"method": "dpo", "student": str(self.reference), "data": str(file)}
        options |= {"gradient_accumulation": _BATCH // half}
        plan = self.plan
        return self._train(
            "teacher", options, steps=plan.teacher_steps, rate=plan.teacher_rate, batch_size=half
        )

    def student(self, family: Family) -> Path:
        """A family's student before training: some layers, taught to speak again by the reference's answers."""
        name = family.name.lower()
        cut = cut_student(family.source, self.out / "models" / f"{name}-cut", family.layers)
        return self._train(
            f"{name}-student",
            {"method": "sft", "student": str(cut), "data": str(self._finished_answers())},
            steps=self.plan.heal_steps,
            rate=self.plan.heal_rate,
            batch_size=2 * _BATCH,
        )

    def trained(self, family: Family, trained: Trained, order: int) -> Path:
        """A family's student after training, its rows in the order of a seed."""
        rows: dict[str, Any] = {"data": str(self.pairs("train"))}
        if trained.on_signals:
            rows = {"signals": (str(self._signals(family)),)}
        return self._train(
            _file_name(f"{family.name} {trained.name} {order}"),
            {**trained.settings, **rows, "student": str(self.student(family)), "seed": order},
            steps=self.plan.steps,
            rate=self.plan.rate,
            batch_size=_BATCH,
        )

    def _signals(self, family: Family) -> Path:
        """The teacher's signals at the chosen answers of the training pairs, on a family's token ids."""
        source = self.out / "signals" / "teacher"
        options = ScoreOptions(
            teacher=str(self.teacher()),
            reference=str(self.reference),
            data=str(self.pairs("train")),
            score=("chosen",),
            out=str(source),
            store_conversations=True,
            shard_pairs=64,
            engine=self._engine,
            own_process=False,
            **LENGTHS,
        )
        self._steps.run("score-teacher", score_teacher, options, source / "manifest.json")
        if not family.translated:
            return source
        out = self.out / "signals" / family.name.lower()
        if not (out / "manifest.json").exists():
            found = translate_dataset(
                SignalDataset.open(source),
                self.student(family),
                load_tokenizer=AutoTokenizer.from_pretrained,
                out=str(out),
                max_length=LENGTHS["max_length"],
            )
            print(found, flush=True)
        return out

    def _pair_rows(self, name: str, *, most: int | None) -> Iterator[dict[str, Any]]:
        """Rows of the pairs of a name's prompts, so many of each prompt at most."""
        answers = self._reference_answers(name)
        for prompt in self._prompts[name]:
            pairs = itertools.islice(matched_pairs(self.world, prompt, answers[prompt.id]), most)
            for number, (chosen, rejected) in enumerate(pairs):
                row_id = prompt.id if number == 0 else f"{prompt.id}-{number}"
                yield {**self.world.row(prompt), "id": row_id, "chosen": chosen, "rejected": rejected}

    def _reference_answers(self, name: str) -> dict[str, list[Answer]]:
        """Answers of the reference to the prompts of a name, by the prompts' ids."""
        prompts, out = self.out / "data" / f"{name}-prompts.jsonl", self.out / "rollouts" / name
        _write(prompts, map(self.world.row, self._prompts[name]))
        options = SampleOptions(
            student=str(self.reference),
            data=str(prompts),
            out=str(out),
            num_samples=self.plan.samples,
            temperature=1.0,
            seed=self.plan.seed,
            max_new_tokens=self.plan.max_new_tokens,
            shard_pairs=50,
            engine=self._engine,
            own_process=False,
            **LENGTHS,
        )
        self._steps.run("sample-student", sample_student, options, out / "manifest.json")
        return read_answers(out)

    def _finished_answers(self) -> Path:
        """All finished answers of the reference to the training prompts, from which students learn to speak."""
        file = self.out / "data" / "answers.jsonl"
        if not file.exists():
            answers = self._reference_answers("train")
            _write(file, finished_rows(self.world, self._prompts["train"], answers))
        return file

    def _small_gemma(self) -> Path:
        """Gemma with a chat template and only the tokens of the texts that it is trained on."""
        rows = [json.loads(line) for line in self._finished_answers().read_text().splitlines()]
        texts = {row["chosen"] for row in rows}
        prompts = self._prompts["train"] + self._prompts["tuning"]
        texts |= {self.world.messages(prompt)[-1]["content"] for prompt in prompts}
        gemma = self._gemma or extract_gemma(self._weights / "gemma-270m")
        return small_gemma(gemma, self.out / "models", texts, common=self.plan.common_tokens)

    def _train(self, name: str, given: dict[str, Any], *, steps: int, rate: float, batch_size: int) -> Path:
        out = self.out / "models" / name
        given = {"seed": self.plan.seed, **given}
        options = TrainOptions(
            **given,
            out=str(out),
            max_steps=steps,
            learning_rate=rate,
            batch_size=batch_size,
            warmup_steps=max(steps // 10, 1),
            logging_steps=4,
        )
        self._steps.run("train-student", train_student, options, out / "config.json")
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return out


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, "".join(json.dumps(row) + "\n" for row in rows))


def _file_name(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "-")
