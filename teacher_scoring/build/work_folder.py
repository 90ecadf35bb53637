"""The hidden folder in which an unfinished dataset grows, and the folder it becomes."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from data.errors import ShardError
from data.files import remove_leftovers, write_atomic
from data.locks import hold_lock
from data.preferences.reader import PreferenceReader
from data.signals.dataset import is_sound
from data.signals.fingerprint import explain_differences, fingerprint
from data.signals.manifest import MANIFEST_NAME, RoleCount, RowGroup, ShardEntry, read_manifest
from data.storage.store import reserve_dataset
from teacher_scoring.options import ALL_SHARDS, Part, Report

__all__ = [
    "FAILED_NAME",
    "LostResponse",
    "ShardRecord",
    "Workplace",
    "finished_places",
    "has_dataset",
    "is_finished",
    "is_whole",
    "open_destination",
    "refuse_other_dataset",
    "reopen_damaged",
]

#: Responses that got no scores, one JSON object a line; only there when there are any.
FAILED_NAME = "failed.jsonl"


_WORK, _REQUEST, _DONE = ".work", "request.json", "done.json"


@dataclass(frozen=True, slots=True)
class LostResponse:
    """A response that got no scores; one line of `failed.jsonl`.

    Attributes:
        pair_id: the pair, all of which the dataset leaves out.
        role: `chosen`, `rejected` or `student`.
        sample_index: which of several samples.
        model: `teacher`, `reference` or `student`: who gave no sound answer.
        reason: what was wrong with the last answer.
    """

    pair_id: str
    role: str
    sample_index: int
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard of the dataset that has been written.

    Attributes:
        index: its place.
        entry: what the manifest will say of it.
        lost: responses without scores.
    """

    index: int
    entry: ShardEntry
    lost: tuple[LostResponse, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The record as it is stored."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The record as it was stored."""
        entry = dict(content["entry"])
        groups = tuple(RowGroup(**group) for group in entry.pop("row_groups"))
        roles = {role: RoleCount(**count) for role, count in entry.pop("roles").items()}
        lost = tuple(LostResponse(**response) for response in content["lost"])
        return cls(content["index"], ShardEntry(**entry, row_groups=groups, roles=roles), lost)


def has_dataset(out: Path) -> bool:
    """Whether a folder holds a finished dataset."""
    return (out / MANIFEST_NAME).exists()


def refuse_other_dataset(out: Path, known: Mapping[str, Any]) -> None:
    """Stop when a folder holds a finished dataset that another request made.

    Args:
        out: the output folder.
        known: the request, or as many of its fields as are known so far.
    Raises:
        ShardError: naming the fields that differ.
    """
    if not has_dataset(out):
        return
    found = read_manifest(out).request
    differences = explain_differences({name: found.get(name) for name in known}, known)
    if differences:
        raise ShardError(
            f"{out} holds a different dataset: {differences}; choose another --out or remove the folder"
        )


def finished_places(out: Path) -> list["Workplace"]:
    """The work folders of all parts of a dataset that are finished."""
    places = []
    for done in sorted((out / _WORK).glob(f"*-of-*/{_DONE}")):
        number, of = done.parent.name.split("-of-")
        places.append(Workplace(out, Part(int(number), int(of))))
    return places


class Workplace:
    """The work folder of one part of a dataset, inside the output folder.

    Attributes:
        out: the output folder.
        folder: where this part keeps what it needs until it is done.
    """

    def __init__(self, out: Path, part: Part) -> None:
        self.out = out
        self.part = part
        # Absolute, because workers need not run in this folder.
        self.folder = (out / _WORK / str(part)).absolute()

    @classmethod
    def claim(cls, out: Path, known: Mapping[str, Any], part: Part = ALL_SHARDS) -> Self:
        """Make the work folder of a request, or find the one that an interrupted run left.

        Args:
            out: the output folder; made if need be.
            known: the request, as far as it is known before the data have been read.
            part: which part of the dataset this process makes.
        Raises:
            ShardError: when it belongs to another request, or `out` holds foreign files.
        """
        request = out / _WORK / _REQUEST
        if request.exists():
            differences = explain_differences(json.loads(request.read_text()), known)
            if differences:
                raise ShardError(
                    f"{out} holds another, unfinished dataset: {differences}; choose another --out or remove the folder"
                )
        elif out.is_file():
            raise ShardError(f"{out} is a file; choose another --out")
        elif out.exists() and any(path.name != _WORK for path in out.iterdir()):
            raise ShardError(f"{out} is not empty and holds no dataset; choose another --out")
        place = cls(out, part)
        try:
            place.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ShardError(f"{out}: cannot be written: {error.strerror}; choose another --out") from error
        remove_leftovers(place.folder)
        if part.is_whole:
            # Other parts may be writing there at this moment.
            remove_leftovers(out)
        place.note_request(known)
        return place

    def note_request(self, known: Mapping[str, Any]) -> None:
        """Say whose the unfinished dataset is: the request, without the hash of its data."""
        write_atomic(self.out / _WORK / _REQUEST, json.dumps(known, indent=2) + "\n")

    @property
    def lock_path(self) -> Path:
        """The lock of whoever makes this part."""
        return self.out / _WORK / f"{self.part}.lock"

    def shard_path(self, index: int) -> Path:
        """Where a shard of the dataset belongs."""
        return self.out / f"shard-{index:05d}.parquet"

    def keep(self, record: ShardRecord, dataset: str) -> None:
        """Note that a shard has been written.

        Args:
            record: the shard's.
            dataset: fingerprint of the dataset that it belongs to.
        """
        content = {"dataset": dataset, "record": record.as_json()}
        write_atomic(self._record_path(record.index), json.dumps(content))

    def find(self, index: int, dataset: str) -> ShardRecord | None:
        """The record of a shard that was written before for the same dataset, and is still there."""
        path = self._record_path(index)
        if not path.exists():
            return None
        content = json.loads(path.read_text())
        record = ShardRecord.from_json(content["record"])
        shard = self.shard_path(index)
        is_there = shard.exists() and shard.stat().st_size == record.entry.size_bytes
        return record if is_there and content["dataset"] == dataset else None

    def finish(
        self, request: Mapping[str, Any], records: Sequence[ShardRecord], created: Mapping[str, Any]
    ) -> None:
        """Note that all shards of this part are there."""
        content = {
            "request": request,
            "created": created,
            "records": [record.as_json() for record in records],
        }
        write_atomic(self.folder / _DONE, json.dumps(content))

    def finished(self) -> tuple[dict[str, Any], list[ShardRecord], dict[str, Any]] | None:
        """What `finish` noted: request, records, and how they came about; None before."""
        path = self.folder / _DONE
        if not path.exists():
            return None
        content = json.loads(path.read_text())
        records = [ShardRecord.from_json(record) for record in content["records"]]
        return content["request"], records, content["created"]

    def abandon(self) -> None:
        """Remove this part's folder after a run that could not begin, and what else would be left empty."""
        if any(self.out.glob("shard-*.parquet")) or any(self.folder.glob("done-*.json")):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        work = self.out / _WORK
        if not any(path.is_dir() for path in work.iterdir()):
            shutil.rmtree(work, ignore_errors=True)
        if not any(self.out.iterdir()):
            self.out.rmdir()

    def release(self) -> None:
        """Remove the work folder of a finished dataset, of all its parts."""
        shutil.rmtree(self.out / _WORK, ignore_errors=True)

    def _record_path(self, index: int) -> Path:
        return self.folder / f"done-{index:05d}.json"


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
    Workplace(out, ALL_SHARDS).release()
    report(f"{out} holds this dataset already; nothing to do")
    return True


def _remove_if_empty(*folders: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def is_whole(out: Path) -> bool:
    """Whether a finished dataset has all its files, each of the right size. Contents are not compared.

    Raises:
        ShardError: for a folder without a manifest, or a damaged one.
    """
    manifest = read_manifest(out)
    return all(is_sound(out, entry, content=False) for entry in (*manifest.shards, *manifest.files))


def reopen_damaged(out: Path, known: Mapping[str, Any], report: Report) -> bool:
    """Make an unfinished dataset of a finished one with missing or truncated files; leave a whole one alone.

    Killed anywhere in between, it is done again by the next call.

    Args:
        out: the dataset's folder.
        known: its request, without the hash of its data.
        report: takes lines for the user.
    Returns:
        Whether there is something to make again now.
    Raises:
        ShardError: for a damaged manifest, or a folder that cannot be written.
    """
    if is_whole(out):
        return False
    manifest = read_manifest(out)
    place = Workplace(out, ALL_SHARDS)
    place.folder.mkdir(parents=True, exist_ok=True)
    place.note_request(known)
    # What a shard's responses were lost to is known of all shards together only; then all are put together anew.
    has_lost = any(entry.file == FAILED_NAME for entry in manifest.files)
    sound = 0
    for index, entry in enumerate(manifest.shards):
        if is_sound(out, entry, content=True):
            sound += 1
            if not has_lost:
                place.keep(ShardRecord(index, entry), manifest.fingerprint)
        else:
            (out / entry.file).unlink(missing_ok=True)
    report(
        f"{out}: {sound} of {len(manifest.shards)} shards are sound; making again what is missing or damaged"
    )
    (out / MANIFEST_NAME).unlink()
    return True
