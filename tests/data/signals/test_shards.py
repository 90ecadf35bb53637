import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import ShardError
from data.signals.manifest import RoleCount, RowGroup
from data.signals.rounding import grids
from data.signals.schema import SIGNAL_SCHEMA, ResponseSignals
from data.signals.shards import read_signal_group, read_signal_shard, write_signal_shard


@pytest.fixture
def write(tmp_path):
    def write(rows, name="shard-00000.parquet", **settings):
        settings = {"fingerprint": "f" * 64, "precision": "exact"} | settings
        return write_signal_shard(tmp_path / name, rows, **settings)

    return write


@pytest.mark.parametrize("encoding", ["compact", "plain"])
def test_exact_rows_survive_the_round_trip_bit_for_bit(
    tmp_path, write, make_rows, assert_same_rows, encoding
):
    rows = make_rows(8, top_p=0.8, roles=("chosen", "rejected", "student"), scored=("chosen", "student"))
    write(rows, encoding=encoding, rows_per_group=7)
    assert_same_rows(rows, read_signal_shard(tmp_path / "shard-00000.parquet"))


def test_rows_without_reference_or_signals_come_back_as_none(tmp_path, write, make_row, assert_same_rows):
    rows = [make_row("a", "chosen", reference=False), make_row("a", "rejected", scored=False)]
    write(rows)
    back = list(read_signal_shard(tmp_path / "shard-00000.parquet"))
    assert_same_rows(rows, back)
    assert back[0].advantages is None
    assert back[0].is_scored
    assert not back[1].is_scored


def test_the_same_rows_give_the_same_bytes(tmp_path, write, make_rows):
    first, second = write(make_rows(6), name="a.parquet"), write(iter(make_rows(6)), name="b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert dataclasses.replace(first, file="b.parquet") == second


def test_the_entry_describes_the_file(tmp_path, write, make_rows):
    rows = make_rows(5, scored=("chosen",))
    entry = write(rows, rows_per_group=6)
    content = (tmp_path / "shard-00000.parquet").read_bytes()
    assert entry.size_bytes == len(content)
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    positions = [len(row.response_ids) for row in rows if row.role == "chosen"]
    assert entry.row_groups == (RowGroup(3, 6, sum(positions[:3])), RowGroup(2, 4, sum(positions[3:])))
    assert entry.roles == {"chosen": RoleCount(5, 5, 5, sum(positions)), "rejected": RoleCount(rows=5)}
    assert [pq.ParquetFile(tmp_path / entry.file).metadata.row_group(i).num_rows for i in (0, 1)] == [6, 4]


def test_a_row_group_never_splits_a_pair(write, make_row):
    sizes = [1, 5, 2, 2, 3, 9, 1]
    rows = [
        make_row(f"pair-{i}", "student", sample_index=sample)
        for i, size in enumerate(sizes)
        for sample in range(size)
    ]
    entry = write(rows, rows_per_group=5)
    # Greedy by hand: 1 | 5 | 2 + 2 | 3 | 9 (one pair above the limit) | 1.
    assert [group.rows for group in entry.row_groups] == [1, 5, 4, 3, 9, 1]
    assert [group.pairs for group in entry.row_groups] == [1, 1, 2, 1, 1, 1]


def test_rounding_changes_each_value_by_at_most_half_its_grid(tmp_path, write, make_rows):
    rows = make_rows(10, top_k=40)
    write(rows, precision="rounded")
    for exact, stored in zip(rows, read_signal_shard(tmp_path / "shard-00000.parquet"), strict=True):
        steps = grids(exact.teacher_logprobs)
        assert set(np.unique(steps)) <= {1 / 512, 1 / 64, 1 / 16, 1 / 8}
        for name in ("teacher_logprobs", "advantages"):
            assert np.all(np.abs(getattr(stored, name) - getattr(exact, name)) <= steps / 2)
            np.testing.assert_array_equal(getattr(stored, name) % steps, 0)
        np.testing.assert_array_equal(stored.topk_ids, exact.topk_ids)
        np.testing.assert_array_equal(stored.teacher_token_logprobs, exact.teacher_token_logprobs)
        np.testing.assert_array_equal(stored.reference_tail_logprobs, exact.reference_tail_logprobs)


def test_an_infinite_tail_is_stored(tmp_path, write, make_row):
    row = make_row("a", "chosen", top_k=97)
    write([row])
    (back,) = read_signal_shard(tmp_path / "shard-00000.parquet")
    assert np.all(np.isneginf(back.teacher_tail_logprobs))


def test_the_file_carries_schema_units_and_fingerprint(tmp_path, write, make_rows):
    write(make_rows(2))
    schema = pq.read_schema(tmp_path / "shard-00000.parquet")
    assert schema.equals(SIGNAL_SCHEMA)
    assert schema.field("advantages").metadata[b"unit"] == b"nats"
    assert schema.field("topk_ids").type == pa.list_(pa.field("element", pa.int32(), nullable=False))
    assert [field.name for field in schema if not field.nullable] == [
        "pair_id",
        "role",
        "sample_index",
        "prompt_ids",
        "response_ids",
    ]
    assert schema.metadata[b"adpa.fingerprint"] == b"f" * 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "teacher"}, "role is not one of chosen, rejected, student"),
        ({"support_sizes": None}, "has topk_ids but not support_sizes"),
        ({"reference_tail_logprobs": None}, "has advantages but not reference_tail_logprobs"),
        ({"topk_ids": np.zeros(19, np.int32)}, "topk_ids has 19 entries, expected 20"),
        (
            {"teacher_tail_logprobs": np.zeros(4, np.float32)},
            "teacher_tail_logprobs has 4 entries, expected 5",
        ),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(tmp_path, write, make_row, changes, message):
    row = dataclasses.replace(make_row("a", "chosen"), **changes)
    with pytest.raises(ValueError, match=message):
        write([row])
    assert list(tmp_path.iterdir()) == []


