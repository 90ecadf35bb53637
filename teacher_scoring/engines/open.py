"""Opens an engine by name; versions of the installed engines."""

import importlib.util
from importlib.metadata import PackageNotFoundError, version

from data.errors import ConfigurationError
from data.options.model_flags import ENGINES
from teacher_scoring.engines.checked import CheckedEngine
from teacher_scoring.engines.checkpoint import check_checkpoint
from teacher_scoring.engines.contract import EngineOptions


def resolve_engine(kind: str) -> str:
    """The engine that `kind` means on this machine: `auto` is vLLM where it is installed.

    Raises:
        ConfigurationError: an unknown engine.
    """
    if kind not in ENGINES:
        raise ConfigurationError(f"engine: {kind!r} is not one of {', '.join(ENGINES)}")
    if kind == "auto":
        return "vllm" if is_installed("vllm") else "transformers"
    return kind


def is_installed(name: str) -> bool:
    """Whether the library that an engine needs is installed."""
    return importlib.util.find_spec(name) is not None


def engine_version(name: str) -> str:
    """The installed version of the library that an engine needs.

    Raises:
        ConfigurationError: it is not installed.
    """
    if is_installed(name):
        # The CPU build of vLLM is a distribution of another name.
        for distribution in (name, f"{name}-cpu"):
            try:
                return version(distribution)
            except PackageNotFoundError:
                continue
    raise ConfigurationError(f"engine: {name} is not installed; install it with the extra [{name}]")


def open_engine(kind: str, options: EngineOptions) -> CheckedEngine:
    """Load a model into an engine.

    Args:
        kind: `vllm`, `transformers`, or `auto` for vLLM where it is installed.
        options: the model and how to hold it.

    Raises:
        ConfigurationError: an unknown or missing engine, or options that it cannot serve.
        ScoringError: a model that does not load.
    """
    check_checkpoint(options)
    # Imported here: each engine brings a large library, and only one of them is needed.
    if resolve_engine(kind) == "vllm":
        from teacher_scoring.engines.vllm.engine import open_vllm  # noqa: PLC0415

        backend = open_vllm(options)
    else:
        from teacher_scoring.engines.transformers.engine import open_transformers  # noqa: PLC0415

        backend = open_transformers(options)
    return CheckedEngine(backend, label=options.model)
