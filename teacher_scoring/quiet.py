"""Keep a library's start-up chatter off the user's terminal."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

__all__ = ["quiet_process"]


@contextlib.contextmanager
def quiet_process() -> Iterator[None]:
    """Swallow what this process writes to stdout and stderr, C++ libraries included, and Python's warnings.

    Errors still arrive as exceptions. Processes started in the meantime stay silent for good, so this is for
    engines that live in this process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os.dup2(saved[0], 1)
                os.dup2(saved[1], 2)
    finally:
        os.close(saved[0])
        os.close(saved[1])
