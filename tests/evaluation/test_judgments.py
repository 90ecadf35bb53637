import json

import pytest

from data.errors import ConfigurationError, EvaluationError
from evaluation.judgments import (
    AnswerFacts,
    JudgeIdentity,
    Judgment,
    JudgmentFile,
    claim_folder,
    read_judgments,
    read_request,
)


def judgment(prompt: int = 0, *, order="model_first", preference: float | None = 0.25) -> Judgment:
    return Judgment(
        prompt_id=f"p{prompt}",
        instruction="Name a prime. Größer als 7\u2028!",
        model="student",
        baseline="before",
        order=order,
        preference=preference,
        judge="local-model:tiny",
        verdict="m",
        logprobs={"m": -1.5, "M": -0.25},
        scores=(0.5, -2.0),
        model_answer=AnswerFacts(chars=11, cut=True),
        baseline_answer=AnswerFacts(chars=2, cut=False, refused=True),
    )


def test_a_judgment_file_gives_back_what_was_written(tmp_path):
    written = [judgment(0), judgment(0, order="baseline_first"), judgment(1, preference=None)]
    with JudgmentFile(tmp_path / "judgments.jsonl") as file:
        file.append(written)
    assert read_judgments(tmp_path / "judgments.jsonl") == written


def test_a_judgment_file_continues_after_a_half_written_line(tmp_path):
    path = tmp_path / "judgments.jsonl"
    with JudgmentFile(path) as file:
        file.append([judgment(0), judgment(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with JudgmentFile(path) as file:
        assert judgment(0).key in file
        assert judgment(1).key not in file
        file.append([judgment(0, preference=1.0), judgment(1)])
    assert path.read_bytes() == whole


def test_a_judgment_file_counts_a_repeated_line_once(tmp_path):
    path = tmp_path / "judgments.jsonl"
    lines = [json.dumps(judgment(0, preference=value).as_dict()) for value in (0.25, 0.75)]
    path.write_text("".join(line + "\n" for line in lines))
    assert [found.preference for found in read_judgments(path)] == [0.25]


@pytest.mark.parametrize(
    "line",
    ['{"prompt_id": "p0"}', "[1]", "nonsense", json.dumps({**judgment().as_dict(), "preference": 1.5})],
)
def test_a_judgment_file_names_the_line_that_is_no_judgment(tmp_path, line):
    path = tmp_path / "judgments.jsonl"
    path.write_text(json.dumps(judgment().as_dict()) + "\n" + line + "\n")
    with pytest.raises(EvaluationError, match="line 2 is not a judgment"):
        read_judgments(path)


REQUEST = {
    "judge": JudgeIdentity(kind="function", name="mine:judge").as_dict(),
    "data": {"hash": "abc"},
    "models": {"student": {"weights": "1"}, "before": {"weights": "0"}},
}


def test_a_folder_takes_further_models_of_the_same_request(tmp_path):
    claim_folder(tmp_path / "out", REQUEST)
    claim_folder(tmp_path / "out", {**REQUEST, "models": {"second": {"weights": "2"}}})
    assert read_request(tmp_path / "out")["models"].keys() == {"student", "before", "second"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"hash": "def"}}, "data.hash is abc there, def here"),
        ({"models": {"student": {"weights": "9"}}}, "models.student.weights is 1 there, 9 here"),
    ],
)
def test_a_folder_refuses_another_request_and_names_the_field(tmp_path, change, message):
    claim_folder(tmp_path, REQUEST)
    with pytest.raises(ConfigurationError, match=message):
        claim_folder(tmp_path, {**REQUEST, **change})


def test_a_folder_without_a_manifest_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="is not the folder of an evaluation"):
        read_request(tmp_path)
