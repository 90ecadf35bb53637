import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.checks.verify import repair_plan, verify_dataset
from data.errors import ShardError
from data.signals.dataset import SignalDataset
from data.signals.manifest import describe_files, read_manifest, write_manifest
from data.signals.shards import read_signal_shard, write_signal_shard


@pytest.fixture
def dataset(tmp_path, make_dataset):
    """A complete dataset with a tokenizer's file."""
    folder = tmp_path / "signals"
    make_dataset(folder)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text('{"model": {}}')
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, files=describe_files(folder, "tokenizer")))
    return folder


def test_sound_datasets_have_no_findings(tmp_path, dataset, make_dataset, make_rollouts):
    make_rollouts(tmp_path / "rollouts")
    make_dataset(
        tmp_path / "partly",
        scored=("chosen",),
        reference=False,
        precision="exact",
        request={"precision": "exact"},
    )
    assert verify_dataset(dataset) == []
    assert verify_dataset(tmp_path / "rollouts") == []
    assert verify_dataset(tmp_path / "partly") == []
    assert repair_plan(dataset, []) == []


def _same_json(valid, damaged):
    try:
        return json.loads(valid) == json.loads(damaged)
    except ValueError:
        return False


@pytest.mark.slow
def test_any_flipped_bit_or_changed_byte_is_found_and_the_file_named(dataset):
    """100 random changes, dealt over all files of the dataset."""
    rng = np.random.default_rng(20)
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    assert len(files) == 5
    for trial in range(100):
        path = files[trial % len(files)]
        valid = path.read_bytes()
        damaged = bytearray(valid)
        place = int(rng.integers(len(damaged)))
        # Half of the trials flip one bit, half put another byte there.
        damaged[place] ^= 1 << int(rng.integers(8)) if trial % 2 else int(rng.integers(1, 256))
        path.write_bytes(damaged)
        found = {finding.file for finding in verify_dataset(dataset)}
        assert found == {path.relative_to(dataset).as_posix()}, (path, place)
        # Blanks in the manifest alter nothing that training reads; all else stops it.
        if path.name != "manifest.json" or not _same_json(valid, damaged):
            with pytest.raises(ShardError, match=path.name.replace(".", r"\.")):
                SignalDataset.open(dataset, check_shards=True)
        path.write_bytes(valid)
    assert verify_dataset(dataset) == []


@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_truncated_shard_is_found(dataset, keep):
    shard = dataset / "shard-00001.parquet"
    size = shard.stat().st_size
    kept = int(size * keep) if isinstance(keep, float) else keep % size
    os.truncate(shard, kept)
    assert [str(finding) for finding in verify_dataset(dataset)] == [
        f"shard-00001.parquet: {kept} bytes, the manifest says {size}; re-run score-teacher to rebuild it"
    ]


def test_missing_and_extra_files_are_found(dataset):
    (dataset / "shard-00002.parquet").rename(dataset / "shard-00003.parquet")
    (dataset / "tokenizer" / "other.json").write_text("{}")
    (dataset / ".shard-00001.parquet.12-ab.partial").write_bytes(b"half")
    (dataset / "notes.txt").write_text("harmless")
    findings = verify_dataset(dataset)
    extra = "not in the manifest: it does not belong to this dataset"
    assert [str(finding) for finding in findings] == [
        "shard-00002.parquet: missing; re-run score-teacher to rebuild it",
        f".shard-00001.parquet.12-ab.partial: {extra}",
        f"shard-00003.parquet: {extra}",
        f"tokenizer/other.json: {extra}",
    ]


def test_the_manifest_of_another_dataset_is_found(tmp_path, dataset, make_dataset):
    make_dataset(tmp_path / "other", request={"teacher": {"source": "other"}}, seed=1)
    shutil.copy(tmp_path / "other" / "manifest.json", dataset / "manifest.json")
    findings = verify_dataset(dataset)
    assert {finding.file for finding in findings if not finding.extra} == {
        f"shard-0000{i}.parquet" for i in range(3)
    }


def test_a_forged_fingerprint_is_found_in_the_shards(dataset):
    """Even with every checksum right, a manifest with another request does not fit the shards' footers."""
    manifest = read_manifest(dataset)
    write_manifest(dataset, dataclasses.replace(manifest, request={"teacher": {"source": "better"}}))
    findings = verify_dataset(dataset)
    assert len(findings) == 3
    assert all("belongs to dataset" in finding.text for finding in findings)


def test_an_older_format_version_is_one_clear_finding(dataset):
    content = json.loads((dataset / "manifest.json").read_text()) | {"format_version": 0}
    (dataset / "manifest.json").write_text(json.dumps(content))
    assert [str(finding) for finding in verify_dataset(dataset)] == [
        "manifest.json: format version 0, this program reads 1 and 2;"
        " use the version of adpa that made it, or make the dataset again"
    ]


def _rewrite(dataset, shard, rows):
    """Put other rows into a shard and make the manifest agree with the file."""
    manifest = read_manifest(dataset)
    entry = write_signal_shard(
        dataset / manifest.shards[shard].file, rows, fingerprint=manifest.fingerprint, rows_per_group=4
    )
    shards = [*manifest.shards]
    shards[shard] = entry
    write_manifest(dataset, dataclasses.replace(manifest, shards=tuple(shards)))