def test_advantages_without_teacher_signals_are_refused(write, make_row):
    row = make_row("a", "chosen")
    bare = dict.fromkeys(("support_sizes", "topk_ids", "teacher_logprobs"))
    bare |= {"teacher_tail_logprobs": None, "teacher_token_logprobs": None}
    with pytest.raises(ValueError, match="has advantages but no teacher_logprobs"):
        write([dataclasses.replace(row, **bare)])


def test_a_pair_in_two_places_is_refused(write, make_row):
    with pytest.raises(ValueError, match="pair a: its rows are not stored together"):
        write([make_row("a", "chosen"), make_row("b", "chosen"), make_row("a", "rejected")])


def test_some_rows_with_and_some_without_reference_are_refused(write, make_row):
    with pytest.raises(ValueError, match="advantages on some of the scored rows only"):
        write([make_row("a", "chosen"), make_row("a", "rejected", reference=False)])


def test_reading_some_columns_leaves_the_others_out(tmp_path, write, make_rows):
    rows = make_rows(3)
    write(rows)
    group = read_signal_group(tmp_path / "shard-00000.parquet", 0, columns=["teacher_token_logprobs"])
    row = group.row(2)
    np.testing.assert_array_equal(row.response_ids, rows[2].response_ids)
    assert not isinstance(row, ResponseSignals)
    tokens = group.columns["teacher_token_logprobs"].row(2)
    np.testing.assert_array_equal(tokens, rows[2].teacher_token_logprobs)
    assert "topk_ids" not in group.columns


def test_a_shard_of_another_dataset_is_refused(tmp_path, write, make_rows):
    write(make_rows(3))
    with pytest.raises(
        ShardError, match="belongs to dataset ffffffffffff, not to 000000000000; re-run score-teacher"
    ):
        read_signal_group(tmp_path / "shard-00000.parquet", 0, fingerprint="0" * 64)


def test_foreign_parquet_is_refused(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ShardError, match="its columns are not those of this format"):
        list(read_signal_shard(path))
