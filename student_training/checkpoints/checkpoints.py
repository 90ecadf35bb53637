"""Resumable checkpoints: which are complete, which to delete, and loading one."""

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers.trainer_utils import sort_checkpoints

from data.errors import TrainingError
from data.files import write_atomic

#: Written last, so that its presence means that everything before it is on the disk.
_MARK = "complete"


def mark_whole(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, after its files were forced to the disk."""
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    write_atomic(checkpoint / _MARK, "")


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps among those that were saved to the end; None without one.

    A process can be killed in the middle of saving; what it leaves has no mark and is ignored.
    """
    whole = [path for path in _sorted(folder) if (path / _MARK).exists()]
    return whole[-1] if whole else None


def remove_torn_checkpoints(folder: Path) -> None:
    """Delete checkpoints that a killed process left unfinished: a later save would write into them."""
    for path in _sorted(folder):
        if not (path / _MARK).exists():
            shutil.rmtree(path)


def rotate_whole_checkpoints(folder: Path, *, limit: int, best: str | None) -> None:
    """Delete the oldest checkpoints beyond a limit; the newest and the best stay.

    Called after the newest one is marked: at no moment is there less than one whole checkpoint.
    """
    kept = Path(best).name if best else None
    for path in _sorted(folder)[:-1]:
        # Without its mark a checkpoint that is being deleted is never taken for a whole one.
        if len(_sorted(folder)) > limit and path.name != kept:
            (path / _MARK).unlink(missing_ok=True)
            shutil.rmtree(path)


def _sorted(folder: Path) -> list[Path]:
    return [Path(path) for path in sort_checkpoints(str(folder))] if folder.is_dir() else []


def restore_weights(student: Any, checkpoint: Path) -> None:
    """Load a checkpoint's weights, or its adapters where the student has some.

    Args:
        student: the causal language model, bare or with adapters; changed in place.
        checkpoint: a folder that the trainer has saved.
    Raises:
        TrainingError: when they do not fit.
    """
    if hasattr(student, "peft_config"):
        from peft import set_peft_model_state_dict  # noqa: PLC0415  (peft is slow to import)

        set_peft_model_state_dict(student, load_file(checkpoint / "adapter_model.safetensors"))
        return
    state = {}
    for file in sorted(checkpoint.glob("model*.safetensors")):
        state |= load_file(file)
    missing, unexpected = student.load_state_dict(state, strict=False)
    # Tied heads are stored once and come back through the tie.
    tied = set(getattr(student, "all_tied_weights_keys", {}) or {})
    if set(missing) - tied or unexpected:
        raise TrainingError(
            f"{checkpoint}: does not fit the student (missing {missing}, unexpected {unexpected}); "
            "remove it to continue from an older checkpoint"
        )
