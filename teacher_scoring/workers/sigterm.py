"""SIGTERM in stage one: stop soon, keep what is finished, exit with code 143."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_TERMINATED = 128 + signal.SIGTERM

#: However busy the engine is, the process is gone after this time, seconds.
TERMINATE_WITHIN_S = 10.0


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an orderly exit with code 143.

    Files appear under their names only when they are complete, so dropping what is in flight is safe at any moment.
    The engine's process is stopped on the way out. Signals can be handled in the main thread only; elsewhere this
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    # A forward pass on the CPU may take minutes to come back to Python; this does not wait for it.
    last_resort = threading.Timer(TERMINATE_WITHIN_S, os._exit, [EXIT_TERMINATED])
    last_resort.daemon = True

    def leave(number: int, frame: FrameType | None) -> None:
        # A second signal must not interrupt the orderly end that the first one began.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        last_resort.start()
        raise SystemExit(EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        last_resort.cancel()
        signal.signal(signal.SIGTERM, before)
