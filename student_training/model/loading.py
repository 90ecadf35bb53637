"""Load a student and its tokenizer from a checkpoint folder."""

import contextlib
import importlib.util
import logging
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from data.errors import ConfigurationError
from data.model_identity import unusable_tokenizer

logger = logging.getLogger(__name__)

_GENERATION_CONFIG = "generation_config.json"


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
    _check_generation_config(folder)
    try:
        with _without_reports():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=_usable_config(folder, trust_remote_code),
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
    _repair_generation_config(student, folder)
    return student


def _usable_config(folder: Path, trust_remote_code: bool) -> Any:
    """The student's configuration; a padding token that its embedding has no row for is left out.

    With one the embedding is refused above the vocabulary, and below 0 another token's row would never be trained.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    text: Any = config.get_text_config()
    # RWKV's configuration has no such field.
    if not 0 <= (getattr(text, "pad_token_id", None) or 0) < text.vocab_size:
        text.pad_token_id = None
    return config


def _check_generation_config(folder: Path) -> None:
    """Read a generation configuration by itself: otherwise its faults would be reported as the model's.

    Raises:
        ConfigurationError: when transformers refuses to read it.
    """
    if not (folder / _GENERATION_CONFIG).is_file():
        return
    try:
        with _without_reports():
            GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise _invalid_generation_config(folder, error) from error


def _invalid_generation_config(folder: Path, error: Exception) -> ConfigurationError:
    """One line: the file, and what the library says of it without its advice."""
    reason = " ".join(str(error).removeprefix("GenerationConfig is invalid:").split()).removeprefix("- ")
    return ConfigurationError(
        f"--student: {folder / _GENERATION_CONFIG} is invalid and could not be saved beside the trained student "
        f"({textwrap.shorten(reason, 200, placeholder=' …')}); correct or remove the file"
    )


def _repair_generation_config(student: Any, folder: Path) -> None:
    """Make a generation configuration one that can be saved; many checkpoints ship one that cannot.

    The usual fault is a temperature or top_p without `do_sample`, which transformers reads and refuses to write.

    Raises:
        ConfigurationError: when it stays invalid.
    """
    config = getattr(student, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
        return
    except ValueError:
        sampled, config.do_sample = config.do_sample, True
    try:
        config.validate(strict=True)
    except ValueError as error:
        config.do_sample = sampled
        raise _invalid_generation_config(folder, error) from error
    logger.warning(
        "%s sets sampling values without do_sample, which cannot be saved; the trained student gets do_sample = true",
        folder / _GENERATION_CONFIG,
    )


@contextlib.contextmanager
def _without_reports() -> Iterator[None]:
    """Loading without transformers' tables of what it found; an error says what matters in one line."""
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


def stop_at(student: Any, ends: Iterable[int | None]) -> None:
    """Let generation stop at further tokens: those that responses are trained to end with.

    Many base models name others, and a student trained on chats would not stop. Those that the student's
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
