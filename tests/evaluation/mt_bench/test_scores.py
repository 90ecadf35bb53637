import gzip
import json

import pytest

from data.errors import EvaluationError
from evaluation.mt_bench.files import (
    ModelAnswer,
    PairJudgment,
    Question,
    SingleJudgment,
    read_answers,
    read_judgments,
    read_questions,
    write_answers,
    write_judgments,
)
from evaluation.mt_bench.scores import pair_tables, parse_score, parse_winner, score_models
from tests.evaluation.published import published_folder

PUBLISHED = published_folder("mtbench")


def score(question: int, turn: int, value: float, model: str = "a") -> SingleJudgment:
    return SingleJudgment(question_id=question, model=model, turn=turn, score=value, judge=("j", "single"))


def pair(question: int, first: str, second: str, *, turn: int = 1, models=("a", "b")) -> PairJudgment:
    return PairJudgment(
        question_id=question,
        model_1=models[0],
        model_2=models[1],
        turn=turn,
        g1_winner=first,
        g2_winner=second,
        judge=("j", "pair"),
    )


def test_scores_average_over_judgments_not_over_turns():
    (scores,) = score_models([score(81, 1, 8), score(81, 2, 4), score(82, 1, 9), score(82, 2, -1)])
    assert (scores.turn_1, scores.turn_2) == (8.5, 4)
    assert scores.average is not None
    assert scores.average.value == pytest.approx(7)
    assert scores.average.low < 7 < scores.average.high
    assert (scores.num_judgments, scores.num_malformed) == (4, 1)
    assert "1 of 4 verdicts have no score" in scores.findings[0]


def test_scores_take_categories_from_the_questions_or_from_their_numbers():
    judgments = [score(81, 1, 8), score(81, 2, 4), score(101, 1, 3), score(9999, 1, 10)]
    (by_number,) = score_models(judgments)
    assert by_number.categories == {"writing": 6, "reasoning": 3}
    questions = [Question(question_id=number, category="mine", turns=("x", "y")) for number in (81, 9999)]
    (by_file,) = score_models(judgments, questions=questions)
    assert by_file.categories == {"mine": pytest.approx(22 / 3)}


def test_scores_count_a_rerun_once_with_its_last_score():
    rerun = [
        score(81, 1, 2),
        score(81, 2, 4),
        score(81, 1, 8),
        score(81, 2, -1),
        score(82, 1, -1),
        score(82, 1, 6),
    ]
    (once,) = score_models(rerun)
    assert (once.turn_1, once.turn_2, once.num_duplicates, once.num_malformed) == (7, 4, 3, 0)
    (every,) = score_models(rerun, duplicates="all")
    assert every.turn_1 == pytest.approx(16 / 3)
    assert every.num_duplicates == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good. Rating: [[7]]", 7),
        ("[[8.5]] and later [[2]]", 8.5),
        ("Rating: [6]", 6),
        ("[3] but [[9]]", 9),
        ("Rating: 7/10", -1),
        ("", -1),
    ],
)
def test_parse_score_reads_two_brackets_before_one(text, expected):
    assert parse_score(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("so [[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"), ("[A]", "error"), ("", "error")],
)
def test_parse_winner_needs_two_brackets(text, expected):
    assert parse_winner(text) == expected


def test_pair_tables_take_disagreement_between_the_orders_for_a_tie():
    judgments = [
        pair(81, "model_1", "model_1"),
        pair(82, "model_1", "model_2"),
        pair(83, "tie", "tie"),
        pair(84, "model_2", "model_2"),
        pair(85, "model_1", "error"),
        pair(86, "tie", "model_1"),
        pair(81, "model_1", "model_1"),
        pair(81, "model_1", "model_1", turn=2),
    ]
    table, of_a, of_b = pair_tables(judgments)
    assert (table.wins, table.losses, table.ties, table.num_malformed) == (2, 1, 3, 1)
    assert table.num_duplicates == 1
    assert table.win_rate == pytest.approx(100 * 2 / 6)
    assert table.adjusted_win_rate == pytest.approx(100 * 3.5 / 6)
    assert table.consistency == pytest.approx(4 / 6)
    assert (of_a.wins, of_a.losses) == (of_b.losses, of_b.wins) == (2, 1)
    assert of_a.adjusted_win_rate + of_b.adjusted_win_rate == pytest.approx(100)


