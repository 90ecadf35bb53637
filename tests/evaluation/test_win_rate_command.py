"""Answers, judgments and figures of a whole comparison; two small models with random weights."""

import json

import pytest

from data.errors import ConfigurationError, EvaluationError
from data.files import adpa_home
from evaluation.judgments import read_judgments
from evaluation.options import WinRateOptions
from evaluation.win_rate import evaluate_win_rate
from teacher_scoring.language_model import open_language_model


def open_model(name, *, option):
    return open_language_model(name, option=option, engine="transformers", dtype="float32")


@pytest.fixture
def judges(tmp_path, monkeypatch):
    (tmp_path / "position_judge.py").write_text(
        "asked = []\n"
        "def first(messages, first, second):\n    asked.append(1)\n    return 1\n"
        "def longer(messages, first, second):\n    asked.append(1)\n    return len(first) >= len(second)\n"
        "def none(messages, first, second): return None\n"
        "def dies(messages, first, second):\n"
        "    asked.append(1)\n    if len(asked) > 7: raise RuntimeError('down')\n    return 1\n"
    )
    monkeypatch.chdir(tmp_path)


def options(tiny_world, tmp_path, judge="longer", **settings):
    arguments = {
        "model": (str(tiny_world.student),),
        "baseline": str(tiny_world.reference),
        "data": str(tiny_world.pairs),
        "out": str(tmp_path / "out"),
        "max_new_tokens": 8,
        "judge_function": f"position_judge:{judge}",
    }
    return WinRateOptions(**{**arguments, **settings})


def test_both_orders_are_judged_and_averaged(tiny_world, tmp_path, judges):
    found = evaluate_win_rate(options(tiny_world, tmp_path, "first"), open_model)
    [result] = found.comparison.results
    judged = [j for j in read_judgments(tmp_path / "out" / "judgments.jsonl") if not j.identical]
    assert {j.order for j in judged} == {"model_first", "baseline_first"}
    # A judge of the position says nothing about the answers.
    assert result.win_rate.value == 50.0
    assert result.trust.consistency == 0.0
    assert any("judges the position" in finding for finding in result.findings)
    assert "judges the position" in found.table


def test_every_figure_says_what_determined_it(tiny_world, tmp_path, judges):
    evaluate_win_rate(options(tiny_world, tmp_path), open_model)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    request = result["request"]
    assert request["judge"]["name"] == "position_judge:longer"
    assert request["judge"]["details"]["source_sha256"]
    assert {"student", "reference"} == set(request["models"])
    for model in request["models"].values():
        assert model["model"]["weights_sha256"]
        assert model["arithmetic"]["engine"]["version"]
        assert model["sampling"]["max_new_tokens"] == 8
    assert request["data"]["hash"]


def test_a_second_run_judges_nothing_and_says_the_same(tiny_world, tmp_path, judges):
    import position_judge

    first = evaluate_win_rate(options(tiny_world, tmp_path), open_model)
    position_judge.asked.clear()
    again = evaluate_win_rate(options(tiny_world, tmp_path), open_model)
    assert position_judge.asked == []
    assert again.comparison == first.comparison


def test_a_judge_that_dies_loses_no_verdict(tiny_world, tmp_path, judges):
    import position_judge

    position_judge.asked.clear()
    with pytest.raises(EvaluationError, match="down"):
        evaluate_win_rate(options(tiny_world, tmp_path, "dies"), open_model)
    stored = len(read_judgments(tmp_path / "out" / "judgments.jsonl"))
    assert stored >= 7
    position_judge.asked.clear()
    position_judge.asked.extend([])
    with pytest.raises(EvaluationError, match="down"):
        evaluate_win_rate(options(tiny_world, tmp_path, "dies"), open_model)
    assert len(read_judgments(tmp_path / "out" / "judgments.jsonl")) == stored + 7


def test_models_may_be_added_to_a_folder(tiny_world, tmp_path, judges):
    import position_judge

    evaluate_win_rate(options(tiny_world, tmp_path), open_model)
    position_judge.asked.clear()
    both = (str(tiny_world.student), str(tiny_world.teacher))
    found = evaluate_win_rate(options(tiny_world, tmp_path, model=both), open_model)
    assert [(r.model, r.baseline) for r in found.comparison.results] == [
        ("student", "reference"),
        ("teacher", "reference"),
    ]
    assert len(position_judge.asked) <= 20
    assert len(found.comparison.differences) == 1


