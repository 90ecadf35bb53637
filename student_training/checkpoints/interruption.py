"""Ctrl-C and SIGTERM while a student is trained: the first asks for a checkpoint, a second Ctrl-C ends at once.

A signal handler cannot save: it may run in the middle of an optimizer step. So it only notes the signal; the step under
way is finished, and an evaluation if there is one. Then the trainer saves, as it also does after some minutes. Such a
checkpoint between the scheduled ones writes no line of metrics and evaluates nothing: an interrupted run writes the
same numbers as one that was never interrupted. The sums since the last line are stored with it.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Takes SIGINT and SIGTERM for as long as the context lasts; in the main thread, elsewhere it does nothing.

    Attributes:
        number: the signal that came while `deferred`; None before.
        deferred: whether a signal is only noted, to be acted on after the step; else it ends the command at once.
        consequence: what the user is told to expect of the same command after an end.
    """

    def __init__(self, consequence: str) -> None:
        self.number: int | None = None
        self.deferred = False
        self.consequence = consequence
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.deferred:
            self.number = number
            self.end()
        elif self.number is None:
            self.number = number
            again = "; press Ctrl-C again to end at once and lose it" if number == signal.SIGINT else ""
            logger.warning("finishing the step under way to save a checkpoint%s", again)
        elif number == signal.SIGINT and self.number == signal.SIGINT:
            # A launcher sends both signals, and some schedulers SIGTERM twice: those are not a second request.
            os._exit(128 + number)

    def end(self) -> None:
        """End the command if a signal has come, with its exit code.

        Raises:
            KeyboardInterrupt: for SIGINT; its text says what the same command will do.
            SystemExit: for SIGTERM, after that text was logged.
        """
        if self.number is None:
            return
        message = f"interrupted; {self.consequence}"
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        logger.warning(message)
        raise SystemExit(128 + self.number)


class SaveOnRequest(TrainerCallback):
    """Asks for a checkpoint when a signal has come, and then for the end; or when minutes have passed without one."""

    def __init__(
        self,
        stop: StopRequest,
        *,
        save_minutes: float,
        anywhere: Callable[[list[bool]], list[bool]],
    ) -> None:
        """Prepare.

        Args:
            stop: notes the signals.
            save_minutes: between two checkpoints at most; 0 for no such limit.
            anywhere: what of several things is so on any process; all processes call it in every step.
        """
        self._stop = stop
        self._save_every_s = save_minutes * 60
        self._anywhere = anywhere
        self._saved_at_s = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._saved_at_s = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look for a signal and at the clock."""
        is_due = bool(self._save_every_s) and time.monotonic() - self._saved_at_s >= self._save_every_s
        stops, is_due = self._anywhere([self._stop.number is not None, is_due])
        if stops and self._stop.number is None:
            self._stop.number = signal.SIGTERM  # a signal reached another process: all of them end
        control.should_save = control.should_save or stops or is_due
        control.should_training_stop = control.should_training_stop or stops

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restart the clock."""
        self._saved_at_s = time.monotonic()
