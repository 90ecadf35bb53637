import dataclasses

import numpy as np
import pytest

from data.errors import ShardError
from data.signals.rollouts import RolloutDataset, write_rollout_shard


def test_rollouts_survive_the_round_trip(tmp_path, make_rollouts, assert_same_rows):
    rows = make_rollouts(tmp_path)
    dataset = RolloutDataset.open(tmp_path, check_shards=True)
    assert_same_rows(rows, dataset.iterate())
    assert (dataset.num_pairs, dataset.num_rows) == (6, 12)
    assert dataset.num_positions == sum(len(row.response_ids) for row in rows)
    assert_same_rows(rows[6:8], dataset.pair(3))
    # Two samples a prompt and at most five rows: two prompts in a group.
    assert [len(block) for block in dataset.blocks] == [2, 2, 2]


def test_an_empty_sample_is_stored(tmp_path, make_rollouts, assert_same_rows):
    row = make_rollouts(tmp_path / "other")[0]
    empty = dataclasses.replace(
        row, response_ids=np.empty(0, np.int32), response_text="", token_logprobs=np.empty(0, np.float32)
    )
    entry = write_rollout_shard(tmp_path / "shard-00000.parquet", [empty], fingerprint="")
    assert (entry.rows, entry.positions) == (1, 0)


@pytest.mark.parametrize("changes", [{"finish_reason": "eos"}, {"token_logprobs": np.zeros(9, np.float32)}])
def test_a_row_that_contradicts_itself_is_refused(tmp_path, make_rollouts, changes):
    row = make_rollouts(tmp_path / "other")[0]
    with pytest.raises(ValueError, match="pair pair-0, sample 0"):
        write_rollout_shard(tmp_path / "a.parquet", [dataclasses.replace(row, **changes)], fingerprint="")


def test_a_missing_shard_names_the_command_that_makes_it(tmp_path, make_rollouts):
    make_rollouts(tmp_path)
    (tmp_path / "shard-00000.parquet").unlink()
    with pytest.raises(ShardError, match="missing; re-run sample-student to rebuild it"):
        RolloutDataset.open(tmp_path)
