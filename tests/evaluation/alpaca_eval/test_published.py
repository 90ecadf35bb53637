"""The published leaderboard from published annotations; skipped where those files are not there."""

import csv
import gzip
import json

import numpy as np
import pytest

from evaluation.alpaca_eval.files import (
    Annotation,
    read_annotations,
    read_difficulty,
    read_gamed_rows,
    write_annotations,
)
from evaluation.alpaca_eval.leaderboard import leaderboard_row
from tests.evaluation.published import published_folder

PUBLISHED = published_folder("alpaca")

pytestmark = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published annotations are not there")

MODELS = json.loads((PUBLISHED / "published.json").read_text())["models"] if PUBLISHED.is_dir() else {}


def question(number: int) -> str:
    return f"question {number}"


QUESTIONS = [question(number) for number in range(805)]


def annotations_of(model: str) -> list[Annotation]:
    """The rows as an annotations.json would have them: answers of the right lengths."""
    with (PUBLISHED / "models" / f"{model}.csv").open(newline="") as file:
        return [
            Annotation(
                instruction=question(int(row["index"])),
                output_1="b" * int(row["len_1"]),
                output_2="m" * int(row["len_2"]),
                generator_1="gpt4_1106_preview",
                generator_2=model,
                preference=float(row["preference"]) if row["preference"] else None,
            )
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def difficulty():
    return read_difficulty(PUBLISHED / "instruction_difficulty.csv", QUESTIONS)


@pytest.fixture(scope="module")
def gamed():
    return read_gamed_rows(PUBLISHED / "df_gamed_surrogate.csv")


def rows_of(model, difficulty, gamed, tmp_path, *, c):
    path = tmp_path / "annotations.json"
    write_annotations(path, annotations_of(model))
    annotations = read_annotations(path)
    numbers = {text: number for number, text in enumerate(QUESTIONS)}
    # Where rows are missing, the published figure took difficulties from the wrong questions.
    join = "instruction" if len(annotations) == 805 else "position"
    return leaderboard_row(
        annotations, difficulty=difficulty, gamed=gamed, question_numbers=numbers, join=join, c=c
    )


@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=pytest.mark.slow if place else ()) for place, name in enumerate(MODELS)],
)
def test_alpaca_eval_row_is_the_published_one_at_the_given_c(model, difficulty, gamed, tmp_path):
    published = MODELS[model]
    row = rows_of(model, difficulty, gamed, tmp_path, c=published["C"])
    for name in (
        "win_rate",
        "standard_error",
        "n_wins",
        "n_wins_base",
        "n_draws",
        "n_total",
        "discrete_win_rate",
    ):
        assert getattr(row, name) == pytest.approx(published[name], abs=1e-6), name
    if row.n_total == 805:
        # In the incomplete files the published mean is over answers that were not annotated, too.
        assert row.avg_length == published["avg_length"]
    assert row.length_controlled is not None
    # The published solver stops at 1e-4, which moves figures by up to 0.017.
    assert row.length_controlled.win_rate.value == pytest.approx(
        published["length_controlled_winrate"], abs=0.02
    )
    if published["lc_standard_error"] is not None:
        assert row.length_controlled.standard_error == pytest.approx(published["lc_standard_error"], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_alpaca_eval_row_is_near_the_published_one_with_its_own_c(model, difficulty, gamed, tmp_path):
    published = MODELS[model]
    row = rows_of(model, difficulty, gamed, tmp_path, c=None)
    assert row.length_controlled is not None
    # Where two values of C are equally good, the choice moves the figure by up to 0.15.
    tolerance = 0.01 if published["robust"] else 0.15
    assert row.length_controlled.win_rate.value == pytest.approx(
        published["length_controlled_winrate"], abs=tolerance
    )


@pytest.mark.slow
def test_join_by_position_misplaces_difficulties_of_incomplete_files(difficulty, gamed):
    annotations = annotations_of("minotaur-13b")
    assert len(annotations) < 805
    by_question = leaderboard_row(annotations, difficulty=difficulty, gamed=gamed)
    by_position = leaderboard_row(annotations, difficulty=difficulty, gamed=gamed, join="position")
    assert by_question.length_controlled is not None
    assert by_position.length_controlled is not None
    assert by_position.length_controlled.win_rate.value - by_question.length_controlled.win_rate.value > 2


def test_alpaca_eval_reads_the_published_forms():
    annotations = read_annotations(PUBLISHED / "example_annotations.json")
    assert annotations[0].generator_1 == "gpt4_1106_preview"
    assert all(row.preference is not None and 1 <= row.preference <= 2 for row in annotations)


def test_verdict_tokens_give_the_published_preferences():
    from evaluation.alpaca_eval.judging import is_switched, preference_from_logprobs

    with gzip.open(PUBLISHED / "raw_completions.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    errors = []
    for row in rows:
        if row["same_answers"]:
            assert row["preference"] == 1.5
            continue
        assert is_switched(row["instruction"]) == row["switched"]
        preference = preference_from_logprobs(dict(row["top_logprobs"]), switched=row["switched"])
        assert preference is not None
        errors.append(abs(preference - row["preference"]))
    # The files keep ten decimals.
    assert len(errors) > 50
    assert np.max(errors) < 1e-9
