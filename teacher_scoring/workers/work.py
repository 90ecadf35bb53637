"""A request for an engine, and running work on one in this process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ScoringError
from teacher_scoring.engines.checked import CheckedEngine
from teacher_scoring.engines.contract import EngineOptions
from teacher_scoring.engines.open import open_engine

#: How long a stopped engine may take to give its memory back before it is killed, seconds.
STOP_WITHIN_S = 5.0

#: Told while an item is worked on how much more is done; see `Backend.heard`.
Heard = Callable[[float], None]

#: Takes an engine and items, and yields one result for each item, in order.
Work = Callable[[CheckedEngine, Iterator[Any]], Iterator[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """Which engine to open, where, and what for.

    Attributes:
        kind: `auto`, `vllm` or `transformers`.
        settings: the model and how to hold it.
        option: the command's option that named the model, for messages.
        vocab_size: how wide its logits have to be.
        own_process: whether it gets a separate process.
        workers: how many such engines to open side by side, on Ray when there is more than one.
        ray_address: the Ray cluster that they run on: `auto` or `HOST:PORT`; None starts one on this machine for more
            than one worker, and does without Ray for one.
        shared_folders: folders that every worker has to see, as this process does.
    """

    kind: str
    settings: EngineOptions
    option: str
    vocab_size: int
    own_process: bool
    workers: int = 1
    ray_address: str | None = None
    shared_folders: tuple[Path, ...] = ()

    @property
    def on_ray(self) -> bool:
        """Whether its engines are Ray actors."""
        return self.workers > 1 or self.ray_address is not None


def unheard(number: float) -> None:
    """The `Heard` of those who wait for results alone."""


def work_here(
    request: EngineRequest, work: Work, items: Iterator[Any], heard: Heard = unheard
) -> Iterator[Any]:
    """Open the engine in this process, work on all items, close it.

    Raises:
        AdpaError: whatever the engine or `work` raises; ScoringError also for logits of another width than the
            model's configuration says.
    """
    engine = open_engine(request.kind, request.settings)
    engine.report_to(heard)
    try:
        if engine.vocab_size != request.vocab_size:
            raise ScoringError(
                f"{request.option}: the engine's logits are {engine.vocab_size} wide, config.json says "
                f"{request.vocab_size}"
            )
        yield from work(engine, items)
    finally:
        engine.close()
