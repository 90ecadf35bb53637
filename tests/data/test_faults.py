"""A dataset writer killed, or refused by the disk, at each of its file operations; two writers at once."""

import dataclasses
import errno
import os
import threading

import pytest

from data import files
from data.checks.verify import verify_dataset
from data.errors import ShardError
from data.signals.dataset import SignalDataset
from data.signals.manifest import Manifest, write_manifest
from data.signals.shards import read_signal_shard, write_signal_shard


class Killed(BaseException):
    """The process is gone: nothing catches this, and no operation works after it."""


class FaultyDisk:
    """Replaces the system calls of `data.files`: the first `fail_at` operations succeed, the next one fails."""

    def __init__(self, fail_at, fault):
        self.fail_at, self.fault = fail_at, fault
        self.operations = []
        self.dead = False

    def step(self, name, *, refusable=True):
        if self.dead:
            raise Killed
        if self.fault == "full" and not refusable:
            return
        self.operations.append(name)
        if len(self.operations) - 1 == self.fail_at:
            if self.fault == "kill":
                self.dead = True
                raise Killed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open(self, path, mode):
        self.step("open")
        return FaultyFile(self, open(path, mode))

    def install(self, monkeypatch):
        """Replace what `data.files` calls, with the same signatures."""

        def wrap(name, *, refusable=True):
            def call(*arguments):
                self.step(name, refusable=refusable)
                return getattr(os, name)(*arguments)

            return call

        shim = type("os", (), {name: staticmethod(getattr(os, name)) for name in ("getpid", "close")})
        for name in ("fsync", "replace", "open"):
            setattr(shim, name, staticmethod(wrap(name)))
        # A full disk still deletes files.
        shim.unlink = staticmethod(wrap("unlink", refusable=False))
        shim.O_RDONLY, shim.PathLike = os.O_RDONLY, os.PathLike
        monkeypatch.setattr(files, "os", shim)
        monkeypatch.setattr(files, "open", self.open, raising=False)


class FaultyFile:
    def __init__(self, disk, file):
        self.disk, self.file = disk, file

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, content):
        self.disk.step("write")
        return self.file.write(content)

    def flush(self):
        self.disk.step("flush")
        self.file.flush()

    def fileno(self):
        return self.file.fileno()


@pytest.fixture
def write_dataset(make_rows):
    """Writes a dataset of two shards as stage one does: leftovers removed, shards, manifest last."""
    rows = [make_rows(3), make_rows(3, first=3)]
    manifest = Manifest(kind="signals", request={"a": 1}, shards=())

    def write(folder):
        folder.mkdir(exist_ok=True)
        files.remove_leftovers(folder)
        shards = [
            write_signal_shard(folder / f"shard-0000{i}.parquet", part, fingerprint=manifest.fingerprint)
            for i, part in enumerate(rows)
        ]
        write_manifest(folder, dataclasses.replace(manifest, shards=tuple(shards)))

    return write


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _count_operations(write_dataset, folder, fault):
    with pytest.MonkeyPatch.context() as patch:
        disk = FaultyDisk(-1, fault)
        disk.install(patch)
        write_dataset(folder)
    return disk.operations


@pytest.mark.slow
def test_a_writer_killed_at_any_file_operation_leaves_nothing_that_looks_whole(tmp_path, write_dataset):
    whole = tmp_path / "whole"
    operations = _count_operations(write_dataset, whole, "kill")
    expected = _contents(whole)
    # Per file: open, writes, flush, two fsyncs, rename, opening the folder, removing the temporary name.
    assert {"open", "write", "flush", "fsync", "replace", "unlink"} == set(operations)
    assert len(operations) > 40
    for fail_at in range(len(operations)):
        folder = tmp_path / f"killed-{fail_at}"
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(fail_at, "kill").install(patch)
            with pytest.raises(Killed):
                write_dataset(folder)
        for name, content in _contents(folder).items():
            assert name.endswith(".partial") or content == expected[name], operations[fail_at]
        if (folder / "manifest.json").exists():
            assert [finding for finding in verify_dataset(folder) if not finding.extra] == []
        else:
            with pytest.raises(ShardError, match="incomplete"):
                SignalDataset.open(folder)
        write_dataset(folder)
        assert _contents(folder) == expected


@pytest.mark.slow
def test_a_full_disk_at_any_write_is_one_clear_error_and_leaves_no_trace(tmp_path, write_dataset):
    whole = tmp_path / "whole"
    operations = _count_operations(write_dataset, whole, "full")
    expected = _contents(whole)
    for fail_at in range(len(operations)):
        folder = tmp_path / f"full-{fail_at}"
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(fail_at, "full").install(patch)
            with pytest.raises(ShardError, match="cannot be written: No space left on device"):
                write_dataset(folder)
        for name, content in _contents(folder).items():
            assert content == expected[name], operations[fail_at]
        write_dataset(folder)
        assert _contents(folder) == expected


def test_two_writers_of_one_shard_never_mix(tmp_path, make_rows, assert_same_rows):
    """Readers see one whole file or the other at any time."""
    variants = [make_rows(4, seed=1), make_rows(4, seed=2)]
    path = tmp_path / "shard-00000.parquet"
    write_signal_shard(path, variants[0], fingerprint="", precision="exact")

    def write(rows):
        for _ in range(15):
            write_signal_shard(path, rows, fingerprint="", precision="exact")

    writers = [threading.Thread(target=write, args=(rows,)) for rows in variants]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or reads < 5:
        rows = list(read_signal_shard(path))
        first = rows[0].teacher_logprobs[0] == variants[0][0].teacher_logprobs[0]
        assert_same_rows(variants[0] if first else variants[1], rows)
        reads += 1
    for writer in writers:
        writer.join()
    assert os.listdir(tmp_path) == ["shard-00000.parquet"]
