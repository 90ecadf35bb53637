"""`signals list`: the datasets of a store as a table for the terminal."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.store import StoredDataset

__all__ = ["listing"]

_HEADINGS = ("name", "kind", "models", "responses", "positions", "MB", "made", "used")
_NUMBERS = {"responses", "positions", "MB"}


def listing(
    store: str | os.PathLike[str],
    datasets: Sequence[StoredDataset],
    unfinished: Sequence[Path],
    unreadable: Sequence[tuple[Path, str]],
) -> Iterator[str]:
    """A heading, one line for each dataset, and what else lies there.

    Args:
        store: the store's folder.
        datasets: the complete datasets in it.
        unfinished: folders without a manifest.
        unreadable: folders with one that cannot be read, and why.
    """
    if not datasets:
        yield f"{store}: no datasets"
    else:
        total = sum(dataset.size_bytes for dataset in datasets)
        yield f"{store}: {len(datasets)} dataset{'s' if len(datasets) > 1 else ''}, {total / 1e6:,.1f} MB"
        yield from _table([_HEADINGS, *(_cells(dataset) for dataset in datasets)])
    if unfinished:
        names = ", ".join(path.name for path in unfinished)
        yield f"unfinished, or read from an address and not all here yet: {names}"
    yield from (f"not usable: {reason}" for _, reason in unreadable)


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
            for heading, cell, width in zip(_HEADINGS, row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _cells(dataset: StoredDataset) -> tuple[str, ...]:
    manifest = dataset.manifest
    return (
        dataset.path.name,
        manifest.kind,
        dataset.models,
        f"{manifest.rows:,}",
        f"{manifest.positions:,}",
        f"{dataset.size_bytes / 1e6:,.1f}",
        _day(dataset.finished),
        _day(dataset.last_used),
    )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
