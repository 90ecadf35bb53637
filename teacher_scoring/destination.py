"""Where a dataset is made: the folder that was asked for, or its own in the store; one process at a time."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.errors import ShardError
from data.locks import hold_lock
from data.manifest import MANIFEST_NAME
from data.preferences import PreferenceReader
from data.requests import fingerprint
from data.store import reserve_dataset
from teacher_scoring.mend import is_whole, reopen_damaged
from teacher_scoring.request import Report
from teacher_scoring.workplace import Part, Workplace, has_dataset, refuse_other_dataset

__all__ = ["is_finished", "open_destination"]


@contextlib.contextmanager
def open_destination(
    out: str | None,
    known: Mapping[str, Any],
    reader: PreferenceReader,
    part: Part,
    report: Report,
) -> Iterator[Path]:
    """Get the folder of a dataset; another process that makes the same part of it is waited for.

    Args:
        out: the folder; None takes the one in the store that belongs to the request.
        known: the request, but for the hash of its data.
        reader: the data. Without `out` they are read now, because their hash is part of the name.
        part: which part of the dataset is going to be made.
        report: takes lines for the user.
    Yields:
        The folder, which may hold the finished dataset by now.
    Raises:
        ShardError: for a folder or a store that cannot be written.
        DataError: for data that cannot be read.
    """

    def waiting(folder: Path) -> None:
        report(f"{folder}: another process is making this dataset; waiting for it")

    if out is None:
        name = fingerprint({**known, "data": reader.read_data_hash()})
        with reserve_dataset(name, waiting=waiting) as (folder, complete):
            if not complete and (folder / MANIFEST_NAME).exists():
                raise ShardError(
                    f"{folder}: its manifest is damaged; run adpa signals verify --signals {folder} --repair"
                )
            yield folder
        return
    folder = Path(out)
    # What is there already may be read by several at once; and what can hold nothing is refused elsewhere.
    if folder.is_file() or (has_dataset(folder) and is_whole(folder)):
        yield folder
        return
    lock = Workplace(folder, part).lock_path
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(_remove_if_empty, lock.parent, folder)
            stack.enter_context(hold_lock(lock, waiting=lambda: waiting(folder)))
        except OSError as error:
            raise ShardError(f"{out}: cannot be written: {error.strerror}; choose another --out") from error
        yield folder


def is_finished(out: Path, known: Mapping[str, Any], reader: PreferenceReader, report: Report) -> bool:
    """Whether a folder holds the dataset that is asked for, with all its files.

    One that has lost files is made unfinished again, so that the run that asks makes them anew.

    Args:
        out: the folder.
        known: the request, but for the hash of its data.
        reader: the data, which are read where the folder holds a dataset.
        report: takes lines for the user.
    Raises:
        ShardError: when it holds another dataset, or one whose manifest is damaged.
    """
    refuse_other_dataset(out, known)
    if not has_dataset(out):
        return False
    refuse_other_dataset(out, {**known, "data": reader.read_data_hash()})
    if reopen_damaged(out, known, report):
        return False
    # Left there when the run was killed between its last two steps.
    Workplace(out, Part()).release()
    report(f"{out} holds this dataset already; nothing to do")
    return True


def _remove_if_empty(*folders: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
