import json

import pytest

from data.errors import EvaluationError
from evaluation.judgments import JUDGMENTS_FILE, JudgeIdentity, JudgmentFile, claim_folder
from evaluation.recompute import recompute
from tests.evaluation.metrics.test_win_rate import judgments_of


def folder_of(tmp_path, rows):
    request = {
        "judge": JudgeIdentity(kind="function", name="mine:judge").as_dict(),
        "sampling": {"seed": 3},
        "models": {"a": {}, "c": {}},
    }
    claim_folder(tmp_path, request)
    with JudgmentFile(tmp_path / JUDGMENTS_FILE) as file:
        file.append(rows)
    return tmp_path


def test_recompute_counts_an_unfinished_folder_of_judgments(tmp_path):
    rows = judgments_of({f"p{n}": (n / 40, n / 40) for n in range(40)})
    folder = folder_of(tmp_path, rows[:-1])
    found = recompute(folder)
    assert found.kind == "win-rate"
    result = json.loads((folder / "result.json").read_text())
    (counted,) = result["comparison"]["results"]
    assert counted["num_prompts"] == 39
    assert counted["win_rate"]["value"] == pytest.approx(100 * sum(range(39)) / 40 / 39)
    assert (folder / "table.md").read_text() == found.table + "\n"


def test_recompute_does_not_depend_on_the_order_of_the_verdicts(tmp_path):
    rows = judgments_of({f"p{n}": (n * 7 % 40 / 40, n / 40) for n in range(40)})
    forward = recompute(folder_of(tmp_path / "one", rows))
    backward = recompute(folder_of(tmp_path / "two", rows[::-1]))
    assert forward.table == backward.table


def test_recompute_says_when_there_is_nothing_to_count(tmp_path):
    folder = folder_of(tmp_path, judgments_of({"p0": (None, None)}))
    with pytest.raises(EvaluationError, match="nothing to count"):
        recompute(folder)


def test_recompute_names_a_folder_of_something_else(tmp_path):
    with pytest.raises(EvaluationError, match="name a folder that `adpa evaluate` has written"):
        recompute(tmp_path)
    (tmp_path / "result.json").write_text('{"kind": "signals"}')
    with pytest.raises(EvaluationError, match="kind 'signals'"):
        recompute(tmp_path)
