"""The harness on small real checkpoints and local tasks in its own YAML form; skipped without the extra [eval]."""

import json
import random

import pytest

from data.errors import ConfigurationError, EvaluationError
from evaluation.benchmarks.options import BenchmarkOptions
from evaluation.benchmarks.run import evaluate_benchmarks

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.slow

CHOICE = """\
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 3.0}}
"""

TEXT = """\
task: local_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{until: ["w7"], max_gen_toks: 4, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


@pytest.fixture
def task_folder(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    draw = random.Random(0)

    def words(number):
        return " ".join(f"w{draw.randrange(100)}" for _ in range(number))

    choice = [
        {"question": words(4), "choices": [words(2) for _ in range(4)], "answer": draw.randrange(4)}
        for _ in range(24)
    ]
    text = [{"question": words(3), "answer": words(1)} for _ in range(6)]
    for name, rows in (("choice", choice), ("text", text)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "choice.yaml").write_text(CHOICE.format(folder=folder))
    (folder / "text.yaml").write_text(TEXT.format(folder=folder))
    return folder


def options(tiny_world, task_folder, out, **changes) -> BenchmarkOptions:
    given = {
        "model": (str(tiny_world.student), str(tiny_world.teacher)),
        "baseline": str(tiny_world.reference),
        "task": ("local_choice:2", "local_text"),
        "task_folder": str(task_folder),
        "device": "cpu",
        "out": str(out),
    }
    return BenchmarkOptions(**{**given, **changes})


def test_benchmarks_of_local_tasks_compare_checkpoints_offline(
    tiny_world, task_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "out"
    found = evaluate_benchmarks(options(tiny_world, task_folder, out))
    assert list(found.figures) == ["student", "teacher", "reference"]
    for label in found.figures:
        choice, text = found.figures[label]
        assert (choice.metric, text.metric) == ("acc_norm,none", "exact_match,none")
        assert (choice.num_questions, text.num_questions) == (24, 6)
        assert choice.num_shots == {"local_choice": 2}
        assert choice.versions == {"local_choice": 3.0}
        answered = choice.questions["local_choice"]
        assert len(answered) == 24
        assert choice.value == pytest.approx(sum(answered.values()) / 24)
        assert choice.standard_error is not None
    assert [(gap.model, gap.task) for gap in found.differences] == [
        (model, task) for model in ("student", "teacher") for task in ("local_choice", "local_text")
    ]
    teacher, reference = (found.figures[label][0] for label in ("teacher", "reference"))
    assert found.differences[2].difference == pytest.approx(teacher.value - reference.value)
    assert found.differences[2].interval is not None
    result = json.loads((out / "result.json").read_text())
    assert result["kind"] == "benchmarks"
    assert result["request"]["versions"].keys() == {"lm_eval", "transformers", "adpa"}
    assert result["request"]["models"]["student"]["weights_sha256"]
    assert result["request"]["apply_chat_template"] is False

    # Nothing is run again.
    kept = out / "tasks" / "student" / "local_choice.json"
    before = kept.stat().st_mtime_ns
    assert evaluate_benchmarks(options(tiny_world, task_folder, out)).table == found.table
    assert kept.stat().st_mtime_ns == before


def test_benchmarks_name_a_task_that_is_nowhere(tiny_world, task_folder, tmp_path):
    with pytest.raises(ConfigurationError, match="no task nowhere_to_be_found in the harness or in"):
        evaluate_benchmarks(options(tiny_world, task_folder, tmp_path / "out", task=("nowhere_to_be_found",)))


def test_benchmarks_say_what_to_do_where_a_tasks_data_are_missing(tiny_world, task_folder, tmp_path):
    (task_folder / "text.jsonl").unlink()
    with pytest.raises(EvaluationError, match="local_text cannot be run"):
        evaluate_benchmarks(options(tiny_world, task_folder, tmp_path / "out", task=("local_text",)))
