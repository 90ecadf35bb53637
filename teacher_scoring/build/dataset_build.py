"""A dataset while it is built: its folder and lock, its finished shards, continuing an interrupted run.

A dataset grows inside its own output folder. Files get their names only when they are whole, and the manifest comes
last, so that its presence means complete. What must survive a kill beside the shards is in a hidden folder, which is
deleted when the dataset is complete:

    <out>/.work/request.json            the request without the hash of its data: whose folder this is
    <out>/.work/I-of-N.lock             held by the process that makes this part
    <out>/.work/I-of-N/ids-*.parquet    token ids of the part's shards
    <out>/.work/I-of-N/done-*.json      what the manifest will say of a shard that is written
    <out>/.work/I-of-N/done.json        all of that, for a part whose shards are all written

A run that is interrupted encodes its rows again, because only then the hash of the data is known, and takes over every
shard whose record carries the same fingerprint. Nothing is deleted before it is certain that it will be made again.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from data.errors import ShardError
from data.files import remove_leftovers, write_atomic
from data.locks import hold_lock
from data.preferences.reader import PreferenceReader
from data.signals.dataset import SignalDataset, is_intact
from data.signals.fingerprint import explain_differences, fingerprint
from data.signals.manifest import MANIFEST_NAME, read_manifest
from data.storage.store import reserve_dataset
from teacher_scoring.build.merge import FAILED_NAME, WORK_NAME, complete_dataset, finish_part
from teacher_scoring.build.records import LostResponse, ShardRecord
from teacher_scoring.options import ALL_SHARDS, Part
from teacher_scoring.passes.tasks import EncodedShard, Task, write_encoded_shards

_REQUEST_NAME = "request.json"

logger = logging.getLogger(__name__)


class DatasetBuild:
    """A dataset, or one part of its shards, while this process makes it.

    `open`, and nothing more where `is_complete`; else `begin`, `encode`, `reuse` or `keep` for each shard, `complete`.
    After an error before anything was scored, `abandon`.

    Attributes:
        out: the dataset's folder.
        part: which of its shards are made here.
        folder: where this part keeps what it needs until it is done; absolute, because workers may run elsewhere.
        is_complete: whether the folder holds the dataset that is asked for, with all its files.
        request: what determines the dataset; with the hash of its data only after `encode`.
        fingerprint: of the request; empty before `encode`.
    """

    def __init__(self, out: Path, known: Mapping[str, Any], part: Part, *, kind: str) -> None:
        self.out = out
        self.part = part
        self.folder = (out / WORK_NAME / str(part)).absolute()
        self.is_complete = False
        self.request: dict[str, Any] = dict(known)
        self.fingerprint = ""
        self._known = dict(known)
        self._kind = kind
        self._records: dict[int, ShardRecord] = {}

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        out: str | None,
        known: Mapping[str, Any],
        reader: PreferenceReader,
        *,
        part: Part = ALL_SHARDS,
        kind: str = SignalDataset.kind,
    ) -> Iterator[Self]:
        """Find the folder and what it holds; a process that makes the same part of it is waited for.

        Args:
            out: the folder; None takes the one in the store that belongs to the request.
            known: the request, but for the hash of its data.
            reader: the data. They are read now where the folder holds a dataset or is one of the store: their hash
                tells which one.
            part: which part of the dataset is going to be made.
            kind: `signals` or `rollouts`.
        Raises:
            ShardError: a folder or a store that cannot be written, or that holds another dataset.
            DataError: data that cannot be read.
        """
        with _destination(out, known, reader, part) as folder:
            build = cls(folder, known, part, kind=kind)
            if (folder / MANIFEST_NAME).exists():
                _refuse_other_dataset(folder, known)
                _refuse_other_dataset(folder, {**known, "data": reader.read_data_hash()})
                build.is_complete = _has_all_files(folder)
            if build.is_complete:
                # Left there by a run that was killed between its last two steps.
                build._remove_work()
                logger.info("%s holds this dataset already; nothing to do", folder)
            yield build

    @property
    def lost(self) -> tuple[LostResponse, ...]:
        """Responses without scores in the shards so far."""
        return tuple(response for index in sorted(self._records) for response in self._records[index].lost)

    @property
    def num_rows(self) -> int:
        """Responses in the shards so far."""
        return sum(record.entry.rows for record in self._records.values())

    @property
    def num_pairs(self) -> int:
        """Pairs in the shards so far."""
        return sum(record.entry.pairs for record in self._records.values())

    @property
    def num_positions(self) -> int:
        """Response positions with signals (of rollouts: tokens) in the shards so far."""
        return sum(record.entry.positions for record in self._records.values())

    def begin(self) -> None:
        """Take the folder for this request, or take up what an interrupted run of the same request left.

        A finished dataset that has lost files becomes an unfinished one, whose intact shards are kept.

        Raises:
            ShardError: a folder that belongs to another request, holds foreign files or cannot be written.
        """
        if (self.out / MANIFEST_NAME).exists():
            self._reopen()
        self._claim()

    def encode(
        self,
        rows_of_pairs: Iterable[Sequence[Any]],
        reader: PreferenceReader,
        *,
        write: Callable[[Path, list[Any]], tuple[Task, ...]],
        shard_pairs: int,
    ) -> list[EncodedShard]:
        """Write the token ids of this part's shards; the dataset's name is known afterwards.

        Args:
            rows_of_pairs: the rows of each pair. All parts go through all rows, because only then it is
                certain which of them are in which shard.
            reader: where they come from.
            write: writes the rows of one shard, see `write_encoded_shards`.
            shard_pairs: pairs per shard.
        """
        shards = list(
            write_encoded_shards(
                rows_of_pairs, self.folder, write=write, shard_pairs=shard_pairs, wanted=self.part
            )
        )
        self.request = {**self._known, "data": reader.data_hash}
        self.fingerprint = fingerprint(self.request)
        return shards

    def shard_path(self, index: int) -> Path:
        """The file of a shard."""
        return self.out / f"shard-{index:05d}.parquet"

    def reuse(self, index: int) -> bool:
        """Take over a shard that was written before for the same dataset; False where there is none."""
        path = self._record_path(index)
        if not path.exists():
            return False
        content = json.loads(path.read_text())
        record = ShardRecord.from_json(content["record"])
        shard = self.shard_path(index)
        is_there = shard.exists() and shard.stat().st_size == record.entry.size_bytes
        if not is_there or content["dataset"] != self.fingerprint:
            return False
        self._records[index] = record
        return True

    def keep(self, record: ShardRecord) -> None:
        """Note that a shard has been written."""
        self._note(record, self.fingerprint)
        self._records[record.index] = record

    def complete(self, created: Mapping[str, Any]) -> None:
        """Complete the dataset: `failed.jsonl`, card, manifest. A part is noted as finished, for `merge_parts`.

        Args:
            created: what is worth knowing of how the dataset came about, but does not determine it.
        Raises:
            ScoringError: no pair is left.
        """
        records = [self._records[index] for index in sorted(self._records)]
        if not self.part.is_whole:
            finish_part(self.folder, self.request, records, created)
            return
        complete_dataset(self.out, self._kind, self.request, records, created)
        self._remove_work()

    def abandon(self) -> None:
        """Remove this part's folder after a run that could not begin, and what else would be left empty."""
        if any(self.out.glob("shard-*.parquet")) or any(self.folder.glob("done-*.json")):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        work = self.out / WORK_NAME
        if not any(path.is_dir() for path in work.iterdir()):
            shutil.rmtree(work, ignore_errors=True)
        if not any(self.out.iterdir()):
            self.out.rmdir()

    def _claim(self) -> None:
        request = self.out / WORK_NAME / _REQUEST_NAME
        if request.exists():
            differences = explain_differences(json.loads(request.read_text()), self._known)
            if differences:
                raise ShardError(
                    f"{self.out} holds another, unfinished dataset: {differences}; choose another --out or remove the "
                    "folder"
                )
        elif self.out.is_file():
            raise ShardError(f"{self.out} is a file; choose another --out")
        elif self.out.exists() and any(path.name != WORK_NAME for path in self.out.iterdir()):
            raise ShardError(f"{self.out} is not empty and holds no dataset; choose another --out")
        self._make_folder()
        remove_leftovers(self.folder)
        if self.part.is_whole:
            # Other parts may be writing there at this moment.
            remove_leftovers(self.out)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ShardError(
                f"{self.out}: cannot be written: {error.strerror}; choose another --out"
            ) from error
        write_atomic(self.out / WORK_NAME / _REQUEST_NAME, json.dumps(self._known, indent=2) + "\n")

    def _reopen(self) -> None:
        """Make an unfinished dataset of one that has lost files; the next run repeats it after a kill in between."""
        manifest = read_manifest(self.out)
        self._make_folder()
        # Which responses a shard lost is known of all shards together only; then all are put together anew.
        has_lost = any(entry.file == FAILED_NAME for entry in manifest.files)
        num_intact = 0
        for index, entry in enumerate(manifest.shards):
            if is_intact(self.out, entry, content=True):
                num_intact += 1
                if not has_lost:
                    self._note(ShardRecord(index, entry), manifest.fingerprint)
            else:
                (self.out / entry.file).unlink(missing_ok=True)
        logger.info(
            f"{self.out}: {num_intact} of {len(manifest.shards)} shards are intact; making again what is missing or "
            "damaged"
        )
        (self.out / MANIFEST_NAME).unlink()

    def _note(self, record: ShardRecord, dataset: str) -> None:
        content = {"dataset": dataset, "record": record.as_json()}
        write_atomic(self._record_path(record.index), json.dumps(content))

    def _record_path(self, index: int) -> Path:
        return self.folder / f"done-{index:05d}.json"

    def _remove_work(self) -> None:
        shutil.rmtree(self.out / WORK_NAME, ignore_errors=True)


