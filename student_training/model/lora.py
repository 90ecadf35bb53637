"""LoRA adapters on a student: added before training, merged into the weights when it is saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from data.errors import ConfigurationError
from student_training.model.loading import load_student


def add_lora(student: PreTrainedModel, rank: int, targets: Sequence[str] = ()) -> Any:
    """Put LoRA adapters of the given rank on the named layers, or on every linear layer but the LM head.

    Raises:
        ConfigurationError: when the student has no such layer.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training  # noqa: PLC0415  (slow)

    if getattr(student, "is_quantized", False):
        # Whether activations are recomputed is decided by `gradient_checkpointing`.
        student = prepare_model_for_kbit_training(student, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(targets) or "all-linear", task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(student, config)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"--lora-rank: no adapter fits this student: {reason}") from error


def merge_lora(
    student: Any, folder: Path, *, trust_remote_code: bool, state: dict[str, torch.Tensor] | None = None
) -> PreTrainedModel:
    """The student with its adapters added into the weights.

    Args:
        student: with adapters; used up unless its weights are quantised or on other processes.
        folder: where the student came from; read again where its weights are quantised, since adapters
            rounded to 4 bits would lose most of what was learned.
        trust_remote_code: run code that comes with it.
        state: the student's weights by name, where the student itself holds only a part of them.
    """
    if state is None and not getattr(student.get_base_model(), "is_quantized", False):
        return student.merge_and_unload()
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict  # noqa: PLC0415

    whole = get_peft_model(
        load_student(folder, trust_remote_code=trust_remote_code), student.active_peft_config
    )
    adapters = get_peft_model_state_dict(student, state_dict=state)
    set_peft_model_state_dict(whole, {name: value.float().cpu() for name, value in adapters.items()})
    return whole.merge_and_unload()