def test_another_judge_needs_another_folder(tiny_world, tmp_path, judges):
    evaluate_win_rate(options(tiny_world, tmp_path), open_model)
    with pytest.raises(ConfigurationError, match="judge"):
        evaluate_win_rate(options(tiny_world, tmp_path, "first"), open_model)


def test_a_folder_of_another_request_is_refused_before_anything_is_generated(tiny_world, tmp_path, judges):
    evaluate_win_rate(options(tiny_world, tmp_path), open_model)
    answers = adpa_home() / "answers"
    before = sorted(answers.glob("*.jsonl"))
    with pytest.raises(ConfigurationError, match=r"sampling\.temperature"):
        evaluate_win_rate(options(tiny_world, tmp_path, temperature=0.3), open_model)
    assert sorted(answers.glob("*.jsonl")) == before


def test_a_run_that_failed_before_its_first_verdict_does_not_bind_the_next(tiny_world, tmp_path, judges):
    with pytest.raises(ConfigurationError, match="no room"):
        evaluate_win_rate(options(tiny_world, tmp_path, max_new_tokens=256), open_model)
    assert evaluate_win_rate(options(tiny_world, tmp_path), open_model).comparison.results


def test_models_without_baseline_meet_each_other(tiny_world, tmp_path, judges):
    models = tuple(map(str, (tiny_world.student, tiny_world.teacher, tiny_world.reference)))
    found = evaluate_win_rate(options(tiny_world, tmp_path, model=models, baseline=None), open_model)
    assert len(found.comparison.results) == 3
    assert found.comparison.matrix.names == ("student", "teacher", "reference")
    matrix = found.comparison.matrix.win_rates
    for i in range(3):
        for j in range(3):
            if i != j:
                assert matrix[i][j] + matrix[j][i] == pytest.approx(100)


def test_labelled_pairs_tell_how_far_to_trust_the_judge(tiny_world, tmp_path, judges):
    pairs = tmp_path / "labels.jsonl"
    rows = [
        {"prompt": "w1", "chosen": "w1 w2 w3", "rejected": "w4"},
        {"prompt": "w2", "chosen": "w1 w2", "rejected": "w4"},
        {"prompt": "w3", "chosen": "w1", "rejected": "w4 w5"},
        {"prompt": "w4", "chosen": "w1 w9", "rejected": "w4"},
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate_win_rate(options(tiny_world, tmp_path, judge_check=str(pairs)), open_model)
    assert found.agreement.accuracy == 0.75
    assert "75.0% of the labels of 4 pairs" in found.table


def test_few_prompts_are_said_beside_the_interval(tiny_world, tmp_path, judges):
    found = evaluate_win_rate(options(tiny_world, tmp_path), open_model)
    assert any("fewer than 30" in finding for finding in found.comparison.results[0].findings)


def test_a_judge_without_any_verdict_is_an_error(tiny_world, tmp_path, judges):
    with pytest.raises(EvaluationError, match="every verdict is malformed"):
        evaluate_win_rate(options(tiny_world, tmp_path, "none"), open_model)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"judge_model": "x"}, "one judge is needed"),
        ({"judge_function": None}, "none is named"),
        ({"judge_function": None, "judge_teacher": "x"}, "belong together"),
        ({"judge_function": None, "judge_url": "http://x"}, "--judge-url needs --judge-model"),
        ({"model": ()}, "needs two models"),
        ({"baseline": None}, "needs two models"),
    ],
)
def test_options_that_cannot_work_are_refused(tiny_world, tmp_path, settings, said):
    with pytest.raises(ConfigurationError, match=said):
        options(tiny_world, tmp_path, **settings)


def test_a_model_named_twice_is_refused(tiny_world, tmp_path, judges):
    both = (str(tiny_world.student),) * 2
    with pytest.raises(ConfigurationError, match="named twice"):
        evaluate_win_rate(options(tiny_world, tmp_path, model=both), open_model)
