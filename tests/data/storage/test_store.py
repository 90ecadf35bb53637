import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data.errors import ShardError
from data.signals.dataset import SignalDataset
from data.signals.fingerprint import fingerprint
from data.signals.manifest import read_manifest
from data.storage.pruning import prune_store, prune_unfinished
from data.storage.store import (
    find_dataset,
    list_datasets,
    list_unfinished,
    list_unreadable,
    local_folder,
    reserve_dataset,
    store_folder,
)

REPOSITORY = Path(__file__).parents[3]


def _request(name):
    return {"teacher": {"source": name}, "reference": None, "top_k": 4}


@pytest.fixture
def add(tmp_path, make_dataset):
    """Puts a dataset into the store, as a scorer does."""

    def add(name):
        request = _request(name)
        with reserve_dataset(fingerprint(request), root=tmp_path) as (folder, complete):
            assert not complete
            make_dataset(folder, num_shards=1, pairs_per_shard=2, request=request)
        return folder

    return add


def test_the_same_request_finds_the_same_dataset(tmp_path, add):
    folder = add("a")
    add("b")
    assert find_dataset(fingerprint(_request("a")), root=tmp_path) == folder
    assert find_dataset(fingerprint(_request("c")), root=tmp_path) is None
    with reserve_dataset(fingerprint(_request("a")), root=tmp_path) as (again, complete):
        assert (again, complete) == (folder, True)
    assert SignalDataset.open(folder).manifest.fingerprint == fingerprint(_request("a"))


def test_the_store_lies_in_adpa_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "home"))
    assert store_folder() == tmp_path / "home" / "signals"
    assert list_datasets() == []


def test_a_folder_with_another_fingerprint_of_the_same_name_is_not_taken(tmp_path, add):
    folder = add("a")
    wanted = folder.name + "0" * (64 - len(folder.name))
    assert find_dataset(wanted, root=tmp_path) is None


@pytest.mark.slow
def test_of_two_that_ask_at_once_one_scores_and_the_other_waits_and_reads(tmp_path, make_dataset):
    """Two real processes: locks are between processes."""
    script = """
import sys, time
from data.signals.manifest import Manifest, write_manifest
from data.signals.fingerprint import fingerprint
from data.storage.store import reserve_dataset
request = {"teacher": "slow"}
with reserve_dataset(fingerprint(request), root=sys.argv[1], waiting=lambda _: print("waiting", flush=True)) as (
    folder, complete,
):
    print("complete" if complete else "scoring", flush=True)
    if not complete:
        sys.stdin.readline()
        write_manifest(folder, Manifest(kind="signals", request=request, shards=()))
"""

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", script, tmp_path],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = start()
    assert first.stdout.readline() == "scoring\n"
    second = start()
    assert second.stdout.readline() == "waiting\n"
    first.communicate("go\n")
    output, _ = second.communicate()
    assert output == "complete\n"