def recorded_engine(out: str | None) -> dict[str, str] | None:
    """Name and version of the engine that a begun or finished dataset is made with; None where there is none.

    Args:
        out: the dataset's folder; None for one of the store, where another engine has another folder.
    """
    if out is None:
        return None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        if (manifest := Path(out) / MANIFEST_NAME).exists():
            return json.loads(manifest.read_text())["request"]["engine"]
        return json.loads((Path(out) / WORK_NAME / _REQUEST_NAME).read_text())["engine"]
    return None


@contextlib.contextmanager
def _destination(
    out: str | None, known: Mapping[str, Any], reader: PreferenceReader, part: Part
) -> Iterator[Path]:
    """The folder of a dataset, locked against other processes that make the same part of it."""

    def waiting(folder: Path) -> None:
        logger.info("%s: another process is making this dataset; waiting for it", folder)

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
    if folder.is_file() or ((folder / MANIFEST_NAME).exists() and _has_all_files(folder)):
        yield folder
        return
    lock = folder / WORK_NAME / f"{part}.lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(_remove_if_empty, lock.parent, folder)
            stack.enter_context(hold_lock(lock, waiting=lambda: waiting(folder)))
        except OSError as error:
            raise ShardError(f"{out}: cannot be written: {error.strerror}; choose another --out") from error
        yield folder


def _refuse_other_dataset(out: Path, known: Mapping[str, Any]) -> None:
    found = read_manifest(out).request
    differences = explain_differences({name: found.get(name) for name in known}, known)
    if differences:
        raise ShardError(
            f"{out} holds a different dataset: {differences}; choose another --out or remove the folder"
        )


def _has_all_files(out: Path) -> bool:
    """Whether a finished dataset has all its files, each of the right size. Contents are not compared."""
    manifest = read_manifest(out)
    return all(is_intact(out, entry, content=False) for entry in (*manifest.shards, *manifest.files))


def _remove_if_empty(*folders: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
