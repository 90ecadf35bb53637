"""A scored tiny world for the training tests: all roles, pairs only, and without a reference."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from student_training.options import TrainOptions
from student_training.run import train_student
from teacher_scoring.sample import SampleOptions, sample_student
from teacher_scoring.score import ScoreOptions, score_teacher


@dataclass(frozen=True)
class Scored:
    """Folders of signal datasets, and a shorthand for training on them."""

    full: Path
    rollouts: Path
    plain: Path
    pairs_only: Path
    student: Path
    pairs: Path

    def options(self, method: str, out: Path, **changes) -> TrainOptions:
        chosen = {"student": str(self.student), "out": str(out), "method": method, "logging_steps": 1}
        if "signals" not in changes and "data" not in changes:
            chosen["signals"] = (str(self.full),)
        if method.startswith("dppo"):
            chosen["rollouts"] = (str(self.rollouts),)
        return TrainOptions(**(chosen | {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3} | changes))

    def train(self, method: str, out: Path, **changes):
        return train_student(self.options(method, out, **changes))


@pytest.fixture(scope="session")
def scored(tiny_world, tmp_path_factory) -> Scored:
    folder = tmp_path_factory.mktemp("scored")
    common = {"data": str(tiny_world.pairs), "engine": "transformers"}
    rollouts, full = folder / "rollouts", folder / "signals"
    plain, pairs_only = folder / "without-reference", folder / "pairs-only"
    sample_student(
        SampleOptions(
            student=str(tiny_world.student), max_new_tokens=8, num_samples=2, out=str(rollouts), **common
        )
    )
    cache = {"pass_cache": str(folder / "passes"), "top_k": 8, "teacher": str(tiny_world.teacher)}
    score_teacher(
        ScoreOptions(
            reference=str(tiny_world.reference), rollouts=str(rollouts), out=str(full), **common, **cache
        )
    )
    score_teacher(ScoreOptions(rollouts=str(rollouts), out=str(plain), **common, **cache))
    score_teacher(ScoreOptions(reference=str(tiny_world.reference), out=str(pairs_only), **common, **cache))
    return Scored(full, rollouts, plain, pairs_only, tiny_world.student, tiny_world.pairs)


#: What a killed run and its continuation cannot share: the time they took.
CLOCKED = {"tokens_per_second", "data_share", "tflops", "model_flops_utilisation"}


@pytest.fixture(scope="session")
def student_with_dropout(scored, tmp_path_factory):
    """Random numbers in every step, so that a generator that is not restored shows."""
    folder = tmp_path_factory.mktemp("dropout")
    model = AutoModelForCausalLM.from_pretrained(scored.student, attention_dropout=0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(scored.student).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def numbers():
    """Every line of a run's metrics.jsonl, without the times."""

    def read(out):
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]

    return read
