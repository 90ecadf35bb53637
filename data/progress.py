"""Progress of a long loop: a bar on a terminal, elsewhere a log line every half minute."""

import logging
import sys
import threading
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

#: Longest silence of a loop that runs off a terminal, seconds.
EVERY_S = 30.0

logger = logging.getLogger(__name__)


class Progress:
    """Counts what a loop has done and says so, while used as a context manager.

    Both forms follow the log level: a program that has not asked for INFO sees neither. Off a terminal a thread writes
    the lines, so that a first result that takes minutes is not waited for in silence.
    """

    def __init__(self, name: str, *, unit: str, total: int | None = None) -> None:
        """Describe the loop.

        Args:
            name: what is done, first word of every line.
            unit: of the counts, in the plural.
            total: how many there will be; None where nobody knows.
        """
        self._name, self._unit, self._total = name, unit, total
        self._done = 0.0
        self._heard = 0.0
        self._found = 0.0
        self._started_s = 0.0
        self._bar: tqdm | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._started_s = time.monotonic()
        if logger.isEnabledFor(logging.INFO):
            if sys.stderr.isatty():
                self._bar = tqdm(desc=self._name, total=self._total, unit=f" {self._unit}", unit_scale=True)
            else:
                self._thread = threading.Thread(target=self._write_lines, name="progress", daemon=True)
                self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.close()
        if self._thread is not None:
            self._thread.join()

    def update(self, number: float = 1) -> None:
        """Count `number` more as done."""
        self._reach(self._done + number, self._heard)

    def find(self, number: float) -> None:
        """Count `number` as done before this loop: it is no part of its speed."""
        self._found += number
        self._reach(self._done + number, self._heard + number)

    def hear(self, number: float) -> None:
        """Count `number` more as worked on, of what `update` will count when it arrives; parts of one count, too."""
        self._reach(self._done, self._heard + number)

    def describe(self, elapsed_s: float) -> str:
        """The line for a time since the start: how many, percent, rate, time left."""
        count = self._count()
        done = f"{self._name}: {int(count):,} {self._unit}"
        if self._total:
            done = f"{self._name}: {int(count):,} of {self._total:,} {self._unit} ({count / self._total:.0%})"
        if count <= self._found:
            return f"{done}, {_duration(elapsed_s)} so far"
        rate = (count - self._found) / elapsed_s
        speed = f"{rate:,.0f} a second" if rate >= 1 else f"{60 * rate:,.1f} a minute"
        left = f", {_duration((self._total - count) / rate)} left" if self._total else ""
        return f"{done}, {speed}{left}"

    def _count(self) -> float:
        count = max(self._done, self._heard)
        return count if self._total is None else min(count, max(self._total, self._done))

    def _reach(self, done: float, heard: float) -> None:
        before = self._count()
        self._done, self._heard = done, heard
        if self._bar is not None:
            self._bar.update(self._count() - before)

    def _write_lines(self) -> None:
        while not self._ended.wait(EVERY_S):
            logger.info("%s", self.describe(time.monotonic() - self._started_s))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
