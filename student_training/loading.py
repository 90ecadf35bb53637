"""Load a student and its tokenizer from a checkpoint folder."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from data.errors import ConfigurationError, TrainingError

__all__ = ["add_lora", "load_student", "load_tokenizer", "training_dtype"]


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises:
        ConfigurationError: when the folder has none.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"--student: {folder} has no usable tokenizer: {reason}") from error


def load_student(folder: Path, *, trust_remote_code: bool) -> PreTrainedModel:
    """Load a causal language model with float32 weights, whatever it was saved in.

    Optimizer steps are smaller than bfloat16's resolution; low precision belongs into the arithmetic only.

    Raises:
        ConfigurationError: when the folder does not hold such a model.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"--student: {folder} does not load as a causal language model: {reason}"
        ) from error


def add_lora(student: PreTrainedModel, rank: int) -> Any:
    """Put LoRA adapters of the given rank on every linear layer but the LM head."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  (slow to import, rarely needed)

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    try:
        return get_peft_model(student, config)
    except ValueError as error:
        raise TrainingError(f"--lora-rank: no adapter fits this student: {error}") from error


def training_dtype(name: str) -> str:
    """Resolve `auto`: bfloat16 where the GPU has it, else float32."""
    if name == "auto":
        return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    return name
