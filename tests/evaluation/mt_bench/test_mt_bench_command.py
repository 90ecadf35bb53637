"""MT-Bench from checkpoint to table: real files, small models, and a judge on loopback."""

import json

import pytest

from data.errors import ConfigurationError
from evaluation.mt_bench.answering import temperature_of
from evaluation.mt_bench.command import evaluate_mt_bench
from evaluation.mt_bench.files import ModelAnswer, read_answers, read_judgments, write_answers
from evaluation.mt_bench.options import MtBenchOptions
from evaluation.recompute import recompute
from teacher_scoring.language_model import open_language_model
from tests.evaluation.judges.test_endpoint import completion, serve

CATEGORIES = {81: "writing", 101: "reasoning", 111: "math", 141: "stem"}


def open_model(name, *, option):
    return open_language_model(name, option=option, engine="transformers", dtype="float32")


@pytest.fixture
def question_file(tmp_path):
    path = tmp_path / "question.jsonl"
    rows = [
        {"question_id": number, "category": category, "turns": [f"w{number % 50} w1", "w2 w3"]}
        for number, category in CATEGORIES.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers_of(tmp_path, model, text):
    path = tmp_path / f"{model}.jsonl"
    write_answers(
        path, [ModelAnswer(question_id=n, model=model, turns=(f"{text} {n}", text)) for n in CATEGORIES]
    )
    return path


def grades(body, number):
    prompt = body["messages"][-1]["content"]
    if "[The reference answer" in prompt:
        return 200, completion("It differs from the reference. Rating: [[2]]")
    if "[Question 2]" in prompt:
        return 200, completion("No grade for this one.")
    return 200, completion("Fine. Rating: [[8.5]]")


@pytest.mark.slow
def test_mt_bench_answers_both_turns_and_scores_them_in_fastchats_forms(tiny_world, tmp_path, question_file):
    out = tmp_path / "out"
    with serve(grades) as server:
        options = MtBenchOptions(
            questions=str(question_file),
            model=(str(tiny_world.student),),
            reference_answers=str(answers_of(tmp_path, "gpt-4", "w9")),
            judge_url=server.url,
            judge_model="judge",
            max_new_tokens=5,
            out=str(out),
        )
        found = evaluate_mt_bench(options, open_model)
        asked = len(server.requests)
        assert asked == 8
        again = evaluate_mt_bench(options, open_model)
        # Malformed replies are kept, too: the same question to the same judge gets the same reply.
        assert len(server.requests) == asked
    assert again.scores == found.scores
    answers = read_answers(out / "model_answer" / "student.jsonl")
    assert [answer.question_id for answer in answers] == sorted(CATEGORIES)
    assert all(len(answer.turns) == 2 for answer in answers)
    (scores,) = found.scores["judge"]
    # Reasoning and math have a reference (2, both turns); the others have 8.5 and no grade for the second turn.
    assert (scores.turn_1, scores.turn_2) == (5.25, 2)
    assert scores.average is not None
    assert scores.average.value == pytest.approx((2 * 8.5 + 4 * 2) / 6)
    assert scores.num_malformed == 2
    assert scores.categories == {"writing": 8.5, "reasoning": 2, "math": 2, "stem": 8.5}
    judgments = read_judgments(out / "model_judgment" / "judge_single.jsonl")
    assert {judgment.judge for judgment in judgments} == {
        ("judge", f"adpa-single{reference}{turn}")
        for reference in ("", "-math")
        for turn in ("", "-multi-turn")
    }
    moved = out.rename(tmp_path / "moved")
    assert recompute(moved).table == found.table


def prefers_good(body, number):
    prompt = body["messages"][-1]["content"]
    first = prompt.split("[The assistant A's answer")[1].split("[The assistant B's answer")[0]
    return 200, completion("[[A]]" if "good" in first else "[[B]]")


def test_mt_bench_compares_pairs_in_both_orders(tmp_path, question_file):
    files = [
        answers_of(tmp_path, model, text) for model, text in (("a", "good"), ("b", "bad"), ("c", "worse"))
    ]
    with serve(prefers_good) as server:
        options = MtBenchOptions(
            questions=str(question_file),
            answers=tuple(map(str, files)),
            pairwise=True,
            judge_url=server.url,
            judge_model="judge",
            out=str(tmp_path / "out"),
        )
        tables = {(t.model, t.other): t for t in evaluate_mt_bench(options, open_model).pairs["judge"]}
        assert len(server.requests) == 3 * 4 * 2 * 2
    assert (tables["a", "b"].wins, tables["a", "b"].consistency) == (8, 1)
    # Neither answer is good: the judge says B in both orders, which is a tie.
    assert (tables["b", "c"].ties, tables["b", "c"].consistency) == (8, 0)
    assert tables["a", None].adjusted_win_rate == 100
    assert tables["b", None].adjusted_win_rate == pytest.approx(25)


def test_mt_bench_temperatures_are_those_of_the_categories():
    assert [temperature_of(name) for name in ("roleplay", "coding", "humanities", "other")] == [
        0.7,
        0.0,
        0.1,
        0.7,
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--model, --answers or --judgments is required"),
        ({"model": ("m",)}, "--questions is required"),
        ({"answers": ("a",), "questions": "q", "judge_function": "a:b"}, "give --judge-model"),
    ],
)
def test_mt_bench_options_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        MtBenchOptions(out="out", **settings)


def test_mt_bench_names_the_models_where_the_baseline_has_no_answers(tmp_path, question_file):
    with serve(prefers_good) as server:
        options = MtBenchOptions(
            questions=str(question_file),
            answers=(str(answers_of(tmp_path, "a", "x")), str(answers_of(tmp_path, "b", "y"))),
            pairwise=True,
            baseline="nobody",
            judge_url=server.url,
            judge_model="judge",
            out=str(tmp_path / "out"),
        )
        with pytest.raises(ConfigurationError, match="answers are there of a, b"):
            evaluate_mt_bench(options, open_model)
