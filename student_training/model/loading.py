"""Load a student and its tokenizer from a checkpoint folder."""

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from data.errors import ConfigurationError
from data.model_identity import unusable_tokenizer

__all__ = [
    "add_lora",
    "load_student",
    "load_tokenizer",
    "merge_lora",
    "require_bitsandbytes",
    "stop_at",
    "training_dtype",
]


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises:
        ConfigurationError: when the folder has none.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        # A damaged file can raise anything, and `tokenizers` nothing narrower than Exception.
        raise unusable_tokenizer(folder, "--student", error) from error


def load_student(folder: Path, *, trust_remote_code: bool, quantize: str = "none") -> PreTrainedModel:
    """Load a causal language model with float32 weights, whatever it was saved in, or quantised ones.

    Optimizer steps are smaller than bfloat16's resolution; low precision belongs into the arithmetic only.

    Args:
        folder: the checkpoint.
        trust_remote_code: run code that comes with it.
        quantize: `none`, or `nf4` or `int8` for weights that stay frozen under adapters.
    Raises:
        ConfigurationError: when the folder does not hold such a model, or not all of its weights.
    """
    quantized = {} if quantize == "none" else _quantized(quantize)
    try:
        with _without_reports():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                **quantized,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            f"--student: {folder} does not load as a causal language model: {reason}"
        ) from error
    student, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ConfigurationError(
            f"--student: {folder} lacks {len(missing)} of its weights, the first {missing[0]}, which would start at "
            "random; give a causal language model's checkpoint with all of them"
        )
    return student


@contextlib.contextmanager
def _without_reports() -> Iterator[None]:
    """Loading without transformers' tables of what it found; the one line that matters is ours."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _quantized(quantize: str) -> dict[str, Any]:
    """Arguments of from_pretrained for frozen weights in 4 or 8 bits; the LM head keeps its precision."""
    if quantize == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def require_bitsandbytes(option: str) -> None:
    """Check that bitsandbytes can work here.

    Raises:
        ConfigurationError: without a CUDA device or without the package.
    """
    missing = "a CUDA device" if not torch.cuda.is_available() else None
    if missing is None and importlib.util.find_spec("bitsandbytes") is None:
        missing = "the package bitsandbytes (pip install bitsandbytes)"
    if missing:
        raise ConfigurationError(f"{option}: needs {missing}, which is not here; leave the option out")


def add_lora(student: PreTrainedModel, rank: int, targets: Sequence[str] = ()) -> Any:
    """Put LoRA adapters of the given rank on the named layers, or on every linear layer but the LM head."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training  # noqa: PLC0415  (slow)

    if getattr(student, "is_quantized", False):
        # Whether activations are recomputed is for --gradient-checkpointing to say.
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
        student: with adapters; used up unless its weights are quantised or lie elsewhere.
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


def stop_at(student: Any, ends: Iterable[int | None]) -> None:
    """Let generation stop at further tokens: those that responses are trained to end with.

    Many base models name others, and a student trained on chats would talk on. Those that the student's
    configurations name stay, and so does everything else in them: a padding id there, for one, would keep the
    embedding of that token from learning whenever the student is loaded again.

    Args:
        student: the causal language model, with its adapters if any; its configurations are changed in place.
        ends: token ids, the first of them first; None counts for nothing.
    """
    wanted = [end for end in dict.fromkeys(ends) if end is not None]
    for config in (student.config.get_text_config(), getattr(student, "generation_config", None)):
        if config is None:
            continue
        named = config.eos_token_id
        before = named if isinstance(named, list) else [] if named is None else [named]
        if new := [end for end in wanted if end not in before]:
            config.eos_token_id = [*new, *before] if len(new) + len(before) > 1 else new[0]


def training_dtype(name: str) -> str:
    """Resolve `auto`: bfloat16 where the GPU has it, else float32."""
    if name == "auto":
        return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    return name
