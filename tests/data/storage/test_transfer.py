import dataclasses
import json
import logging
import os
import pickle
import shutil
import threading
import time
import uuid

import fsspec
import pytest

from data.checks.verify import verify_dataset
from data.errors import ConfigurationError, ShardError
from data.locks import hold_lock
from data.signals.card import write_card
from data.signals.manifest import describe_files, read_manifest, write_manifest
from data.signals.shuffle import shuffled_pairs
from data.storage.remote import Remote
from data.storage.store import list_datasets
from data.storage.transfer import RemoteSignalDataset, open_signals, pull_dataset, push_dataset

pytestmark = pytest.mark.slow


@pytest.fixture(params=["file", "memory", "s3"])
def address(request, tmp_path):
    """An empty place of each kind."""
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('s3_bucket')}/signals"


@pytest.fixture
def dataset(tmp_path, monkeypatch, make_dataset):
    """A complete dataset with tokenizer and card, and an empty store."""
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "home"))
    folder = tmp_path / "signals"
    make_dataset(folder)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text('{"model": {}}')
    manifest = dataclasses.replace(read_manifest(folder), files=describe_files(folder, "tokenizer"))
    write_manifest(folder, manifest)
    write_card(folder, manifest)
    return folder


def _contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def _files_at(address):
    files, root = fsspec.core.url_to_fs(address)
    files.invalidate_cache()
    return {name.rsplit("/", 1)[1] for name in files.find(root)}


def test_what_is_pushed_and_pulled_is_the_same_to_the_byte(tmp_path, dataset, address):
    push_dataset(dataset, address)
    pull_dataset(address, tmp_path / "copy")
    assert _contents(tmp_path / "copy") == _contents(dataset)
    assert verify_dataset(tmp_path / "copy") == []
    assert "manifest.json.incoming" not in _files_at(address)


def test_an_interrupted_push_has_no_manifest_and_continues(tmp_path, dataset, address, monkeypatch):
    class Interrupted(Exception):
        pass

    copy_from = Remote.copy_from

    def interrupt(remote, folder, names):
        for number, name in enumerate(copy_from(remote, folder, names), start=1):
            if number == 2:
                raise Interrupted
            yield name

    monkeypatch.setattr(Remote, "copy_from", interrupt)
    with pytest.raises(Interrupted):
        push_dataset(dataset, address)
    monkeypatch.setattr(Remote, "copy_from", copy_from)
    assert "manifest.json" not in _files_at(address)
    with pytest.raises(ShardError, match="not there; is the address right"):
        pull_dataset(address, tmp_path / "copy")
    assert push_dataset(dataset, address).copied == ("shard-00001.parquet", "shard-00002.parquet")
    pull_dataset(address, tmp_path / "copy")
    assert _contents(tmp_path / "copy") == _contents(dataset)


def test_pushing_again_copies_nothing_but_what_is_missing(tmp_path, dataset, address):
    push_dataset(dataset, address)
    assert push_dataset(dataset, address).copied == ()
    files, root = fsspec.core.url_to_fs(address)
    files.rm(f"{root}/shard-00001.parquet")
    assert push_dataset(dataset, address).copied == ("shard-00001.parquet",)
    pull_dataset(address, tmp_path / "copy")
    assert _contents(tmp_path / "copy") == _contents(dataset)
    assert "manifest.json.incoming" not in _files_at(address)


def test_what_another_push_left_behind_is_not_trusted(tmp_path, dataset, address):
    """Files of the right size without this dataset's marker are copied again."""
    files, root = fsspec.core.url_to_fs(address)
    files.makedirs(root, exist_ok=True)
    size = (dataset / "shard-00000.parquet").stat().st_size
    files.pipe_file(f"{root}/shard-00000.parquet", b"x" * size)
    push_dataset(dataset, address)
    pull_dataset(address, tmp_path / "copy")
    assert _contents(tmp_path / "copy") == _contents(dataset)


