"""AlpacaEval from checkpoint to leaderboard: real files, small models, and a judge on loopback."""

import csv
import json

import pytest

from data.errors import ConfigurationError, EvaluationError
from evaluation.alpaca_eval.command import evaluate_alpaca_eval
from evaluation.alpaca_eval.files import (
    Annotation,
    Output,
    read_annotations,
    read_difficulty,
    read_gamed_rows,
    read_outputs,
    write_annotations,
    write_outputs,
)
from evaluation.alpaca_eval.judging import is_switched, preference_from_logprobs
from evaluation.alpaca_eval.leaderboard import leaderboard_row
from evaluation.alpaca_eval.options import AlpacaEvalOptions
from evaluation.recompute import recompute
from teacher_scoring.language_model import open_language_model
from tests.evaluation.judges.test_endpoint import completion, serve


def open_model(name, *, option):
    return open_language_model(name, option=option, engine="transformers", dtype="float32")


def questions(tmp_path, number=12):
    path = tmp_path / "questions.json"
    write_outputs(
        path,
        [
            Output(instruction=f"w{n} w{n + 1}", output="w1 w2 w3", generator="baseline", dataset="made-up")
            for n in range(number)
        ],
    )
    return path


def likes_w(body, number):
    """A judge that gives the answer with more w's more probability."""
    prompt = body["messages"][-1]["content"]
    first, second = (
        json.loads(line)["output"].count("w") for line in prompt.splitlines() if line.startswith('{"model"')
    )
    chance = (1 + first) / (2 + first + second)
    return 200, completion("m" if chance > 0.5 else "M", top={"m": chance, "M": 1 - chance})


@pytest.mark.slow
def test_alpaca_eval_answers_judges_and_counts_in_the_public_forms(tiny_world, tmp_path):
    out = tmp_path / "out"
    with serve(likes_w) as server:
        options = AlpacaEvalOptions(
            questions=str(questions(tmp_path)),
            model=(str(tiny_world.student), str(tiny_world.teacher)),
            judge_url=server.url,
            judge_model="judge",
            max_new_tokens=6,
            out=str(out),
        )
        found = evaluate_alpaca_eval(options, open_model)
        asked = len(server.requests)
        again = evaluate_alpaca_eval(options, open_model)
        assert len(server.requests) == asked
    assert again.rows == found.rows
    outputs = read_outputs(out / "student" / "model_outputs.json")
    assert [output.instruction for output in outputs] == [f"w{n} w{n + 1}" for n in range(12)]
    assert {(output.generator, output.dataset) for output in outputs} == {("student", "made-up")}
    annotations = read_annotations(out / "student" / "annotations.json")
    for annotation in annotations:
        ours, theirs = annotation.output_2.count("w"), annotation.output_1.count("w")
        expected = 1.5 if annotation.output_1 == annotation.output_2 else 1 + (1 + ours) / (2 + ours + theirs)
        assert annotation.preference == pytest.approx(expected)
    assert {is_switched(annotation.instruction) for annotation in annotations} == {True, False}
    assert [row.model for row in found.rows] == ["student", "teacher"]
    assert found.rows[0].win_rate == pytest.approx(
        100 * sum((annotation.preference or 0) - 1 for annotation in annotations) / 12
    )
    assert any("only 12 questions" in finding for finding in found.rows[0].findings)
    with (out / "leaderboard.csv").open(newline="") as file:
        assert [row[""] for row in csv.DictReader(file)] == ["student", "teacher"]
    request = json.loads((out / "result.json").read_text())["request"]
    assert request["judge"]["name"] == "judge"
    assert request["models"]["student"]["model"]["weights_sha256"]
    # The folder says the same wherever it is moved to.
    moved = out.rename(tmp_path / "moved")
    assert recompute(moved).table == found.table


def test_alpaca_eval_without_a_judge_writes_answers_only(tiny_world, tmp_path):
    options = AlpacaEvalOptions(
        questions=str(questions(tmp_path, 3)),
        model=(str(tiny_world.student),),
        max_new_tokens=4,
        out=str(tmp_path / "out"),
    )
    found = evaluate_alpaca_eval(options, open_model)
    assert found.rows == ()
    assert len(read_outputs(found.outputs["student"])) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--model, --outputs or --annotations is required"),
        ({"model": ("m",)}, "needs --questions"),
        ({"outputs": ("o",), "judge_function": "a:b"}, "give --judge-model"),
        ({"outputs": ("o",), "judge_model": "j"}, "give --baseline-outputs"),
    ],
)
def test_alpaca_eval_options_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        AlpacaEvalOptions(out="out", **settings)


