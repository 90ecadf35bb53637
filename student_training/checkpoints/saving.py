"""The trained student as a checkpoint in its output folder: whole, or not there."""

import shutil
from pathlib import Path
from typing import Any

from student_training.model.lora import merge_lora
from student_training.trainer import StudentTrainer

_STAGING = ".saving"

_ADAPTER = "adapter"

#: Moved over last, so that its presence means that everything else is there.
_LAST_FILE = "config.json"


def is_finished(out: Path) -> bool:
    """Whether a run's folder holds its trained student."""
    return (out / _LAST_FILE).exists()


def reopen(out: Path) -> None:
    """Let a finished run be trained on: until then its last checkpoint holds the student."""
    (out / _LAST_FILE).unlink(missing_ok=True)


def save_student(
    trainer: StudentTrainer,
    out: Path,
    tokenizer: Any,
    *,
    student_folder: Path,
    trust_remote_code: bool,
    keep_adapter: bool = False,
) -> None:
    """Save into a hidden folder, then move the files over, config.json last.

    Args:
        trainer: after training.
        out: the run's folder.
        tokenizer: saved beside the weights.
        student_folder: where the student came from.
        trust_remote_code: run code that comes with it.
        keep_adapter: whether to save LoRA adapters beside the merged weights, too.
    """
    staging = out / _STAGING
    if trainer.args.should_save:
        shutil.rmtree(staging, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    student = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).student
    if hasattr(student, "peft_config"):
        state = trainer.gathered_weights()
        if trainer.args.should_save:
            if keep_adapter:
                student.save_pretrained(staging / _ADAPTER, state_dict=state)
            whole = merge_lora(student, student_folder, trust_remote_code=trust_remote_code, state=state)
            whole.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
    else:
        trainer.save_model(str(staging))
    if not trainer.args.should_save:
        return
    for path in sorted(staging.iterdir(), key=lambda path: path.name == _LAST_FILE):
        if path.is_dir():
            shutil.rmtree(out / path.name, ignore_errors=True)
        path.replace(out / path.name)
    staging.rmdir()
