import dataclasses
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data.errors import ShardError
from data.signals.card import write_card
from data.signals.dataset import SignalDataset
from data.signals.manifest import read_manifest, write_manifest
from data.signals.schema import ResponseSignals


def test_a_dataset_knows_what_it_holds(tmp_path, make_dataset):
    rows = make_dataset(tmp_path, scored=("chosen",))
    dataset = SignalDataset.open(tmp_path)
    assert (dataset.num_pairs, dataset.num_rows) == (15, 30)
    assert dataset.num_positions == sum(len(row.response_ids) for row in rows if row.role == "chosen")
    assert dataset.roles == ("chosen",)
    assert dataset.has_advantages
    assert dataset.pair_ids == [f"pair-{i}" for i in range(15)]


def test_a_dataset_without_reference_says_so(tmp_path, make_dataset):
    make_dataset(tmp_path, reference=False)
    dataset = SignalDataset.open(tmp_path)
    assert dataset.roles == ("chosen", "rejected")
    assert not dataset.has_advantages


def test_rows_come_in_input_order_across_shards(tmp_path, make_dataset, assert_same_rows):
    rows = make_dataset(tmp_path, precision="exact")
    assert_same_rows(rows, SignalDataset.open(tmp_path).iterate())


def test_ids_come_in_input_order_with_their_pair_and_without_any_signal(tmp_path, make_dataset):
    rows = make_dataset(tmp_path)
    seen = list(SignalDataset.open(tmp_path).iterate_ids())
    assert [pair for pair, _ in seen] == [index // 2 for index in range(30)]
    for true, (_, row) in zip(rows, seen, strict=True):
        assert (row.pair_id, row.role, row.sample_index) == (true.pair_id, true.role, true.sample_index)
        np.testing.assert_array_equal(row.prompt_ids, true.prompt_ids)
        np.testing.assert_array_equal(row.response_ids, true.response_ids)
        assert not isinstance(row, ResponseSignals)


def test_random_access_by_pair_equals_reading_in_order(tmp_path, make_dataset, assert_same_rows):
    rows = make_dataset(tmp_path, precision="exact")
    dataset = SignalDataset.open(tmp_path, cached_blocks=2)
    for index in np.random.default_rng(0).permutation(15).tolist():
        assert_same_rows(rows[2 * index : 2 * index + 2], dataset.pair(index))
    with pytest.raises(IndexError, match="pair 15 of 15"):
        dataset.pair(15)


def test_blocks_cover_every_pair_once_and_follow_the_row_groups(tmp_path, make_dataset):
    make_dataset(tmp_path)
    dataset = SignalDataset.open(tmp_path)
    # Five pairs of two rows, at most four rows in a group: 2 + 2 + 1 pairs in each of three shards.
    assert [len(block) for block in dataset.blocks] == [2, 2, 1] * 3
    assert [pair for block in dataset.blocks for pair in block] == list(range(15))


def test_a_block_is_decoded_once_while_it_is_cached(tmp_path, make_dataset, monkeypatch):
    make_dataset(tmp_path)
    dataset = SignalDataset.open(tmp_path, cached_blocks=2)
    reads = []
    read = dataset._read_group
    monkeypatch.setattr(dataset, "_read_group", lambda *place: reads.append(place) or read(*place))
    for index in (0, 1, 2, 0, 3, 1):
        dataset.pair(index)
    assert len(reads) == 2
    dataset.pair(14)
    dataset.pair(2)
    assert len(reads) == 4


def test_a_dataset_travels_to_another_process(tmp_path, make_dataset, assert_same_rows):
    make_dataset(tmp_path)
    dataset = SignalDataset.open(tmp_path)
    dataset.pair(3)
    copy = pickle.loads(pickle.dumps(dataset))
    assert_same_rows(dataset.pair(3), copy.pair(3))


@pytest.mark.parametrize("check_shards", [False, True])
def test_opening_names_a_missing_or_cut_shard(tmp_path, make_dataset, check_shards):
    make_dataset(tmp_path)
    shard = tmp_path / "shard-00001.parquet"
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    with pytest.raises(ShardError) as caught:
        SignalDataset.open(tmp_path, check_shards=check_shards)
    assert str(caught.value) == (
        f"{shard}: {size - 1} bytes, the manifest says {size}; re-run score-teacher to rebuild it"
    )
    shard.unlink()
    with pytest.raises(
        ShardError, match=r"shard-00001\.parquet: missing; re-run score-teacher to rebuild it"
    ):
        SignalDataset.open(tmp_path, check_shards=check_shards)


def test_a_flipped_bit_is_found_when_shards_are_checked(tmp_path, make_dataset):
    make_dataset(tmp_path)
    shard = tmp_path / "shard-00002.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"shard-00002\.parquet: damaged: SHA-256 .* re-run score-teacher"):
        SignalDataset.open(tmp_path, check_shards=True)


def test_a_shard_swapped_in_from_another_dataset_is_refused_on_reading(tmp_path, make_dataset):
    make_dataset(tmp_path / "a")
    make_dataset(tmp_path / "b", request={"teacher": {"source": "other"}})
    shutil.copy(tmp_path / "b" / "shard-00000.parquet", tmp_path / "a" / "shard-00000.parquet")
    dataset = SignalDataset.open(tmp_path / "a")
    with pytest.raises(ShardError, match="belongs to dataset"):
        dataset.pair(0)


def test_a_shard_with_other_rows_than_the_manifest_says_is_refused(tmp_path, make_dataset):
    make_dataset(tmp_path / "a")
    make_dataset(tmp_path / "b", pairs_per_shard=1)
    manifest = read_manifest(tmp_path / "a")
    shutil.copy(tmp_path / "b" / "shard-00000.parquet", tmp_path / "a" / "shard-00000.parquet")
    size = (tmp_path / "a" / "shard-00000.parquet").stat().st_size
    changed = dataclasses.replace(manifest.shards[0], size_bytes=size)
    write_manifest(tmp_path / "a", dataclasses.replace(manifest, shards=(changed, *manifest.shards[1:])))
    with pytest.raises(ShardError, match="row group 0 has 2 rows of 1 pairs, the manifest says 4 of 2"):
        SignalDataset.open(tmp_path / "a").pair(0)


def test_rollouts_are_not_taken_for_signals(tmp_path, make_rollouts):
    make_rollouts(tmp_path)
    with pytest.raises(ShardError, match="a dataset of rollouts; expected one of signals"):
        SignalDataset.open(tmp_path)


@pytest.mark.slow
def test_datasets_loads_the_folder_offline(tmp_path, make_dataset):
    rows = make_dataset(tmp_path / "signals", precision="exact", scored=("chosen",))
    write_card(tmp_path / "signals", read_manifest(tmp_path / "signals"))
    # JSON beside the shards, as a real dataset has it, must not be taken for data.
    (tmp_path / "signals" / "tokenizer").mkdir()
    (tmp_path / "signals" / "tokenizer" / "tokenizer.json").write_text("{}")
    script = """
import sys, datasets
table = datasets.load_dataset(sys.argv[1], split="train", cache_dir=sys.argv[2])
row = table[0]
print(len(table), row["pair_id"], row["topk_ids"][:3], table[1]["topk_ids"])
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    output = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "signals", tmp_path / "cache"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.split("\n")[-2] == f"30 pair-0 {rows[0].topk_ids[:3].tolist()} None"
