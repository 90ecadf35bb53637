"""Resident memory of this process, and the peak that a piece of work adds to it (Linux)."""

from collections.abc import Callable
from pathlib import Path


def peak_above_now(work: Callable[[], object]) -> int:
    """Run something and return how many bytes its peak is above what was resident before.

    Raises:
        RuntimeError: where /proc does not tell.
    """
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts a new peak
    work()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory on a CPU is measured on Linux only")
