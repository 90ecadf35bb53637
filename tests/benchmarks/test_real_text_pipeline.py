"""The real-text benchmark from weights to tables, on a tiny random model in place of the package."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_text.judging import Judged
from benchmarks.real_text.pipeline import Pipeline
from benchmarks.real_text.results import check_teacher, compare, write_results
from benchmarks.real_text.sizes import METHODS, Size
from benchmarks.real_text.worlds.friendly import FRIENDLY

_TINY = Size(
    common_tokens=40,
    train_prompts=8,
    samples=4,
    held_out=6,
    max_new_tokens=10,
    teacher_steps=2,
    teacher_rate=1e-3,
    teacher_lora_rank=2,
    heal_steps=2,
    student_steps=2,
    student_rate=1e-3,
    batch_size=2,
    judged_samples=2,
    layers=(0, 2),
)


@pytest.mark.slow
def test_real_text_pipeline_ends_with_tables_and_does_nothing_twice(chat_model: Path, tmp_path: Path) -> None:
    names = ("SFT on chosen", "ADPA, one round of two", "ADPA, two rounds")
    methods = [method for method in METHODS if method.name in names]

    def run() -> Pipeline:
        pipeline = Pipeline(tmp_path / "run", FRIENDLY, 0, _TINY, source=chat_model, engine="transformers")
        write_results(pipeline, compare(pipeline, methods, any_teacher=True))
        return pipeline

    pipeline = run()
    results = json.loads((pipeline.out / "results.json").read_text())
    assert list(results) == ["reference", "teacher", "student", *names]
    assert np.shape(results["ADPA, two rounds"]["1"]["rewards"]) == (6, 2)
    assert {"fluency, nats", "entropy at T = 0.5, nats", "KL to teacher, nats"} < set(
        results["ADPA, two rounds"]
    )
    table = (pipeline.out / "table.md").read_text()
    assert "| ADPA, two rounds " in table
    assert "| signals of a trained student's answers " in table
    assert f"**{pipeline.held_out[0].text}**\n\n- teacher (0." in table
    commands = (pipeline.out / "commands.sh").read_text()
    assert "adpa score-teacher" in commands
    assert "--method adpa" in commands
    assert commands.count("--lora-rank 2") == 1  # the teacher's alone
    assert commands.count("--max-steps 1 ") == 2  # both rounds
    run()
    assert (pipeline.out / "commands.sh").read_text() == commands
    assert json.loads((pipeline.out / "results.json").read_text()) == results


def test_real_text_pipeline_refuses_the_folder_of_another_seed(tmp_path: Path) -> None:
    Pipeline(tmp_path, FRIENDLY, 0, _TINY)
    with pytest.raises(SystemExit, match="holds a run of another size, world or seed"):
        Pipeline(tmp_path, FRIENDLY, 1, _TINY)


def test_real_text_pipeline_judges_on_prompts_that_it_does_not_train_on(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path, FRIENDLY, 0, _TINY)
    assert len(pipeline.held_out) == _TINY.held_out
    assert not {prompt.text for prompt in pipeline.held_out} & {prompt.text for prompt in pipeline.train}


def test_check_teacher_refuses_one_that_is_no_better_than_its_reference() -> None:
    def judged(*rewards: float) -> Judged:
        return Judged(rewards=np.array(rewards)[:, None], tokens=10.0, finished=1.0, nll=1.0)

    reference = judged(0.4, 0.6)
    check_teacher(judged(0.5, 0.6), reference)
    with pytest.raises(SystemExit, match=r"the teacher earns 0\.500, its reference 0\.500: nothing to teach"):
        check_teacher(judged(0.5, 0.5), reference)
