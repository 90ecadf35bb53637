"""The trained student as a checkpoint in its output folder: whole, or not there."""

import shutil
from pathlib import Path
from typing import Any

from student_training.model.loading import merge_lora
from student_training.trainer import StudentTrainer

__all__ = ["is_finished", "save_student"]


_STAGING = ".saving"


def is_finished(out: Path) -> bool:
    """Whether a run's folder holds its trained student."""
    return (out / "config.json").exists()


def save_student(
    trainer: StudentTrainer, out: Path, tokenizer: Any, *, student_folder: Path, trust_remote_code: bool
) -> None:
    """Save into a hidden folder, then move the files over, config.json last.

    Args:
        trainer: after training.
        out: the run's folder.
        tokenizer: saved beside the weights.
        student_folder: where the student came from.
        trust_remote_code: run code that comes with it.
    """
    staging = out / _STAGING
    if trainer.args.should_save:
        shutil.rmtree(staging, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    student = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).student
    if hasattr(student, "peft_config"):
        state = trainer.gathered_weights()
        if trainer.args.should_save:
            whole = merge_lora(student, student_folder, trust_remote_code=trust_remote_code, state=state)
            whole.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
    else:
        trainer.save_model(str(staging))
    if not trainer.args.should_save:
        return
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(out / path.name)
    staging.rmdir()
