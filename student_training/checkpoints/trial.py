"""A trial before the first step: can the student be saved and read back, and is the disk large enough?"""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from data.errors import AdpaError, TrainingError
from data.files import make_folder
from student_training.model.loading import load_student

_SCRATCH = ".trial"

#: Bytes of AdamW's two states per trained parameter: what a resumable checkpoint holds beside the weights.
_STATE_BYTES = 8


def check_saving(student: Any, tokenizer: Any, out: Path, *, trust_remote_code: bool) -> None:
    """Save the student once beside where it will be trained, read it back, and remove it.

    Of a student with adapters the adapters are saved, with the configurations of its base.

    Args:
        student: the causal language model, bare or with adapters; left as it was found.
        tokenizer: saved beside it.
        out: the run's folder; made if need be, and removed again if that was all that was in it.
        trust_remote_code: run code that comes with the student.
    Raises:
        ShardError: when the folder cannot be made or written.
        TrainingError: when the student cannot be saved or read back, or the disk is too small for a checkpoint.
    """
    make_folder(out)
    scratch = out / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _save_and_load(student, tokenizer, scratch, trust_remote_code=trust_remote_code)
        _check_room(student, out, scratch)
    except AdpaError:
        raise
    except Exception as error:
        # Saving runs the code of any architecture and tokenizer; whatever it raises, nothing has been trained yet.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # safetensors reports a full disk only in the message.
        is_full = os.strerror(errno.ENOSPC) in str(error)
        advice = (
            "free some space or choose another --out"
            if is_full
            else "correct its checkpoint, or take another student"
        )
        raise TrainingError(
            f"{out}: the student could not be saved there, so nothing was trained ({type(error).__name__}: {reason}); "
            f"{advice}"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()


def _save_and_load(student: Any, tokenizer: Any, scratch: Path, *, trust_remote_code: bool) -> None:
    student.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    if hasattr(student, "peft_config"):
        base = student.get_base_model()
        base.config.save_pretrained(scratch)
        if getattr(base, "generation_config", None) is not None:
            base.generation_config.save_pretrained(scratch)
        return
    with torch.random.fork_rng(devices=[]):  # weights are made at random before they are read
        found = load_student(scratch, trust_remote_code=trust_remote_code)
    shapes = {name: value.shape for name, value in found.state_dict().items()}
    expected = {name: value.shape for name, value in student.state_dict().items()}
    if shapes != expected:
        names = sorted(
            name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name)
        )
        raise TrainingError(
            f"the student comes back from the disk with other weights ({', '.join(names[:3])}); "
            "take another student"
        )


def _check_room(student: Any, out: Path, scratch: Path) -> None:
    """Refuse a disk that cannot hold one resumable checkpoint and the trained student."""
    weights = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    trained = sum(value.numel() for value in student.parameters() if value.requires_grad)
    whole = sum(value.numel() * 4 for value in student.parameters())
    needed = weights + _STATE_BYTES * trained + whole
    # The trial's files are deleted before the first checkpoint is written.
    free = shutil.disk_usage(out).free + weights
    if free < needed:
        raise TrainingError(
            f"{out}: {free / 1e9:.1f} GB are free there, a checkpoint and the trained student need "
            f"{needed / 1e9:.1f} GB; free some space or choose another --out"
        )
