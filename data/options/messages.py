"""A command's messages: log records of this project as plain lines on standard error.

The library itself installs no handler and stays quiet. A command shows the records of our loggers from INFO on, and of
everybody else's from WARNING on. A line clears a progress bar that is being drawn and draws it again below.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm

#: Top-level names of the loggers of this project; the modules' own loggers are below them.
OUR_LOGGERS = ("adpa", "cli", "data", "evaluation", "small_world", "student_training", "teacher_scoring")


class _LineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001  (as every handler of the standard library does)
            self.handleError(record)


class _LineFormatter(logging.Formatter):
    """The message alone; from WARNING on with its level; with `verbose` also when and by whom."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__("%(message)s", datefmt="%H:%M:%S")
        self._verbose = verbose

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        level = record.levelname.lower()
        if self._verbose:
            return f"{self.formatTime(record, self.datefmt)} {level} {record.name}: {line}"
        return line if record.levelno < logging.WARNING else f"{level}: {line}"


@contextlib.contextmanager
def show_messages(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Show log records on standard error for as long as the context lasts.

    Args:
        quiet: warnings and errors only.
        verbose: debugging messages too, each with its time and its logger.
    """
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = _LineHandler()
    handler.setFormatter(_LineFormatter(verbose=verbose))
    root = logging.getLogger()
    ours = [logging.getLogger(name) for name in OUR_LOGGERS]
    before = [logger.level for logger in ours]
    for logger in ours:
        logger.setLevel(level)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, old in zip(ours, before, strict=True):
            logger.setLevel(old)
