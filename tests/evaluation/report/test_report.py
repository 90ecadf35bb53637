"""The page over runs and evaluations: what it finds, what it says, and that it needs nothing else."""

import json
import re

import pytest

from data.errors import ConfigurationError, EvaluationError
from data.signals.dataset import SignalDataset
from evaluation.judgments import AnswerFacts, Judgment, JudgmentFile
from evaluation.options import ReportOptions
from evaluation.report.collect import collect_runs
from evaluation.report.page import write_run_report
from teacher_scoring.options import ScoreOptions
from teacher_scoring.score import score_teacher


def write_run(folder, *, steps=20, finished=True, torn=False, method="adpa", **terms):
    folder.mkdir(parents=True)
    lines = [
        json.dumps(
            {"step": step, "loss": 2 / step, "entropy": 1.5, **{k: v * step for k, v in terms.items()}}
        )
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + ("\n" if not torn else "\n" + lines[0][:9]))
    (folder / "run.toml").write_text(f'[options]\nmethod = "{method}"\nseed = 3\n')
    if finished:
        (folder / "config.json").write_text("{}")
    return folder


def judgment(prompt, order, preference, *, model="ours", baseline="theirs"):
    facts = AnswerFacts(chars=20, cut=False, refused=False)
    return Judgment(
        prompt_id=prompt,
        instruction=prompt,
        model=model,
        baseline=baseline,
        order=order,
        preference=preference,
        judge="function:f",
        model_answer=facts,
        baseline_answer=facts,
    )


def write_unfinished_evaluation(folder):
    folder.mkdir(parents=True)
    with JudgmentFile(folder / "judgments.jsonl") as file:
        file.append([judgment("p0", "model_first", 1.0), judgment("p0", "baseline_first", 0.5)])
    answers = [
        {"prompt_id": "p0", "model": model, "prompt": "why?", "text": text, "num_tokens": 2, **extra}
        for model, text, extra in (
            ("ours", "because </script><b>bold</b>", {"tokens": [["because", 0.5], [" not", -1.0]]}),
            ("theirs", "", {"finish_reason": "length"}),
        )
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return folder


def page_of(tmp_path, *folders, **settings):
    out = tmp_path / "page.html"
    write_run_report(ReportOptions(run=tuple(map(str, folders)), out=str(out), **settings))
    return out.read_text()


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_runs_are_found_below_a_folder_and_named_apart(tmp_path):
    write_run(tmp_path / "a" / "student")
    write_run(tmp_path / "b" / "student")
    (tmp_path / "b" / "notes").mkdir()
    found = collect_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [run.name for run in found.runs] == ["a/student", "b/student"]


def test_a_run_named_twice_is_shown_once(tmp_path):
    run = write_run(tmp_path / "a" / "student")
    assert len(collect_runs([str(run), str(tmp_path)]).runs) == 1


def test_an_unfinished_run_is_shown_as_far_as_it_came(tmp_path):
    page = page_of(tmp_path, write_run(tmp_path / "run", steps=7, finished=False, torn=True))
    assert "not finished, 1 damaged lines" in page
    assert data_of(page)["runs"][0]["curves"]["loss"][0] == [1, 2, 3, 4, 5, 6, 7]


def test_every_term_has_a_chart(tmp_path):
    run = write_run(tmp_path / "run", **{"loss/my_own_term": 0.5, "expected_advantage": 0.1})
    page = page_of(tmp_path, run)
    terms = re.findall(r'data-term="([^"]+)"', page)
    assert terms == ["loss", "expected_advantage", "entropy", "loss/my_own_term"]
    assert data_of(page)["runs"][0]["curves"].keys() == set(terms)


def test_values_that_are_not_finite_leave_a_gap(tmp_path):
    run = write_run(tmp_path / "run", steps=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": NaN}\n{"step": 4, "loss": 0.1}\n')
    assert data_of(page_of(tmp_path, run))["runs"][0]["curves"]["loss"][0] == [1, 2, 4]


def test_long_curves_are_thinned_to_means(tmp_path):
    run = write_run(tmp_path / "run", steps=5000, slope=1.0)
    steps, values = data_of(page_of(tmp_path, run))["runs"][0]["curves"]["slope"]
    assert len(steps) <= 1200
    assert steps[-1] == 5000
    # The mean of five neighbours on a line is the one in the middle.
    assert values[0] == pytest.approx(3.0)


def test_an_unfinished_evaluation_says_how_far_it_is(tmp_path):
    page = page_of(tmp_path, write_unfinished_evaluation(tmp_path / "eval"))
    assert "Not finished: 2 judgments are stored so far" in page


def test_answers_are_data_and_never_markup(tmp_path):
    page = page_of(tmp_path, write_unfinished_evaluation(tmp_path / "eval"))
    assert "<b>bold</b>" not in page
    [sample] = data_of(page)["evaluations"][0]["samples"]
    ours, theirs = sample["answers"]
    assert ours["text"] == "because </script><b>bold</b>"
    assert ours["tokens"] == [["because", 0.5], [" not", -1.0]]
    assert ours["note"] == "2 tokens, preferred to theirs: 75%"
    assert "cut at the limit" in theirs["note"]


def test_names_from_folders_are_escaped(tmp_path):
    page = page_of(tmp_path, write_run(tmp_path / "<i>run", method="a&b"))
    assert "<i>run" not in page.split("<script")[0]
    assert "a&amp;b" in page


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    page = page_of(tmp_path, write_run(tmp_path / "run"), write_unfinished_evaluation(tmp_path / "eval"))
    without_namespaces = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|src=|@import|url\((?!#|`)", without_namespaces.replace("url(#clip", ""))


def test_a_page_of_ours_is_replaced_and_other_files_are_not(tmp_path):
    run = write_run(tmp_path / "run")
    page_of(tmp_path, run)
    page_of(tmp_path, run)
    other = tmp_path / "page.html"
    other.write_text("<html>my own notes</html>")
    with pytest.raises(ConfigurationError, match="exists and is not a page of this command"):
        page_of(tmp_path, run)
    assert "my own notes" in other.read_text()
    assert "generator" in page_of(tmp_path, run, force=True)


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_folder_without_runs_is_named(tmp_path, kind):
    folder = tmp_path / kind
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(EvaluationError, match=kind):
        collect_runs([str(folder)])


def test_responses_of_signals_stand_beside_answers_to_the_same_prompt(tiny_world, tmp_path):
    signals = tmp_path / "signals"
    score_teacher(
        ScoreOptions(
            teacher=str(tiny_world.teacher),
            reference=str(tiny_world.reference),
            data=str(tiny_world.pairs),
            out=str(signals),
            engine="transformers",
            top_k=8,
        )
    )
    row = SignalDataset.open(signals).pair(3)[0]
    folder = write_unfinished_evaluation(tmp_path / "eval")
    with (folder / "answers.jsonl").open("a") as file:
        file.write(
            json.dumps({"prompt_id": row.pair_id, "model": "ours", "prompt": "p", "text": "w1"}) + "\n"
        )
    other, same = data_of(page_of(tmp_path, folder, signals=(str(signals),)))["evaluations"][0]["samples"]
    assert [answer["model"] for answer in other["answers"]] == ["ours", "theirs"]
    assert [answer["model"] for answer in same["answers"]] == [
        "ours",
        "chosen in signals",
        "rejected in signals",
    ]
    tokens = same["answers"][1]["tokens"]
    assert len(tokens) == len(row.response_ids)
    expected = row.teacher_token_logprobs - row.reference_token_logprobs
    assert [advantage for _, advantage in tokens] == pytest.approx(expected.tolist(), abs=1e-3)
