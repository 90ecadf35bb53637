import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.checks.rows import check_rollouts
from data.checks.verify import verify_dataset
from data.signals.manifest import read_manifest, write_manifest
from data.signals.rollouts import ROLLOUT_SCHEMA, RolloutDataset, RolloutGroup, write_rollout_shard


@pytest.fixture
def columns(tmp_path, make_rollouts):
    """The columns of twelve valid rows, as Python values: two samples for each of six prompts, of 2 and 3 tokens."""
    make_rollouts(tmp_path / "rollouts", rows_per_group=12)
    return pq.read_table(tmp_path / "rollouts" / "shard-00000.parquet").to_pydict()


def _check(columns, vocab_size: int | None = 97):
    return check_rollouts(RolloutGroup(pa.table(columns, schema=ROLLOUT_SCHEMA)), vocab_size=vocab_size)


def test_what_a_sampler_writes_passes(columns):
    assert _check(columns) == []
    columns["token_logprobs"][3][1] = 1e-6
    assert _check(columns, vocab_size=None) == []


@pytest.mark.parametrize(
    ("column", "value", "position", "text"),
    [
        ("prompt_ids", [3, -1], None, "prompt_ids holds -1, allowed are 0 to 96"),
        ("response_ids", [3, 97, 4], None, "response_ids holds 97, allowed are 0 to 96"),
        ("sample_index", 0, None, "the same pair_id and sample_index as a row before it"),
        ("finish_reason", "eos", None, "finish_reason 'eos' is not one of stop, length"),
        ("token_logprobs", [-1.0, -1.0], None, "token_logprobs has 2 entries, expected 3"),
        ("token_logprobs", [-1.0, float("nan"), -1.0], 1, "token_logprobs must be finite and <= 0"),
        ("token_logprobs", [-1.0, -1.0, 0.1], 2, "token_logprobs must be finite and <= 0"),
    ],
)
def test_each_problem_is_found_at_its_row_and_position(columns, column, value, position, text):
    columns[column][3] = value
    (problem,) = _check(columns)
    assert (problem.row, problem.position, problem.text, problem.count) == (3, position, text, 1)


def test_verify_names_the_shard_the_row_and_the_prompt(tmp_path, make_rollouts):
    rows = make_rollouts(tmp_path)
    assert RolloutDataset.open(tmp_path).blocks[2][0] == 4
    rows[9] = dataclasses.replace(rows[9], token_logprobs=np.full(3, np.inf, np.float32))
    manifest = read_manifest(tmp_path)
    shard = write_rollout_shard(
        tmp_path / "shard-00000.parquet", rows, fingerprint=manifest.fingerprint, rows_per_group=5
    )
    write_manifest(tmp_path, dataclasses.replace(manifest, shards=(shard,)))
    assert [str(finding) for finding in verify_dataset(tmp_path)] == [
        "shard-00000.parquet, row 9 (pair pair-4): position 0: token_logprobs must be finite and <= 0"
        " (3 places in this row group)"
    ]
