"""Ctrl-C, SIGTERM and the clock save a checkpoint; what follows is what an uninterrupted run would have been."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from student_training.checkpoints.checkpoints import last_whole_checkpoint
from student_training.run import train_student
from student_training.trainer import StudentTrainer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

#: Two micro-batches a step, lines every 3 steps: a signal comes in the middle of a step and between two lines.
CHANGES = {"max_steps": 8, "batch_size": 2, "gradient_accumulation": 2, "logging_steps": 3, "threads": 1}


@pytest.fixture
def signal_during(monkeypatch):
    """Send this process a signal in the n-th forward pass of training; the steps that had been taken then."""

    def arm(number, forward_pass):
        run, seen, steps = StudentTrainer.training_step, [], []

        def training_step(self, *arguments, **named):
            seen.append(1)
            if len(seen) == forward_pass:
                steps.append(self.state.global_step)
                os.kill(os.getpid(), number)
            return run(self, *arguments, **named)

        monkeypatch.setattr(StudentTrainer, "training_step", training_step)
        return steps

    return arm


@pytest.fixture(scope="module")
def uninterrupted(scored, student_with_dropout, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    scored.train("dckd", out, student=str(student_with_dropout), eval_fraction=0.3, **CHANGES)
    return out


@pytest.fixture
def options(scored, student_with_dropout, tmp_path):
    return scored.options(
        "dckd", tmp_path / "run", student=str(student_with_dropout), eval_fraction=0.3, **CHANGES
    )


def assert_same_run(numbers, out, uninterrupted):
    assert numbers(out) == numbers(uninterrupted)
    assert (out / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


@pytest.mark.parametrize("forward_pass", [1, 2, 9, 12])
def test_ctrl_c_finishes_the_step_saves_and_says_where(
    forward_pass, options, uninterrupted, signal_during, numbers, tmp_path, caplog
):
    before = signal.getsignal(signal.SIGINT)
    steps = signal_during(signal.SIGINT, forward_pass)
    with pytest.raises(KeyboardInterrupt, match=r"saved in .*; the same command continues there") as ended:
        train_student(options)
    step = steps[0] + 1
    assert f"checkpoint-{step};" in str(ended.value)
    assert signal.getsignal(signal.SIGINT) is before
    assert "press Ctrl-C again to end at once and lose it" in caplog.text
    assert not (tmp_path / "run" / "config.json").exists()
    result = train_student(options)
    assert result.resumed_from == step
    assert_same_run(numbers, tmp_path / "run", uninterrupted)


def test_sigterm_saves_and_exits_with_143(options, uninterrupted, signal_during, numbers, tmp_path, caplog):
    steps = signal_during(signal.SIGTERM, 5)
    with pytest.raises(SystemExit) as ended:
        train_student(options)
    assert ended.value.code == 143
    assert "saved in" in caplog.messages[-1]
    assert f"checkpoint-{steps[0] + 1}; the same command continues there" in caplog.messages[-1]
    train_student(options)
    assert_same_run(numbers, tmp_path / "run", uninterrupted)


def test_an_interrupt_before_the_first_step_says_that_nothing_was_trained(options, tmp_path, monkeypatch):
    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StudentTrainer, "try_batch", interrupted)
    with pytest.raises(
        KeyboardInterrupt, match="nothing had been trained yet; the same command starts again"
    ):
        train_student(options)
    assert last_whole_checkpoint(tmp_path / "run" / "checkpoints") is None


def test_a_run_killed_before_its_first_checkpoint_says_it_starts_again(
    options, uninterrupted, numbers, tmp_path, caplog, monkeypatch
):
    caplog.set_level("INFO", "student_training")

    def no_power(self):
        raise OSError("no power")

    monkeypatch.setattr(StudentTrainer, "train", no_power)
    with pytest.raises(OSError, match="no power"):
        train_student(options)
    monkeypatch.undo()
    caplog.clear()
    train_student(options)
    assert f"{tmp_path / 'run'} has no checkpoint yet: training starts at step 1" in caplog.messages
    assert_same_run(numbers, tmp_path / "run", uninterrupted)


def test_a_checkpoint_is_saved_when_minutes_have_passed(
    options, uninterrupted, numbers, tmp_path, monkeypatch
):
    clock = iter(range(0, 10_000, 25))  # seconds: every look at the clock is 25 later
    monkeypatch.setattr(
        "student_training.checkpoints.interruption.time", SimpleNamespace(monotonic=lambda: next(clock))
    )
    train_student(dataclasses.replace(options, save_minutes=1.0, keep_checkpoints=True, save_total_limit=9))
    saved = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    # Saved at the end whatever the clock says; before that more often than never and less than always.
    assert saved[-1] == 8
    assert 2 <= len(saved) < 8
    assert_same_run(numbers, tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_command_at_once(scored, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable, str(ROOT / "cli.py"), "train-student", "--method", "dckd", "--signals", str(scored.full),
        "--student", str(scored.student), "--max-steps", "1000000", "--save-steps", "1000000", "--out", str(out),
    ]  # fmt: skip
    # In the background of a script Ctrl-C is ignored, and children inherit that; this one must not.
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert running.poll() is None, running.stderr
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(60) == 130
