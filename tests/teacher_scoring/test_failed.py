"""Responses that lose their scores: named, counted, their pairs left out, asked for again by a later run."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data.checks.verify import verify_dataset
from data.errors import ScoringError
from data.signals.dataset import SignalDataset
from teacher_scoring.engines.checked import LostAnswersError
from teacher_scoring.engines.open import open_engine
from teacher_scoring.passes.run import PassCounts
from teacher_scoring.sample import SampleOptions, sample_student
from teacher_scoring.score import ScoreOptions, score_teacher
from teacher_scoring.workers import work as engine_work

pytestmark = pytest.mark.slow


class Forgetful:
    """A real engine that loses the answers to some questions, as one does that preempts requests."""

    def __init__(self, engine, loses):
        self._engine = engine
        self._loses = loses

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def _answer(self, questions, answers):
        lost = {n: "nothing came back" for n, question in enumerate(questions) if self._loses(question)}
        if lost:
            raise LostAnswersError(
                "forgetful", [None if n in lost else a for n, a in enumerate(answers)], lost
            )
        return answers

    def score_support(self, sequences, top_k):
        return self._answer(sequences, self._engine.score_support(sequences, top_k))

    def score_given(self, sequences, ids):
        return self._answer(sequences, self._engine.score_given(sequences, ids))

    def sample(self, prompts, seeds, sampling):
        return self._answer(prompts, self._engine.sample(prompts, seeds, sampling))


@pytest.fixture
def forget(monkeypatch):
    """Makes the engine whose model folder has a name lose what a predicate says; None ends that."""

    def install(model, loses):
        def opened(kind, settings):
            engine = open_engine(kind, settings)
            return Forgetful(engine, loses) if loses and settings.model.endswith(model) else engine

        monkeypatch.setattr(engine_work, "open_engine", opened)

    return install


@pytest.fixture
def score(tiny_world, tmp_path):
    def run(out="out", **changed):
        given = {
            "teacher": str(tiny_world.teacher),
            "reference": str(tiny_world.reference),
            "data": str(tiny_world.pairs),
            "out": str(tmp_path / out),
            "pass_cache": str(tmp_path / "passes"),
            "engine": "transformers",
            "top_k": 8,
            "shard_pairs": 4,
        }
        result = score_teacher(ScoreOptions(**{**given, **changed}))
        return result.open(), result

    return run


@pytest.mark.parametrize("model", ["teacher", "reference"])
def test_a_lost_response_is_named_and_its_pair_left_out(model, tiny_world, score, forget, tmp_path):
    whole, _ = score("whole", pass_cache=str(tmp_path / "other"))
    victim = next(row for n, row in enumerate(whole.iterate()) if n == 5)
    assert victim.role == "rejected"
    forget(model, lambda sequence: np.array_equal(sequence.response_ids, victim.response_ids))
    dataset, result = score()
    failed = [json.loads(line) for line in (dataset.path / "failed.jsonl").read_text().splitlines()]
    assert failed == [
        {
            "pair_id": victim.pair_id,
            "role": "rejected",
            "sample_index": 0,
            "model": model,
            "reason": "nothing came back",
        }
    ]
    assert result.lost == 1
    assert victim.pair_id not in {row.pair_id for row in dataset.iterate()}
    assert dataset.num_pairs == 9
    assert verify_dataset(dataset.path) == []


def test_a_later_run_asks_for_what_was_lost_and_for_nothing_else(tiny_world, score, forget):
    victim = []
    forget("teacher", lambda sequence: not victim or np.array_equal(sequence.response_ids, victim[0]))
    whole, _ = score("whole", teacher=str(tiny_world.reference))
    victim.append(next(whole.iterate()).response_ids)
    score("with-loss")
    forget("teacher", None)
    dataset, result = score("again")
    total = dataset.num_positions
    assert result.teacher == PassCounts(positions=total, found=total - len(victim[0]))
    assert result.reference == PassCounts(positions=total, found=total - len(victim[0]))
    assert dataset.num_pairs == 10
    assert not (dataset.path / "failed.jsonl").exists()
    assert SignalDataset.open(dataset.path, check_shards=True).num_pairs == 10


def test_a_model_that_loses_a_whole_task_is_an_error(score, forget, tmp_path):
    forget("teacher", lambda sequence: True)
    with pytest.raises(ScoringError, match=r"all 10 answers to the chosen responses of shard 0 were lost"):
        score(shard_pairs=10)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reference", [True, False])
def test_a_model_whose_every_score_is_not_finite_ends_in_an_error_and_no_dataset(
    tiny_world, score, tmp_path, reference
):
    """As an overflow in float16 does; one row, so that few answers are lost."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_world.teacher, broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    model.save_pretrained(broken)
    one = tmp_path / "one.jsonl"
    one.write_text(tiny_world.pairs.read_text().splitlines(keepends=True)[0])
    given = {} if reference else {"reference": None}
    with pytest.raises(
        ScoringError, match=r"all 2 responses lost their scores: scores that are not finite; .*--dtype"
    ):
        score(teacher=str(broken), data=str(one), **given)
    assert not (tmp_path / "out").exists()


def test_pairs_that_all_lost_a_response_make_no_dataset(tiny_world, score, forget, tmp_path):
    """Every rejected response is lost, every chosen one scored: no pair is left, though half of all scores are."""
    whole, _ = score("whole", pass_cache=str(tmp_path / "other"))
    rejected = {row.response_ids.tobytes() for row in whole.iterate() if row.role == "rejected"}
    forget("teacher", lambda sequence: sequence.response_ids.tobytes() in rejected)
    with pytest.raises(
        ScoringError, match="no pair is left, all of them lost a response; the first: teacher"
    ):
        score()
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_prompts_without_an_answer_are_named_and_left_out_of_the_rollouts(tiny_world, forget, tmp_path):
    seen = []
    forget("student", lambda prompt: seen.append(prompt) or len(seen) == 3)
    result = sample_student(
        SampleOptions(
            student=str(tiny_world.student), data=str(tiny_world.pairs), engine="transformers", max_new_tokens=4,
            out=str(tmp_path / "rollouts"),
        )
    )  # fmt: skip
    rollouts = result.open()
    failed = [json.loads(line) for line in (rollouts.path / "failed.jsonl").read_text().splitlines()]
    assert [(entry["role"], entry["model"]) for entry in failed] == [("student", "student")]
    assert rollouts.num_pairs == 9
    assert failed[0]["pair_id"] not in {row.pair_id for row in rollouts.iterate()}
    assert (result.lost, result.responses, result.found) == (1, 9, 0)