def annotation(number: int, preference: float | None = 1.25, **changes) -> Annotation:
    given = {
        "instruction": f"question {number}",
        "output_1": "b" * 20,
        "output_2": "m" * (10 + number),
        "generator_1": "base",
        "generator_2": "model",
        "preference": preference,
    }
    return Annotation(**{**given, **changes})


def test_annotations_are_read_as_they_were_written(tmp_path):
    rows = [annotation(0), annotation(1, None), annotation(2, 1.5, raw_completion={"text": "m"})]
    write_annotations(tmp_path / "annotations.json", rows)
    assert read_annotations(tmp_path / "annotations.json") == rows


def test_annotations_with_the_old_zero_are_draws(tmp_path):
    path = tmp_path / "annotations.json"
    write_annotations(path, [annotation(0), annotation(1)])
    path.write_text(path.read_text().replace("1.25", "0", 1))
    row = leaderboard_row(read_annotations(path))
    assert (row.n_draws, row.n_wins_base) == (1, 1)


def test_leaderboard_drops_nulls_and_says_so():
    row = leaderboard_row([annotation(0, 2.0), annotation(1, None), annotation(2, 1.0), annotation(3, 1.5)])
    assert (row.n_total, row.n_null, row.n_wins, row.n_wins_base, row.n_draws) == (3, 1, 1, 1, 1)
    assert row.win_rate == row.discrete_win_rate == 50
    assert "1 of 4 annotations have no preference" in " ".join(row.findings)
    assert row.avg_length == 11


def test_leaderboard_joins_difficulties_by_question_unless_asked_for_the_position():
    numbers = [n for n in range(60) if n != 7]
    annotations = [annotation(n, 1.0 + (n * 37 % 60) / 60) for n in numbers]
    difficulty = {f"question {n}": float(n % 5) for n in range(60)}
    shuffled = dict(reversed(difficulty.items()))
    by_question = leaderboard_row(annotations, difficulty=difficulty, c=1.0).length_controlled
    assert leaderboard_row(annotations, difficulty=shuffled, c=1.0).length_controlled == by_question
    assert (
        leaderboard_row(annotations, difficulty=difficulty, join="position", c=1.0).length_controlled
        != by_question
    )


@pytest.mark.parametrize(
    ("rows", "difficulty", "message"),
    [
        ([annotation(0), annotation(1, generator_2="other")], None, "2 pairs of model and baseline"),
        ([annotation(0, None)], None, "none of the 1 annotations has a preference"),
        ([annotation(0)], {"another": 1.0}, "1 of 1 annotated questions are not in the file of difficulties"),
        ([annotation(0)], [0.0, 1.0], "which belongs to which is unknown"),
    ],
)
def test_leaderboard_refuses_files_that_do_not_belong_together(rows, difficulty, message):
    with pytest.raises(EvaluationError, match=message):
        leaderboard_row(rows, difficulty=difficulty)


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (read_annotations, "[]", "at least one"),
        (read_annotations, '[{"instruction": "x"}]', "row 0 has no text under output_1"),
        (read_annotations, "{", "is not JSON"),
        (read_outputs, '[{"output": "x"}]', "row 0: instruction"),
        (
            lambda path: read_difficulty(path, None),
            "a,b\n1,2\n",
            "no rows with a column 'instruction_difficulty'",
        ),
        (
            lambda path: read_difficulty(path, ["only one"]),
            "index,instruction_difficulty\n0,1\n1,2\n",
            "2 difficulties for 1 questions",
        ),
        (
            lambda path: read_difficulty(path, None),
            "index,instruction_difficulty\n0,x\n",
            "line 2: 'x' is not a number",
        ),
        (
            lambda path: read_difficulty(path, None),
            "instruction,instruction_difficulty\nq,1\nq,2\n",
            "two difficulties",
        ),
        (read_gamed_rows, "preference,index\n1.5,0\n", "no column std_delta_len"),
    ],
)
def test_alpaca_eval_files_of_another_form_are_refused(tmp_path, reader, content, message):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(EvaluationError, match=message):
        reader(path)


def test_preferences_count_a_token_outside_the_top_as_impossible():
    assert preference_from_logprobs({"m": -0.1, "x": -3.0}, switched=False) == 1
    assert preference_from_logprobs({"m": -0.1}, switched=True) == 2
    assert preference_from_logprobs({"m": -1.0, "M": -1.0}, switched=True) == pytest.approx(1.5)
    assert preference_from_logprobs({"The": 0.0}, switched=False) is None
