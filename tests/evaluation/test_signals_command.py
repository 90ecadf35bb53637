"""Held-out signals of the tiny world: figures against plain forward passes, differences, what is stored."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data.errors import DataError
from data.signals.dataset import SignalDataset
from evaluation.options import SignalsEvaluationOptions
from evaluation.signals import evaluate_signals
from student_training.held_out import measure_signals
from teacher_scoring.options import ScoreOptions
from teacher_scoring.score import score_teacher


@pytest.fixture(scope="module")
def signals(tiny_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("held-out") / "signals"
    score_teacher(
        ScoreOptions(
            teacher=str(tiny_world.teacher),
            reference=str(tiny_world.reference),
            data=str(tiny_world.pairs),
            out=str(out),
            engine="transformers",
            top_k=16,
            precision="exact",
        )
    )
    return out


def options(signals, *models, **settings):
    return SignalsEvaluationOptions(signals=str(signals), model=tuple(map(str, models)), **settings)


def figure(result, model, name):
    [found] = [f for m in result.models if m.model == model for f in m.figures if f.name == name]
    return found


def test_likelihood_is_that_of_a_plain_forward_pass(signals, tiny_world):
    result = evaluate_signals(options(signals, tiny_world.student), measure_signals)
    model = AutoModelForCausalLM.from_pretrained(tiny_world.student, dtype=torch.float32).eval()
    total, count = 0.0, 0
    dataset = SignalDataset.open(signals)
    for row in (row for index in range(dataset.num_pairs) for row in dataset.pair(index)):
        if row.role == "rejected":
            ids = torch.from_numpy(np.concatenate([row.prompt_ids, row.response_ids])).long()
            with torch.no_grad():
                logprobs = model(ids[None]).logits[0].log_softmax(-1)
            start = len(row.prompt_ids)
            total -= sum(logprobs[i - 1, ids[i]].item() for i in range(start, len(ids)))
            count += len(ids) - start
    # float32 sums in another order.
    assert figure(result, "student", "nll/rejected").value.value == pytest.approx(total / count, rel=1e-5)


def test_a_teacher_on_its_own_signals_is_at_no_distance(signals, tiny_world):
    result = evaluate_signals(options(signals, tiny_world.teacher), measure_signals)
    for role in ("chosen", "rejected"):
        assert figure(result, "teacher", f"kl/{role}").value.value == pytest.approx(0, abs=1e-5)
        own = figure(result, "teacher", f"teacher_expected_advantage/{role}").value.value
        assert figure(result, "teacher", f"expected_advantage/{role}").value.value == pytest.approx(
            own, abs=1e-4
        )


def test_figures_do_not_depend_on_the_batch(signals, tiny_world):
    one = evaluate_signals(options(signals, tiny_world.student, batch_size=1), measure_signals)
    many = evaluate_signals(options(signals, tiny_world.student, batch_size=7), measure_signals)
    for a, b in zip(one.models[0].figures, many.models[0].figures, strict=True):
        assert a.name == b.name
        assert a.value.value == pytest.approx(b.value.value, rel=1e-5, abs=1e-6)


def test_differences_are_paired_with_the_baseline(signals, tiny_world):
    result = evaluate_signals(
        options(signals, tiny_world.student, baseline=str(tiny_world.reference)), measure_signals
    )
    ours, theirs = (figure(result, name, "nll/chosen") for name in ("student", "reference"))
    assert theirs.difference is None
    assert ours.difference.value == pytest.approx(ours.value.value - theirs.value.value)
    # Both have the same pairs, so what makes a pair hard leaves the difference.
    low, high = ours.difference.low, ours.difference.high
    assert low <= ours.difference.value <= high


def test_implicit_accuracy_counts_pairs_whose_ratio_prefers_chosen(signals, tiny_world, tmp_path):
    result = evaluate_signals(
        options(signals, tiny_world.student, baseline=str(tiny_world.reference), out=str(tmp_path / "out")),
        measure_signals,
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "responses.jsonl").read_text().splitlines()]
    nll = {(row["model"], row["pair_id"], row["role"]): row["nll"] for row in rows}
    pairs = {pair for _, pair, _ in nll}
    wins = 0
    for pair in pairs:
        reward = {
            role: nll["reference", pair, role] - nll["student", pair, role] for role in ("chosen", "rejected")
        }
        wins += reward["chosen"] > reward["rejected"]
    assert figure(result, "student", "implicit_accuracy").value.value == pytest.approx(wins / len(pairs))
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored["request"]["models"]["student"]["weights_sha256"]
    assert stored["num_pairs"] == len(pairs)


def test_what_is_missing_is_said(signals, tiny_world):
    result = evaluate_signals(options(signals, tiny_world.student), measure_signals)
    assert any("only 10 pairs" in finding for finding in result.findings)
    assert any("without --baseline" in finding for finding in result.findings)
    assert not any(f.name.startswith("implicit") for f in result.models[0].figures)


def test_a_checkpoint_without_the_teachers_tokens_is_refused(signals, tiny_world, tmp_path):
    small = tmp_path / "small"
    model = AutoModelForCausalLM.from_pretrained(tiny_world.student)
    model.resize_token_embeddings(20)
    model.save_pretrained(small)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (small / name).write_bytes((tiny_world.student / name).read_bytes())
    with pytest.raises(DataError, match="20 embeddings"):
        evaluate_signals(options(signals, small), measure_signals)