def test_a_bad_row_is_named_by_shard_row_and_pair(dataset):
    rows = list(read_signal_shard(dataset / "shard-00001.parquet"))
    row = rows[7]
    rows[7] = dataclasses.replace(row, advantages=np.full_like(row.advantages, np.nan))
    _rewrite(dataset, 1, rows)
    found = [str(finding) for finding in verify_dataset(dataset)]
    assert (
        f"shard-00001.parquet, row 7 (pair {row.pair_id}): position 0: advantages must be finite" in found[0]
    )


def test_a_pair_in_two_shards_is_found(dataset):
    rows = list(read_signal_shard(dataset / "shard-00000.parquet"))
    _rewrite(dataset, 1, rows)
    findings = verify_dataset(dataset)
    assert len(findings) == 5
    assert (
        str(findings[0])
        == "shard-00001.parquet, row 0 (pair pair-0): the pair's rows are not stored together"
    )


def test_wrong_counts_in_the_manifest_are_found(dataset):
    manifest = read_manifest(dataset)
    shard = manifest.shards[0]
    group = dataclasses.replace(shard.row_groups[0], positions=1)
    changed = dataclasses.replace(shard, row_groups=(group, *shard.row_groups[1:]))
    write_manifest(dataset, dataclasses.replace(manifest, shards=(changed, *manifest.shards[1:])))
    (finding,) = verify_dataset(dataset)
    assert "row group 0 has RowGroup(pairs=2, rows=4, positions=" in finding.text


def test_a_row_group_too_few_is_found(dataset):
    manifest = read_manifest(dataset)
    path = dataset / "shard-00000.parquet"
    table = pq.read_table(path)
    assert len(table) == 10
    shard = manifest.shards[0]
    changed = dataclasses.replace(shard, row_groups=shard.row_groups[:2])
    write_manifest(dataset, dataclasses.replace(manifest, shards=(changed, *manifest.shards[1:])))
    assert [str(f) for f in verify_dataset(dataset)] == [
        "shard-00000.parquet: 3 row groups, the manifest says 2"
    ]


def test_the_repair_plan_says_what_to_run(dataset):
    manifest = read_manifest(dataset)
    command = "adpa score-teacher --teacher a --data b"
    write_manifest(dataset, dataclasses.replace(manifest, created={"command": command}))
    (dataset / "shard-00001.parquet").unlink()
    (dataset / "shard-00009.parquet").write_bytes(b"")
    assert repair_plan(dataset, verify_dataset(dataset)) == [
        "Delete what does not belong to the dataset:",
        f"  rm -f {dataset}/shard-00009.parquet",
        "Fetch the damaged files again from where the dataset came from (intact ones are kept):",
        f"  adpa signals pull --address ADDRESS --out {dataset}",
        "or make them again; what was scored before is taken from the cache of passes:",
        f"  rm -f {dataset}/shard-00001.parquet",
        f"  {command} --out {dataset}",
    ]


def test_what_is_no_dataset_is_an_error_and_nobody_is_told_to_delete_it(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}")
    with pytest.raises(ShardError, match="a file, not a dataset folder"):
        verify_dataset(tmp_path / "pairs.jsonl")
    with pytest.raises(ShardError, match="the dataset is incomplete or this is not one"):
        verify_dataset(tmp_path)
    with pytest.raises(ShardError, match="no such dataset folder"):
        verify_dataset(tmp_path / "absent")


def test_an_unfinished_dataset_is_to_be_finished_and_not_deleted(tmp_path):
    (tmp_path / ".work" / "1-of-1").mkdir(parents=True)
    (finding,) = verify_dataset(tmp_path)
    assert "so the dataset is incomplete" in finding.text
    assert repair_plan(tmp_path, [finding]) == [
        "Finish it; what is there is kept:",
        f"  adpa score-teacher ... --out {tmp_path}    (with the options that made the dataset)",
    ]


def test_a_dataset_that_has_lost_its_manifest_is_fetched_or_made_anew(dataset):
    (dataset / "manifest.json").unlink()
    assert repair_plan(dataset, verify_dataset(dataset))[1:] == [
        f"  adpa signals pull --address ADDRESS --out {dataset}",
        "or make them again; what was scored before is taken from the cache of passes:",
        f"  rm -rf {dataset}",
        f"  adpa score-teacher ... --out {dataset}    (with the options that made the dataset)",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "adpa score-teacher ... --out {}    (with the options that made the dataset)"),
        ("[]", "adpa score-teacher ... --out {}    (with the options that made the dataset)"),
        ('{"kind": "rollouts", "created": {"command": "adpa sample-student --seed 3"}}',
         "adpa sample-student --seed 3 --out {}"),
    ],
)  # fmt: skip
def test_where_the_manifest_is_damaged_the_dataset_has_to_go(dataset, content, expected):
    (dataset / "manifest.json").write_text(content)
    plan = repair_plan(dataset, verify_dataset(dataset))
    assert plan[1] == f"  rm -f {dataset}/manifest.json"
    assert plan[-2:] == [f"  rm -rf {dataset}", "  " + expected.format(dataset)]
