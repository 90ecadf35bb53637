"""What a model cannot read, because it is too long or holds foreign ids, is dropped or refused before it is asked."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM

from data.errors import ConfigurationError, DataError
from teacher_scoring.dry_run import plan_scoring
from teacher_scoring.sample import SampleOptions, sample_student
from teacher_scoring.score import ScoreOptions, score_teacher


@pytest.fixture
def options(tiny_world, tmp_path):
    """Two pairs, of 8 and of 300 tokens, for models of 256 positions and the default --max-length of 2,048."""
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "w1 w2", "chosen": "w3", "rejected": "w4"}]
    rows += [{"prompt": "w1 " * 290, "chosen": "w5", "rejected": "w6"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(kind=ScoreOptions, **changed):
        given = {"data": str(data), "engine": "transformers", "out": str(tmp_path / "out"), **changed}
        models = {"student": str(tiny_world.student)}
        if kind is ScoreOptions:
            models = {"teacher": str(tiny_world.teacher), "reference": str(tiny_world.reference), "top_k": 4}
        return kind(**{**models, **given})

    return make


def with_positions(folder, number, path):
    """A copy of a model whose configuration names another number of positions."""
    shutil.copytree(folder, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": number}))
    return str(path)


def test_rows_beyond_a_models_positions_are_dropped_counted_and_said(options, caplog):
    caplog.set_level("INFO", logger="teacher_scoring")
    dataset = score_teacher(options()).open()
    assert dataset.num_pairs == 1
    assert any(
        "dropped: 1 longer than 256 tokens (--teacher has no room for more)" in line
        for line in caplog.messages
    )
    assert dataset.manifest.request["max_length"] == 2048, "what was asked for names the dataset"


def test_the_reference_may_be_the_limit_and_cut_prompts_fit_it(options, tiny_world, tmp_path, caplog):
    caplog.set_level("INFO", logger="teacher_scoring")
    reference = with_positions(tiny_world.reference, 100, tmp_path / "short")
    score_teacher(options(reference=reference, out=str(tmp_path / "dropped")))
    assert any(
        "dropped: 1 longer than 100 tokens (--reference has no room for more)" in line
        for line in caplog.messages
    )
    dataset = score_teacher(options(reference=reference, truncate=True)).open()
    longest = max(len(row.prompt_ids) + len(row.response_ids) for row in dataset.iterate())
    assert (dataset.num_pairs, longest) == (2, 100)


def test_sampling_leaves_room_within_the_students_positions(options, caplog):
    caplog.set_level("INFO", logger="teacher_scoring")
    rollouts = sample_student(options(SampleOptions, max_new_tokens=8)).open()
    assert rollouts.num_pairs == 1
    assert any(
        "dropped: 1 longer than 248 tokens (--student has no room for more)" in line
        for line in caplog.messages
    )
    with pytest.raises(
        ConfigurationError, match=r"--max-new-tokens: 256 leaves no room .* positions of the student, 256"
    ):
        sample_student(options(SampleOptions, max_new_tokens=256))


def test_rollouts_that_are_longer_than_what_is_scored_are_dropped_and_counted(options, tmp_path, caplog):
    rollouts = sample_student(
        options(
            SampleOptions, max_new_tokens=8, num_samples=40, temperature=5.0, out=str(tmp_path / "rollouts")
        )
    ).open()
    lengths = sorted(len(row.prompt_ids) + len(row.response_ids) for row in rollouts.iterate())
    assert lengths[0] < lengths[-1], "the world must have short and long answers"
    scoring = options(rollouts=str(rollouts.path), max_length=lengths[-1] - 1)
    num_short = sum(length < lengths[-1] for length in lengths)
    dropped = f"rollouts dropped: {40 - num_short} longer than {lengths[-1] - 1} tokens"
    caplog.set_level("INFO", logger="teacher_scoring")
    assert plan_scoring(scoring).rows["student"] == num_short
    dataset = score_teacher(scoring).open()
    assert sum(line.endswith(dropped) for line in caplog.messages) == 2
    assert [row.role for row in dataset.iterate()].count("student") == num_short
    with pytest.raises(DataError, match="no student response is left to score"):
        score_teacher(
            options(rollouts=str(rollouts.path), max_length=lengths[0] - 1, out=str(tmp_path / "none"))
        )


def with_vocabulary(folder, size, path):
    """A copy of a model with another number of rows in its embedding and head."""
    shutil.copytree(folder, path)
    model = AutoModelForCausalLM.from_pretrained(path)
    model.resize_token_embeddings(size)
    model.save_pretrained(path)
    return str(path)


def test_rollouts_with_tokens_of_the_students_padding_are_dropped_and_counted(
    options, tiny_world, tmp_path, caplog
):
    student = with_vocabulary(tiny_world.student, 512, tmp_path / "padded")
    rollouts = sample_student(
        options(SampleOptions, student=student, max_new_tokens=2, num_samples=40, temperature=5.0,
                out=str(tmp_path / "rollouts"))).open()  # fmt: skip
    num_foreign = sum((row.response_ids >= 128).any() for row in rollouts.iterate())
    assert 0 < num_foreign < 40, "the world must have answers with and without such tokens"
    caplog.set_level("INFO", logger="teacher_scoring")
    dataset = score_teacher(options(rollouts=str(rollouts.path))).open()
    assert (
        f"{rollouts.path}: rollouts dropped: {num_foreign} holds a token that a model lacks"
        in caplog.messages
    )
    assert [row.role for row in dataset.iterate()].count("student") == 40 - num_foreign


def test_a_reference_without_the_token_that_ends_answers_is_refused_before_any_work(
    options, tiny_world, tmp_path
):
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_world.teacher, teacher)
    config = json.loads((teacher / "tokenizer_config.json").read_text())
    (teacher / "tokenizer_config.json").write_text(
        json.dumps({**config, "eos_token": "w99", "chat_template": None})
    )
    (teacher / "chat_template.jinja").unlink(missing_ok=True)
    reference = with_vocabulary(tiny_world.reference, 105, tmp_path / "base")
    with pytest.raises(
        ConfigurationError, match=r"--reference: base has token ids 0 to 104, but answers end with id 105"
    ):
        score_teacher(options(teacher=str(teacher), reference=reference))
    assert not (tmp_path / "out").exists()
