"""Checks a checkpoint folder before a library loads it, and explains why one did not load."""

import json
import pickle
import re
from pathlib import Path

from safetensors import SafetensorError

from data.errors import AdpaError, ConfigurationError, ScoringError
from teacher_scoring.engines.contract import EngineOptions, parse_engine_args

# What model libraries raise for a checkpoint, an option or a request that they cannot serve.
LOAD_FAILURES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
)

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")

_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def check_checkpoint(options: EngineOptions) -> None:
    """Refuse a folder that cannot be a model, or an adapter folder that cannot be one.

    Raises:
        ConfigurationError: naming the folder and what it lacks.
    """
    _check_folder(Path(options.model), "config.json", _WEIGHTS, "model")
    if options.adapter is not None:
        _check_folder(Path(options.adapter), "adapter_config.json", _ADAPTER_WEIGHTS, "LoRA adapter")


def one_line(error: BaseException) -> str:
    """A library's message on one line; the error's class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def load_failure(options: EngineOptions, library: str, error: BaseException) -> AdpaError:
    """What to raise when a library does not take a model: about an engine argument where that is the reason."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is not None and unknown[1] in parse_engine_args(options.engine_args):
        return ConfigurationError(
            f"engine_arg: {library} has no argument {unknown[1]!r} for this model; leave it out, or take one that "
            f"{'vllm.LLM' if library == 'vLLM' else 'from_pretrained'} documents"
        )
    return ScoringError(f"{options.model}: {library} cannot load this model: {one_line(error)}")


def _check_folder(folder: Path, config_name: str, weights: tuple[str, ...], kind: str) -> None:
    if not folder.exists():
        raise ConfigurationError(f"{folder}: no such folder; expected a {kind} folder")
    config = folder / config_name
    if not config.is_file():
        raise ConfigurationError(f"{folder}: not a {kind} folder, it has no {config_name}")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{config}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{config}: {type(content).__name__} instead of a JSON object")
    if not any(next(folder.glob(pattern), None) for pattern in weights):
        raise ConfigurationError(f"{folder}: no weights ({', '.join(weights)}); save the {kind} there again")
