"""Folders moved aside for a while, so that whoever still needed them would fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["bring_back", "out_of_reach"]

_SUFFIX = ".moved-aside"


@contextmanager
def out_of_reach(*folders: Path) -> Iterator[None]:
    """Rename folders while the block runs, and name them back however it ends.

    A killed process cannot clean up: `bring_back` does so at the next start.
    """
    try:
        for folder in folders:
            folder.rename(_aside(folder))
        yield
    finally:
        bring_back(*folders)


def bring_back(*folders: Path) -> None:
    """Give moved folders their names again; those in their place stay as they are."""
    for folder in folders:
        if _aside(folder).exists():
            _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + _SUFFIX)
