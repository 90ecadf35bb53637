"""Opens engines by name and knows their versions."""

import importlib.util
from importlib.metadata import PackageNotFoundError, version

from data.errors import ConfigurationError
from teacher_scoring.engines.contract import ENGINES, Engine, EngineOptions

__all__ = ["engine_version", "open_engine", "resolve_engine"]


def resolve_engine(kind: str) -> str:
    """The engine that `kind` stands for on this machine: `auto` is vLLM where it is installed.

    Raises:
        ConfigurationError: an unknown engine.
    """
    if kind not in ENGINES:
        raise ConfigurationError(f"--engine: {kind!r} is not one of {', '.join(ENGINES)}")
    if kind == "auto":
        return "vllm" if importlib.util.find_spec("vllm") else "transformers"
    return kind


def engine_version(name: str) -> str:
    """The installed version of the library that an engine stands on.

    Raises:
        ConfigurationError: it is not installed.
    """
    if importlib.util.find_spec(name) is not None:
        # The CPU build of vLLM is a distribution of another name.
        for distribution in (name, f"{name}-cpu"):
            try:
                return version(distribution)
            except PackageNotFoundError:
                continue
    raise ConfigurationError(f"--engine: {name} is not installed; install it with the extra [{name}]")


def open_engine(kind: str, options: EngineOptions) -> Engine:
    """Load a model into an engine.

    Args:
        kind: `vllm`, `transformers`, or `auto` for vLLM where it is installed.
        options: the model and how to hold it.

    Raises:
        ConfigurationError: an unknown or missing engine, or options that it cannot serve.
        ScoringError: a model that does not load.
    """
    kind = resolve_engine(kind)
    # Imported here: each engine brings a large library, and only one of them is needed.
    if kind == "vllm":
        from teacher_scoring.engines.vllm.engine import open_vllm_engine  # noqa: PLC0415

        return open_vllm_engine(options)
    from teacher_scoring.engines.transformers.engine import open_transformers_engine  # noqa: PLC0415

    return open_transformers_engine(options)