def test_a_scorer_that_dies_gives_its_reservation_up(tmp_path):
    script = """
import os, sys, signal
from data.storage.store import reserve_dataset
with reserve_dataset("ab" * 32, root=sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=REPOSITORY, check=False)
    assert killed.returncode == -9
    with reserve_dataset("ab" * 32, root=tmp_path, waiting=lambda _: pytest.fail("must not wait")) as (
        _,
        complete,
    ):
        assert not complete


def test_waiting_ends_when_the_scorer_fails(tmp_path):
    """The one that waited gets the reservation, and scores."""
    events = []
    entered = threading.Event()

    def scorer():
        with reserve_dataset("cd" * 32, root=tmp_path):
            entered.set()
            while "waiting" not in events:
                time.sleep(0.01)

    thread = threading.Thread(target=scorer)
    thread.start()
    entered.wait()
    with reserve_dataset("cd" * 32, root=tmp_path, waiting=lambda _: events.append("waiting")) as (
        _,
        complete,
    ):
        assert not complete
    assert events == ["waiting"]
    thread.join()


def test_a_read_only_store_serves_what_it_has(tmp_path, add, monkeypatch):
    folder = add("a")

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    # Root may write anywhere, so permissions on the folder would prove nothing here.
    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert find_dataset(fingerprint(_request("a")), root=tmp_path) == folder
    with reserve_dataset(fingerprint(_request("a")), root=tmp_path) as (_, complete):
        assert complete
    with (
        pytest.raises(ShardError, match="the store cannot be written: Permission denied; set ADPA_HOME"),
        reserve_dataset(fingerprint(_request("b")), root=tmp_path),
    ):
        pass


def test_listing_leaves_out_what_is_unfinished_and_puts_the_last_used_first(tmp_path, add):
    old, new = add("old"), add("new")
    (tmp_path / "unfinished").mkdir()
    os.utime(new / "manifest.json", (2e9, 2e9))
    os.utime(old / "manifest.json", (1e9, 1e9))
    listed = list_datasets(tmp_path)
    assert [dataset.path for dataset in listed] == [new, old]
    assert (listed[0].models, listed[0].finished, listed[0].last_used) == ("new", 2e9, 2e9)
    shard = read_manifest(new).shards[0]
    assert listed[0].size_bytes == shard.size_bytes == (new / shard.file).stat().st_size


def test_a_dataset_is_found_by_the_beginning_of_its_name(tmp_path, add, monkeypatch):
    monkeypatch.setattr("data.storage.store.store_folder", lambda: tmp_path)
    folder = add("a")
    assert local_folder(folder.name) == local_folder(folder.name[:6]) == local_folder(folder) == folder
    for name in (folder.name[:5], folder.name[1:], "signals/pairs"):
        with pytest.raises(ShardError, match="no such dataset folder, nor the name of a dataset"):
            local_folder(name)
    os.rename(add("b"), tmp_path / f"{folder.name}-copy")
    with pytest.raises(ShardError, match=f"{folder.name}, {folder.name}-copy; give more of the name"):
        local_folder(folder.name[:8])


def test_two_copies_of_one_request_made_on_two_machines_never_share_a_folder(tmp_path, make_dataset):
    request = _request("a")
    for copy in ("11", "22"):
        with reserve_dataset(fingerprint(request), copy=copy, root=tmp_path) as (folder, complete):
            assert (folder.name, complete) == (f"{fingerprint(request)[:20]}-{copy}", False)
            (folder / "shard-00000.parquet").write_bytes(b"so far")
    # And the one that is made here has a third; what is complete serves all of them.
    with reserve_dataset(fingerprint(request), root=tmp_path) as (folder, complete):
        assert not complete
        assert os.listdir(folder) == []
        make_dataset(folder, num_shards=1, pairs_per_shard=2, request=request)
    with reserve_dataset(fingerprint(request), copy="22", root=tmp_path) as (again, complete):
        assert (again, complete) == (folder, True)


def test_a_reservation_that_came_to_nothing_leaves_nothing(tmp_path):
    with reserve_dataset("ef" * 32, root=tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_pruning_deletes_what_was_never_finished_and_is_old(tmp_path, add):
    whole = add("whole")
    names = ("old", "new")
    for name in names:
        (tmp_path / name / ".work").mkdir(parents=True)
        (tmp_path / name / ".work" / "request.json").write_text("{}")
    then = time.time() - 3 * 86_400
    for path in [whole / "manifest.json", *sorted((tmp_path / "old").rglob("*")), tmp_path / "old"]:
        os.utime(path, (then, then))
    assert prune_unfinished(root=tmp_path, unused_days=2, dry_run=True) == [tmp_path / "old"]
    assert (tmp_path / "old").exists()
    assert prune_unfinished(root=tmp_path, unused_days=2) == [tmp_path / "old"]
    assert sorted(os.listdir(tmp_path)) == sorted([whole.name, "new"])


def test_pruning_leaves_alone_what_a_process_is_making(tmp_path, make_dataset):
    """Unfinished and without a sign of life, or finished this moment: the lock says whose it is."""
    request = _request("a")
    then = time.time() - 3 * 86_400
    with reserve_dataset(fingerprint(request), root=tmp_path) as (folder, _):
        os.utime(folder, (then, then))
        for dry_run in (True, False):
            assert prune_unfinished(root=tmp_path, unused_days=2, dry_run=dry_run) == []
        make_dataset(folder, num_shards=1, pairs_per_shard=2, request=request)
        for dry_run in (True, False):
            assert prune_store(root=tmp_path, max_bytes=0, dry_run=dry_run) == []
        assert SignalDataset.open(folder, check_shards=True).num_pairs == 2
    assert [dataset.path for dataset in prune_store(root=tmp_path, max_bytes=0)] == [folder]
    assert os.listdir(tmp_path) == []


def test_two_that_prune_at_once_do_not_disturb_each_other(tmp_path, add, monkeypatch):
    """Between looking and deleting another process deletes the same, and what is looked at vanishes."""
    add("a")
    (tmp_path / "begun").mkdir()
    rename = Path.rename

    def already_gone(path, target):
        rename(path, target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", already_gone)
    prune_store(root=tmp_path, max_bytes=0)
    prune_unfinished(root=tmp_path, unused_days=0)
    assert os.listdir(tmp_path) == []


def test_what_may_not_be_deleted_is_one_error(tmp_path, add, monkeypatch):
    folder = add("a")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ShardError, match=f"{folder}: cannot be deleted: Permission denied"):
        prune_store(root=tmp_path, max_bytes=0)
    assert find_dataset(fingerprint(_request("a")), root=tmp_path) == folder


def test_a_dataset_of_the_store_that_cannot_be_read_is_listed_with_the_reason(tmp_path, add):
    folder = add("a")
    add("b")
    (folder / "manifest.json").write_text("{")
    assert len(list_datasets(tmp_path)) == 1
    assert list_unfinished(tmp_path) == []
    ((path, reason),) = list_unreadable(tmp_path)
    assert path == folder
    assert reason.startswith(f"{folder / 'manifest.json'}: not JSON")


def test_what_only_another_user_may_read_is_not_taken_for_absent(tmp_path, add, monkeypatch):
    folder = add("a")
    lstat = os.lstat

    def refuse(path, *arguments, **options):
        if "manifest" in str(path):
            raise PermissionError(13, "Permission denied")
        return lstat(path, *arguments, **options)

    def refuse_reading(_):
        raise PermissionError(13, "Permission denied")

    # Root may read anything, so permissions on the folder would prove nothing here.
    monkeypatch.setattr(os, "lstat", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse_reading)
    assert list_datasets(tmp_path) == list_unfinished(tmp_path) == []
    reason = f"{folder / 'manifest.json'}: cannot be read: Permission denied; fix this and rerun the command"
    assert list_unreadable(tmp_path) == [(folder, reason)]
    assert prune_unfinished(root=tmp_path, unused_days=0) == []


def test_a_dataset_that_pruning_was_killed_over_is_gone_and_deleted_by_the_next(tmp_path, add, monkeypatch):
    folder = add("a")
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    prune_store(root=tmp_path, max_bytes=0)
    assert find_dataset(fingerprint(_request("a")), root=tmp_path) is None
    assert list_datasets(tmp_path) == []
    (left,) = os.listdir(tmp_path)
    assert left.startswith(f".deleted-{folder.name}")
    monkeypatch.undo()
    prune_store(root=tmp_path, max_bytes=0)
    assert os.listdir(tmp_path) == []


def test_pruning_by_age_and_by_size(tmp_path, add):
    folders = [add(name) for name in "abc"]
    now = time.time()
    for days, folder in enumerate(folders):
        os.utime(folder / "manifest.json", (now - 86_400 * 10 * days, now - 86_400 * 10 * days))
    size = list_datasets(tmp_path)[0].size_bytes
    assert [d.path for d in prune_store(root=tmp_path, unused_days=15, dry_run=True)] == folders[2:]
    assert folders[2].exists()
    assert [d.path for d in prune_store(root=tmp_path, unused_days=15)] == folders[2:]
    assert [d.path for d in prune_store(root=tmp_path, max_bytes=size + 10)] == folders[1:2]
    assert [d.path for d in list_datasets(tmp_path)] == folders[:1]
    assert prune_store(root=tmp_path) == []


def test_a_store_of_rollouts_and_signals_is_listed_together(tmp_path, add, make_rollouts):
    add("a")
    make_rollouts(tmp_path / "rollouts")
    assert {dataset.manifest.kind for dataset in list_datasets(tmp_path)} == {"signals", "rollouts"}
