"""Killed at any moment and started again: the same numbers as without an interruption, bit for bit."""

import os
import random
import signal
import traceback

import pytest
import torch

from data.storage.transfer import push_dataset
from student_training.checkpoints.checkpoints import (
    last_whole_checkpoint,
    mark_whole,
    rotate_whole_checkpoints,
)
from student_training.run import train_student
from student_training.trainer import StudentTrainer

pytestmark = pytest.mark.slow


def killed_after(num_events: int, options) -> bool:
    """Run in a process that kills itself before its n-th event; whether it got to the end.

    Events are training steps and the writes of a save: every file made durable, renamed or serialised.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), (
            "the run failed by itself; its traceback is in the captured output"
        )
        return status == 0
    left = [num_events]

    def counted(function):
        def wrapper(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return wrapper

    os.fsync, os.replace, torch.save = map(counted, (os.fsync, os.replace, torch.save))
    StudentTrainer.training_step = counted(StudentTrainer.training_step)
    code = 1
    try:
        train_student(options)
        code = 0
    finally:
        if code:
            traceback.print_exc()
        # Not sys.exit: the copy of pytest in this process must not run on.
        os._exit(code)


def kills_until_finished(options, *, seed: int, events: range) -> int:
    """Start a run again and again, each time killed before a random event, until it is done; how often that took."""
    draw = random.Random(seed)
    kills = 0
    while not killed_after(draw.randrange(events.start, events.stop), options):
        kills += 1
        assert kills < 30, "no progress"
    return kills


def test_killed_at_random_moments_a_run_ends_with_the_same_losses_and_weights(
    scored, student_with_dropout, numbers, tmp_path
):
    # 10 pairs in batches of 2, two micro-batches a step: 3 steps an epoch, the last one short, and a stop in the
    # middle of the third epoch; lines every 3 steps, checkpoints every 2, so that neither divides the other.
    changes = {
        "student": str(student_with_dropout),
        "max_steps": 8,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "save_steps": 2,
        "logging_steps": 3,
        "threads": 1,
    }
    train_student(scored.options("dckd", tmp_path / "whole", **changes))
    options = scored.options("dckd", tmp_path / "killed", **changes)
    kills = kills_until_finished(options, seed=0, events=range(5, 50))
    assert kills >= 3, "the run was not interrupted often enough to show anything"
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "killed" / ".saving").exists()


def test_whatever_a_run_combines_it_ends_the_same_after_kills(
    scored, student_with_dropout, numbers, tmp_path
):
    """Adapters, packed batches under a budget, two datasets by weight, one at an address, and a patience that runs."""
    push_dataset(scored.full, "memory://resumed/signals")
    changes = {
        "student": str(student_with_dropout),
        "signals": ("memory://resumed/signals", str(scored.pairs_only)),
        "signal_weight": (1.0, 0.5),
        "eval_signals": (str(scored.full),),
        "early_stopping": 3,
        "lora_rank": 2,
        "max_tokens_per_batch": 150,
        "packing": True,
        "gradient_accumulation": 2,
        "max_steps": 6,
        "save_steps": 1,
        "threads": 1,
    }
    train_student(scored.options("dckd", tmp_path / "whole", **changes))
    options = scored.options("dckd", tmp_path / "killed", **changes)
    kills = kills_until_finished(options, seed=1, events=range(10, 60))
    assert kills >= 2, "the run was not interrupted often enough to show anything"
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


def checkpoint(folder, step, *, whole=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    if whole:
        mark_whole(path)
    return path


def test_a_half_written_checkpoint_is_never_picked_up(tmp_path):
    assert last_whole_checkpoint(tmp_path / "none") is None
    checkpoint(tmp_path, 4)
    expected = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 12, whole=False)
    assert last_whole_checkpoint(tmp_path) == expected


def test_the_newest_and_the_best_checkpoint_outlive_the_limit(tmp_path):
    for step in (1, 2, 3, 10):
        checkpoint(tmp_path, step)
    rotate_whole_checkpoints(tmp_path, limit=2, best=str(tmp_path / "elsewhere" / "checkpoint-1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-10"]
    rotate_whole_checkpoints(tmp_path, limit=1, best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
