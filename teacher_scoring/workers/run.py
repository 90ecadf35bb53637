"""Run work on an engine, in this process or another, and return its results in order."""

import importlib.util
import itertools
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError
from teacher_scoring.engine_flags import engine_options
from teacher_scoring.engines.models import ResolvedModel
from teacher_scoring.engines.open import resolve_engine
from teacher_scoring.options import SampleOptions, ScoreOptions
from teacher_scoring.workers.process import work_apart
from teacher_scoring.workers.work import EngineRequest, Heard, Work, unheard, work_here


def request_engine(
    options: ScoreOptions | SampleOptions, model: ResolvedModel, *, shared_folders: Sequence[Path] = ()
) -> EngineRequest:
    """The engine, or the engines, that a command's options ask for.

    Args:
        options: the command's.
        model: what to open.
        shared_folders: folders that the work reads from or writes into.
    Raises:
        ConfigurationError: options that do not go together.
    """
    own = options.own_process
    if options.workers > 1 or options.ray_address is not None:
        _check_ray_options(options)
    settings = engine_options(
        options,
        str(model.folder.absolute()),
        str(model.adapter.absolute()) if model.adapter is not None else None,
        max_length=options.max_length,
    )
    return EngineRequest(
        kind=options.engine,
        settings=settings,
        option=model.option,
        vocab_size=model.vocab_size,
        own_process=needs_own_process(options.engine) if own is None else own,
        workers=options.workers,
        ray_address=options.ray_address,
        shared_folders=tuple(shared_folders),
    )


def needs_own_process(kind: str) -> bool:
    """Whether an engine's memory comes back for certain only when its process ends: vLLM's, and any on a GPU."""
    if resolve_engine(kind) == "vllm":
        return True
    import torch  # noqa: PLC0415  (this module is also imported where nothing is opened)

    return torch.cuda.is_available()


def _check_ray_options(options: ScoreOptions | SampleOptions) -> None:
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError(
            "--workers and --ray-address need Ray, which is not installed; install it with the "
            "extra [ray], or score with one engine per machine and --shard-range"
        )
    if options.own_process is False:
        raise ConfigurationError(
            "--no-own-process: the engine of a worker always has a separate process; leave it out"
        )
    if (options.ray_address or "").startswith("ray://"):
        raise ConfigurationError(
            f"--ray-address: {options.ray_address!r} is for Ray's client; run this command on a machine of the "
            "cluster, with auto or HOST:PORT"
        )


def run_on_engine(
    request: EngineRequest, work: Work, items: Iterable[Any], heard: Heard = unheard
) -> Generator[Any, None, None]:
    """Open an engine when the first item is there, work on all of them, close the engine.

    Args:
        request: the engine.
        work: takes the engine and the items, and yields one result for each, in order. For an engine in a separate
            process, `work`, items and results have to be picklable.
        items: taken a few ahead of the results.
        heard: told how far the work is between two results.
    Yields:
        The results.
    Raises:
        AdpaError: whatever the engine or `work` raises; ScoringError also when the engine's process dies, or too many
            workers do.
    """
    items = iter(items)
    for first in items:
        everything = itertools.chain([first], items)
        if request.on_ray:
            from teacher_scoring.workers.ray import work_on_ray as run  # noqa: PLC0415  (only where it is asked for)
        else:
            run = work_apart if request.own_process else work_here
        yield from run(request, work, everything, heard)