def test_a_pull_keeps_intact_files_and_replaces_the_others(tmp_path, dataset, address):
    push_dataset(dataset, address)
    copy = tmp_path / "copy"
    pull_dataset(address, copy)
    shard = copy / "shard-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[99] ^= 1
    shard.write_bytes(content)
    (copy / "shard-00002.parquet").unlink()
    (copy / "manifest.json").unlink()
    assert pull_dataset(address, copy).copied == ("shard-00001.parquet", "shard-00002.parquet")
    assert _contents(copy) == _contents(dataset)


def test_a_pull_waits_for_one_under_way_and_removes_what_killed_ones_left(tmp_path, dataset, caplog):
    caplog.set_level(logging.INFO)
    copy = tmp_path / "copy"
    held = threading.Event()

    def other_pull():
        with hold_lock(copy / ".pull.lock"):
            held.set()
            while not caplog.messages:
                time.sleep(0.01)

    other = threading.Thread(target=other_pull)
    other.start()
    held.wait()
    (copy / "tokenizer").mkdir()
    for name in (".shard-00001.parquet.12-ab.partial", "tokenizer/.tokenizer.json.12-ab.partial"):
        (copy / name).write_bytes(b"half")
    pull_dataset(f"file://{dataset}", copy)
    other.join()
    assert caplog.messages[0] == f"{copy}: another process is pulling into it; waiting for it"
    assert _contents(copy) == _contents(dataset)


def test_a_source_damaged_on_the_way_is_refused(tmp_path, dataset, address):
    push_dataset(dataset, address)
    files, root = fsspec.core.url_to_fs(address)
    content = bytearray((dataset / "shard-00001.parquet").read_bytes())
    content[50] ^= 8
    files.pipe_file(f"{root}/shard-00001.parquet", bytes(content))
    with pytest.raises(ShardError, match=r"shard-00001\.parquet: SHA-256 .* of what arrived"):
        pull_dataset(address, tmp_path / "copy")
    assert set(_contents(tmp_path / "copy")) == {"tokenizer/tokenizer.json", "shard-00000.parquet"}


def test_another_dataset_is_never_overwritten(tmp_path, dataset, address, make_dataset):
    push_dataset(dataset, address)
    other = tmp_path / "other"
    make_dataset(other, request={"teacher": {"source": "other"}})
    with pytest.raises(ShardError, match="belongs to another dataset"):
        push_dataset(other, address)
    with pytest.raises(ShardError, match="belongs to another dataset"):
        pull_dataset(address, other)


def test_what_the_same_request_has_made_to_other_bytes_is_never_mixed(
    tmp_path, dataset, address, make_dataset
):
    """Another machine's numbers: shard for shard they would replace what others are reading."""
    push_dataset(dataset, address)
    other = tmp_path / "other"
    make_dataset(other, seed=1)
    assert read_manifest(other).fingerprint == read_manifest(dataset).fingerprint
    before = _contents(other)
    with pytest.raises(
        ShardError, match=r"other bytes there \(shard-00000\.parquet differs\); choose another"
    ):
        push_dataset(other, address)
    with pytest.raises(
        ShardError, match=r"other bytes there \(shard-00000\.parquet differs\); choose another"
    ):
        pull_dataset(address, other)
    assert _contents(other) == before
    pull_dataset(address, tmp_path / "copy")
    assert _contents(tmp_path / "copy") == _contents(dataset)


def test_the_same_files_with_another_provenance_replace_the_manifest_alone(tmp_path, dataset, address):
    push_dataset(dataset, address)
    write_manifest(dataset, dataclasses.replace(read_manifest(dataset), created={"by": "adpa 9"}))
    assert push_dataset(dataset, address).copied == ()
    pull_dataset(address, tmp_path / "copy")
    assert _contents(tmp_path / "copy") == _contents(dataset)


def test_a_dataset_that_is_replaced_at_its_address_while_it_is_read_is_never_mixed(
    tmp_path, dataset, address, make_dataset, assert_same_rows
):
    push_dataset(dataset, address)
    remote = open_signals(address)
    remote.pair(0)
    other = tmp_path / "other"
    make_dataset(other, request={"teacher": {"source": "other"}})
    files, root = fsspec.core.url_to_fs(address)
    files.rm(root, recursive=True)
    push_dataset(other, address)
    with pytest.raises(ShardError, match=r"of what arrived.*the dataset there may have been replaced"):
        remote.pair(14)
    again = open_signals(address)
    assert again.path != remote.path
    assert_same_rows(open_signals(other).pair(14), again.pair(14))


