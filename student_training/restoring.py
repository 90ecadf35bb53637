"""Put the weights of a resumable checkpoint back into a student."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from data.errors import TrainingError

__all__ = ["restore_weights"]


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
