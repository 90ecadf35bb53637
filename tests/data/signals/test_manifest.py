import dataclasses
import json

import pytest

from data.errors import ShardError
from data.signals.manifest import (
    FileEntry,
    Manifest,
    RoleCount,
    RowGroup,
    ShardEntry,
    describe_files,
    read_manifest,
    render_manifest,
    write_manifest,
)


@pytest.fixture
def manifest():
    shard = ShardEntry(
        file="shard-00000.parquet",
        size_bytes=1234,
        sha256="ab" * 32,
        row_groups=(RowGroup(pairs=2, rows=4, positions=30), RowGroup(pairs=1, rows=2, positions=9)),
        roles={"rejected": RoleCount(3, 0, 0, 0), "chosen": RoleCount(3, 3, 3, 39)},
    )
    return Manifest(
        kind="signals",
        request={"teacher": {"source": "a/b", "revision": None}, "top_p": 1.0, "roles": ["chosen"]},
        shards=(shard, dataclasses.replace(shard, file="shard-00001.parquet")),
        files=(FileEntry("tokenizer/tokenizer.json", 7, "cd" * 32),),
        created={"at": "2026-11-23T12:00:00Z"},
    )


def test_a_manifest_survives_the_round_trip(tmp_path, manifest):
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_counts_add_up_over_shards(manifest):
    assert (manifest.pairs, manifest.rows, manifest.positions) == (6, 12, 78)
    assert manifest.roles == {"chosen": RoleCount(6, 6, 6, 78), "rejected": RoleCount(6, 0, 0, 0)}


def test_when_and_where_a_dataset_was_made_is_outside_the_fingerprint(manifest):
    assert dataclasses.replace(manifest, created={"at": "later"}).fingerprint == manifest.fingerprint
    assert (
        dataclasses.replace(manifest, request={**manifest.request, "top_p": 0.9}).fingerprint
        != manifest.fingerprint
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [('"rows": 6', '"rows": 7'), ("2026", "2027"), ('"size_bytes": 7', '"size_bytes": 8'), ("a/b", "a/c")],
)
def test_an_edited_manifest_is_refused(tmp_path, manifest, old, new):
    text = render_manifest(manifest)
    assert old in text
    (tmp_path / "manifest.json").write_text(text.replace(old, new))
    with pytest.raises(ShardError, match=r"manifest\.json: its checksum"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../payload", "tokenizer/../../payload", "/etc/payload", ""])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(tmp_path, manifest, name):
    """With its checksum right, as somebody would publish it who wants to write where he must not."""
    (shard, *_), (entry,) = manifest.shards, manifest.files
    for change in (
        {"shards": (dataclasses.replace(shard, file=name),)},
        {"files": (dataclasses.replace(entry, file=name),)},
    ):
        write_manifest(tmp_path, dataclasses.replace(manifest, **change))
        with pytest.raises(ShardError, match=f"the file name {name!r} leads out of the dataset's folder"):
            read_manifest(tmp_path)


def test_a_manifest_that_cannot_be_read_is_one_error(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ShardError, match=r"manifest\.json: cannot be read: Is a directory; fix this"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("version", [0, 3, None, "1"])
def test_other_format_versions_are_named_and_refused(tmp_path, manifest, version):
    content = json.loads(render_manifest(manifest)) | {"format_version": version}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ShardError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'manifest.json'}: format version {version!r}, this program reads 1 and 2;"
        " use the version of adpa that made it, or make the dataset again"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[]", "format version None"),
        ('{"format_version": 1}', "checksum"),
        ("\xff", "not JSON"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content, message):
    (tmp_path / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ShardError, match=message):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_called_incomplete(tmp_path):
    with pytest.raises(ShardError, match=r"no manifest\.json, so the dataset is incomplete"):
        read_manifest(tmp_path)
    with pytest.raises(ShardError, match="no such dataset folder"):
        read_manifest(tmp_path / "absent")


def test_files_beside_the_shards_are_described_by_relative_path(tmp_path):
    (tmp_path / "tokenizer" / "more").mkdir(parents=True)
    (tmp_path / "tokenizer" / "b.json").write_bytes(b"")
    (tmp_path / "tokenizer" / "more" / "a.txt").write_bytes(b"abc")
    empty, abc = describe_files(tmp_path, "tokenizer")
    assert (empty.file, empty.size_bytes) == ("tokenizer/b.json", 0)
    assert abc == FileEntry(
        "tokenizer/more/a.txt", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