def test_a_copy_whose_tokenizer_was_pruned_meanwhile_is_completed_with_it(dataset, address):
    push_dataset(dataset, address)
    remote = open_signals(address)
    shutil.rmtree(remote.path)
    assert len(list(remote.iterate())) == 30
    (stored,) = list_datasets()
    assert verify_dataset(stored.path) == []


def test_a_damaged_dataset_is_not_pushed(dataset, address):
    os.truncate(dataset / "shard-00002.parquet", 10)
    with pytest.raises(ShardError, match=r"shard-00002\.parquet: 10 bytes"):
        push_dataset(dataset, address)


def test_reading_from_an_address_fetches_shards_as_they_are_needed(dataset, address, assert_same_rows):
    push_dataset(dataset, address)
    remote = open_signals(address)
    assert isinstance(remote, RemoteSignalDataset)
    assert (remote.num_pairs, remote.roles) == (15, ("chosen", "rejected"))
    assert (remote.tokenizer_folder / "tokenizer.json").exists()
    assert not list(remote.path.glob("*.parquet"))
    local = open_signals(dataset)
    assert_same_rows(local.pair(7), pickle.loads(pickle.dumps(remote)).pair(7))
    assert [path.name for path in remote.path.glob("*.parquet")] == ["shard-00001.parquet"]
    assert list_datasets() == []
    for pair in shuffled_pairs(remote.blocks, seed=0, epoch=0).tolist():
        assert_same_rows(local.pair(pair), remote.pair(pair))


def test_once_all_shards_are_here_the_address_is_not_needed_any_more(dataset, address, assert_same_rows):
    push_dataset(dataset, address)
    rows = list(open_signals(address).iterate())
    (stored,) = list_datasets()
    assert verify_dataset(stored.path) == []
    files, root = fsspec.core.url_to_fs(address)
    files.rm(f"{root}/shard-00000.parquet")
    again = open_signals(address)
    assert not isinstance(again, RemoteSignalDataset)
    assert_same_rows(rows, again.iterate())


def test_an_address_without_a_dataset_says_so(dataset, address):
    with pytest.raises(ShardError, match=r"manifest\.json: not there; is the address right\?"):
        open_signals(address)


def test_a_bucket_is_never_made(dataset, s3_bucket):
    with pytest.raises(ShardError, match=r"s3://mistyped-.*: not there; is the address right\?"):
        push_dataset(dataset, s3_bucket.replace("s3://", "s3://mistyped-"))


def test_a_service_that_cannot_be_reached_is_one_error(monkeypatch, s3_bucket):
    """Nothing listens on the discard port; botocore raises its own class of error for that."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(
        ShardError, match=r"^s3://bucket/x/manifest\.json: .*; fix this and rerun the command$"
    ):
        open_signals("s3://bucket/x")
    fsspec.filesystem("s3").clear_instance_cache()


def test_an_address_of_an_unknown_kind_is_refused():
    with pytest.raises(ConfigurationError, match="nowhere://x: cannot be reached"):
        open_signals("nowhere://x")


def test_rollouts_at_an_address_are_not_taken_for_signals(tmp_path, make_rollouts):
    make_rollouts(tmp_path / "rollouts")
    with pytest.raises(ShardError, match="a dataset of rollouts; expected one of signals"):
        open_signals(f"file://{tmp_path}/rollouts")


def test_a_newer_format_at_an_address_is_refused(tmp_path, dataset):
    shutil.copytree(dataset, tmp_path / "newer")
    content = json.loads((dataset / "manifest.json").read_text()) | {"format_version": 3}
    (tmp_path / "newer" / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ShardError, match="format version 3, this program reads 1 and 2"):
        open_signals(f"file://{tmp_path}/newer")