def test_pair_tables_count_every_row_on_demand():
    judgments = [pair(81, "model_1", "model_1"), pair(81, "model_1", "model_1")]
    assert pair_tables(judgments)[0].wins == 1
    assert pair_tables(judgments, duplicates="all")[0].wins == 2


@pytest.mark.parametrize("judgments", [[score(81, 1, 8), score(81, 2, -1)], [pair(81, "tie", "error")]])
def test_judgment_files_are_read_as_they_were_written(tmp_path, judgments):
    write_judgments(tmp_path / "judgments.jsonl", judgments)
    assert read_judgments(tmp_path / "judgments.jsonl") == judgments


def test_answer_files_are_read_as_they_were_written_and_a_rerun_replaces(tmp_path):
    path = tmp_path / "a.jsonl"
    answers = [
        ModelAnswer(question_id=number, model="a", turns=("one\u2028", "two"), answer_id="x", tstamp=1.5)
        for number in (82, 81)
    ]
    write_answers(path, answers)
    assert read_answers(path) == answers[::-1]
    with path.open("a") as file:
        file.write(path.read_text().split("\n")[0].replace('"two"', '"three"') + "\n")
    assert read_answers(path)[0].turns[1] == "three"


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (read_questions, '{"question_id": 81}', "line 1 has no question_id with turns"),
        (read_questions, 2 * '{"question_id": 81, "turns": ["x", "y"]}\n', "question 81 is there twice"),
        (read_answers, '\n{"question_id": 81, "model_id": "a", "choices": []}', "line 2 is no answer"),
        (read_judgments, "", "has no line"),
        (read_judgments, '{"question_id": 81, "model": "a", "turn": 1}', "no single judgment"),
        (
            read_judgments,
            '{"question_id": 81, "model": "a", "turn": 1, "score": 12}',
            "score 12 is neither -1 nor between",
        ),
        (
            read_judgments,
            '{"question_id": 81, "model_1": "a", "model_2": "b", "turn": 1, "g1_winner": "A", "g2_winner": "tie"}',
            "g1_winner 'A' is not model_1",
        ),
        (read_judgments, "nonsense", "line 1 is not JSON"),
    ],
)
def test_files_of_another_form_are_refused_with_the_line(tmp_path, reader, content, message):
    path = tmp_path / "file.jsonl"
    path.write_text(content)
    with pytest.raises(EvaluationError, match=message):
        reader(path)


needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published judgments are not there")


def published_tables():
    if not PUBLISHED.is_dir():
        return []
    expected = json.loads((PUBLISHED / "expected.json").read_text())
    return [(file, model) for file, content in expected.items() for model in content["models"]]


@pytest.mark.slow
@needs_published
@pytest.mark.parametrize(("file", "model"), published_tables())
def test_scores_of_published_judgments_are_the_published_table(tmp_path, file, model):
    unpacked = tmp_path / "judgments.jsonl"
    with gzip.open(PUBLISHED / file, "rb") as packed:
        unpacked.write_bytes(packed.read())
    expected = json.loads((PUBLISHED / "expected.json").read_text())[file]["models"][model]
    judgments = read_judgments(unpacked)
    questions = read_questions(PUBLISHED / "question.jsonl")
    # What was published counts the rows of a rerun, too.
    scores = {row.model: row for row in score_models(judgments, questions=questions, duplicates="all")}[model]
    assert (scores.turn_1, scores.turn_2) == (expected["turn1"], expected["turn2"])
    assert scores.average is not None
    assert scores.average.value == expected["average"]
    assert scores.categories == expected["per_category"]
    assert (scores.num_judgments, scores.num_malformed) == (expected["rows"], expected["malformed"])
    assert scores.num_duplicates == expected["duplicated_question_turns"]


@needs_published
def test_the_published_answer_file_is_written_back_unchanged(tmp_path):
    path = PUBLISHED / "model_answer_mamba_0_5_dpo_ep1.jsonl"
    write_answers(tmp_path / "answers.jsonl", read_answers(path))
    again = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert again == [json.loads(line) for line in path.read_text().splitlines()]
