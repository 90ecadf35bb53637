"""Caches are pruned by age and size, and never under a command that runs."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import ConfigurationError, ShardError
from data.storage.caches import list_caches, prune_cache, read_cache
from data.storage.pruning import prune_store, prune_unfinished
from data.storage.usage import note_use, used_since

REPOSITORY = Path(__file__).parents[3]
_DAY = 86_400


def _pass(folder, number, *, days=0.0, size=10, name="{:064x}.parquet"):
    folder.mkdir(exist_ok=True)
    path = folder / name.format(number)
    path.write_bytes(b"x" * size)
    used = time.time() - days * _DAY
    os.utime(path, (used, used))
    return path


@contextlib.contextmanager
def _running(program, *arguments):
    """A process that says when it is ready, and runs until the context ends."""
    command = [sys.executable, "-c", f"{program}\nprint('ready', flush=True)\ninput()", *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        if process.poll() is None:
            process.communicate("\n")


_USER = """
import sys
from pathlib import Path
from data.storage.usage import note_use
for file in sys.argv[1:]:
    note_use(Path(file), Path(file).parent)
"""


def test_a_cache_is_pruned_by_age_and_then_by_size(tmp_path):
    files = [_pass(tmp_path, days, days=days) for days in range(4)]
    deleted, kept = prune_cache(tmp_path, "passes", unused_days=2.5, max_bytes=20, dry_run=True)
    assert ([file.path for file in deleted], kept) == ([files[2], files[3]], [])
    assert len(read_cache(tmp_path, "passes")) == 4
    assert prune_cache(tmp_path, "passes", unused_days=2.5, max_bytes=20)[0] == deleted
    assert [file.path for file in read_cache(tmp_path, "passes")] == files[:2]


def test_pruning_deletes_nothing_that_is_not_named_like_a_file_of_the_cache(tmp_path):
    names = ("manifest.json", "notes.parquet", f"{'a' * 64}.parquet.bak", f".{'a' * 63}.parquet.1-ff.partial")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / f"{'b' * 64}.parquet").mkdir()
    (tmp_path / f"{'c' * 64}.parquet").symlink_to(tmp_path / "manifest.json")
    before = sorted(os.listdir(tmp_path))
    assert prune_cache(tmp_path, "passes", max_bytes=0) == ([], [])
    assert sorted(os.listdir(tmp_path)) == before


def test_pruning_deletes_incomplete_passes_and_what_killed_writers_left(tmp_path):
    paths = [
        _pass(tmp_path, 1, name="{:064x}.incomplete.parquet"),
        _pass(tmp_path, 2, name=".{:064x}.parquet.123-abcdef01.partial"),
        _pass(tmp_path, 3, name=".{:064x}.incomplete.parquet.123-abcdef01.partial"),
    ]
    deleted, _ = prune_cache(tmp_path, "passes", max_bytes=0)
    assert sorted(file.path for file in deleted) == sorted(paths)
    assert os.listdir(tmp_path) == []


def test_pruning_keeps_what_a_running_command_has_used_however_long_ago_that_is(tmp_path):
    old, used = _pass(tmp_path, 1, days=9), _pass(tmp_path, 2, days=9)
    with _running(_USER, used):
        deleted, kept = prune_cache(tmp_path, "passes", max_bytes=0, dry_run=True)
        assert ([file.path for file in deleted], [file.path for file in kept]) == ([old], [used])
        # Used since the command began, if by another one: it may still be told to use it.
        later = _pass(tmp_path, 3)
        deleted, kept = prune_cache(tmp_path, "passes", max_bytes=0)
        assert ([file.path for file in deleted], {file.path for file in kept}) == ([old], {used, later})
    deleted, kept = prune_cache(tmp_path, "passes", max_bytes=0)
    assert ({file.path for file in deleted}, kept) == ({used, later}, [])


def test_a_command_that_was_killed_uses_nothing_any_more(tmp_path):
    used = _pass(tmp_path, 1, days=9)
    with _running(_USER, used) as process:
        process.kill()
        process.wait()
        assert len(os.listdir(tmp_path / ".users")) == 1
        assert used_since(tmp_path) == float("inf")
        assert os.listdir(tmp_path / ".users") == []
        assert [file.path for file in prune_cache(tmp_path, "passes", max_bytes=0)[0]] == [used]


def test_a_command_that_ends_leaves_nothing_behind(tmp_path):
    with _running(_USER, _pass(tmp_path, 1)):
        assert len(os.listdir(tmp_path / ".users")) == 1
    assert os.listdir(tmp_path / ".users") == []


def test_a_child_that_ends_does_not_end_its_parents_use(tmp_path):
    fork = "\nimport os\nif os.fork() == 0: sys.exit()\nos.wait()"
    with _running(_USER + fork, _pass(tmp_path, 1)):
        assert used_since(tmp_path) < float("inf")


def test_a_process_may_prune_what_it_has_used_itself(tmp_path):
    used = _pass(tmp_path, 1)
    note_use(used, tmp_path)
    assert used_since(tmp_path) == float("inf")
    assert [file.path for file in prune_cache(tmp_path, "passes", max_bytes=0)[0]] == [used]


def test_pruning_leaves_alone_a_file_that_is_used_between_looking_and_deleting(tmp_path, monkeypatch):
    path = _pass(tmp_path, 1, days=9)
    files = read_cache(tmp_path, "passes")
    monkeypatch.setattr("data.storage.caches.read_cache", lambda *_: files)
    path.touch()
    assert prune_cache(tmp_path, "passes", max_bytes=0) == ([], [])
    assert path.exists()


def test_using_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    note_use(tmp_path / "file" / "x", tmp_path / "file")


def test_what_may_not_be_deleted_from_a_cache_is_one_error(tmp_path, monkeypatch):
    path = _pass(tmp_path, 1)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ShardError, match=f"{path}: cannot be deleted: Permission denied"):
        prune_cache(tmp_path, "passes", max_bytes=0)


def test_a_file_in_place_of_a_cache_is_refused_and_a_missing_one_is_empty(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="give the folder of a cache of passes"):
        prune_cache(tmp_path / "file", "passes", max_bytes=0)
    assert prune_cache(tmp_path / "nowhere", "passes", max_bytes=0) == ([], [])


def test_caches_are_listed_with_their_sizes(tmp_path, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path))
    assert list_caches() == []
    _pass(tmp_path / "passes", 1, size=100)
    _pass(tmp_path / "passes", 2, size=50, days=1)
    (tmp_path / "answers").mkdir()
    passes, answers = list_caches()
    assert (passes.path, passes.files, passes.size_bytes) == (tmp_path / "passes", 2, 150)
    assert time.time() - passes.last_used < 60
    assert (answers.files, answers.last_used) == (0, None)


_READER = """
import sys
from data.storage.transfer import open_signals
dataset = open_signals(sys.argv[1])
"""


def test_a_dataset_that_a_command_reads_is_not_pruned(tmp_path, make_dataset, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path))
    folder = tmp_path / "signals" / "0123456789"
    make_dataset(folder)
    with _running(_READER, "012345"):
        long_ago = time.time() - 9 * _DAY
        os.utime(folder / "manifest.json", (long_ago, long_ago))
        assert prune_store(max_bytes=0, unused_days=0) == []
    assert [dataset.path for dataset in prune_store(max_bytes=0)] == [folder]


def test_a_dataset_that_is_read_from_an_address_is_not_pruned(tmp_path, make_dataset, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "home"))
    make_dataset(tmp_path / "made")
    with _running(_READER, f"file://{tmp_path}/made"):
        time.sleep(0.05)
        assert prune_unfinished(unused_days=0) == []
    assert len(prune_unfinished(unused_days=0)) == 1
