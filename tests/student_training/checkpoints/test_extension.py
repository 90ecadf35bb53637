"""A run may be made longer, and run.toml is a configuration file: what continues, what is said, what is refused."""

import dataclasses
import logging
import tomllib

import pytest

from data.errors import TrainingError
from data.options.config_file import read_config
from student_training.checkpoints.checkpoints import last_whole_checkpoint
from student_training.options import TrainOptions
from student_training.run import train_student
from student_training.trainer import StudentTrainer

pytestmark = pytest.mark.slow

#: A rate that does not depend on the length: only then can an extended run equal one that was long from the start.
CONSTANT = {"lr_scheduler": "constant", "batch_size": 2, "logging_steps": 1, "threads": 1}


def same_weights(first, second):
    return (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"max_steps": 3}, {"max_steps": 8}),
        ({"max_steps": None, "epochs": 1.0}, {"max_steps": None, "epochs": 2.5}),
        ({"max_steps": None, "epochs": 1.0}, {"max_steps": 8}),
    ],
    ids=["steps", "epochs", "epochs to steps"],
)
def test_an_extended_run_is_the_run_that_was_long_from_the_start(
    short, long, scored, student_with_dropout, numbers, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "student_training")
    changes = CONSTANT | {"student": str(student_with_dropout)}
    first = scored.train("dckd", tmp_path / "extended", **changes | short)
    result = scored.train("dckd", tmp_path / "extended", **changes | long)
    assert result.resumed_from == first.steps
    assert result.steps > first.steps
    assert any(
        f"the run is extended from {first.steps} to {result.steps} steps" in line for line in caplog.messages
    )
    scored.train("dckd", tmp_path / "long", **changes | long)
    assert same_weights(tmp_path / "extended", tmp_path / "long")
    assert numbers(tmp_path / "extended") == numbers(tmp_path / "long")
    assert scored.train("dckd", tmp_path / "extended", **changes | long).already_finished


def test_the_first_step_of_an_extension_has_the_rate_of_the_longer_schedule(scored, numbers, tmp_path):
    changes = CONSTANT | {"lr_scheduler": "linear"}
    scored.train("dckd", tmp_path / "run", **changes | {"max_steps": 4})
    scored.train("dckd", tmp_path / "run", **changes | {"max_steps": 8})
    rates = [line["learning_rate"] for line in numbers(tmp_path / "run")]
    # Of 4 steps each takes a quarter away; step 5 to 8 are the second half of a schedule of 8.
    assert rates == pytest.approx([1e-3 * share for share in (1, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125)])


def test_an_extension_that_is_killed_goes_on_as_the_longer_run(scored, tmp_path, monkeypatch):
    changes = CONSTANT | {"save_steps": 2}
    scored.train("dckd", tmp_path / "run", **changes | {"max_steps": 4})
    step = StudentTrainer.training_step

    def no_power(self, *arguments, **named):
        if self.state.global_step == 5:
            raise OSError("no power")
        return step(self, *arguments, **named)

    monkeypatch.setattr(StudentTrainer, "training_step", no_power)
    with pytest.raises(OSError, match="no power"):
        scored.train("dckd", tmp_path / "run", **changes | {"max_steps": 7})
    monkeypatch.undo()
    assert not (tmp_path / "run" / "config.json").exists(), "it looks finished"
    assert scored.train("dckd", tmp_path / "run", **changes | {"max_steps": 7}).steps == 7
    scored.train("dckd", tmp_path / "long", **changes | {"max_steps": 7})
    assert same_weights(tmp_path / "run", tmp_path / "long")


def test_a_shorter_run_or_other_settings_are_no_extension(scored, tmp_path):
    scored.train("dckd", tmp_path / "run", **CONSTANT)
    for changes in ({"max_steps": 1}, {"max_steps": 9, "learning_rate": 0.5}):
        with pytest.raises(TrainingError, match="holds another run"):
            scored.train("dckd", tmp_path / "run", **CONSTANT | changes)
    assert (tmp_path / "run" / "config.json").exists()


def test_a_finished_run_whose_checkpoint_is_gone_says_why_it_cannot_be_extended(scored, tmp_path):
    import shutil

    scored.train("dckd", tmp_path / "run", **CONSTANT)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(TrainingError, match="its last checkpoint is gone, so it cannot be extended"):
        scored.train("dckd", tmp_path / "run", **CONSTANT | {"max_steps": 9})
    assert (tmp_path / "run" / "config.json").exists()


def test_an_extension_that_would_cut_its_epochs_differently_is_refused(scored, tmp_path):
    changes = CONSTANT | {"batch_size": 8, "max_tokens_per_batch": 60, "max_steps": None}
    scored.train("dckd", tmp_path / "run", **changes | {"epochs": 1.0})
    # Batches of later epochs need more room, so every epoch gets more batches.
    with pytest.raises(TrainingError, match="under --max-tokens-per-batch a longer run can cut its epochs"):
        scored.train("dckd", tmp_path / "run", **changes | {"epochs": 12.0})


def test_run_toml_is_a_configuration_file_that_runs_what_it_describes(scored, tmp_path):
    pytest.importorskip("data.options.click_options")
    options = scored.options("abd", tmp_path / "run", boost=0.5, learning_rate=2e-3, eval_fraction=0.3)
    train_student(options)
    values = read_config(str(tmp_path / "run" / "run.toml"), TrainOptions)
    again = TrainOptions(**values | {"out": str(tmp_path / "again")})
    train_student(again)
    assert same_weights(tmp_path / "run", tmp_path / "again")
    records = [tomllib.loads((tmp_path / name / "run.toml").read_text()) for name in ("run", "again")]
    assert records[0] == records[1]
    assert train_student(dataclasses.replace(again, out=str(tmp_path / "run"))).already_finished


def test_a_finished_run_keeps_the_checkpoint_that_it_can_be_extended_from(scored, tmp_path):
    changes = {"max_steps": 4, "save_steps": 1}
    result = scored.train("dckd", tmp_path / "run", **changes)
    kept = list((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["checkpoint-4"]
    assert result.checkpoint == last_whole_checkpoint(tmp_path / "run" / "checkpoints") == kept[0]
    scored.train("dckd", tmp_path / "all", keep_checkpoints=True, save_total_limit=3, **changes)
    assert len(list((tmp_path / "all" / "checkpoints").iterdir())) == 3
