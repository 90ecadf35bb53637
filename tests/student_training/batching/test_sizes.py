"""Lengths of pairs: those of their rows, from whatever source, without a look at the signals."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from data.preferences.options import Reading
from data.signals.dataset import SignalDataset
from data.storage.transfer import open_signals, push_dataset
from student_training.batching.batchers import pair_sizes
from student_training.inputs.pairs import ConcatenatedPairs, read_encoded_pairs


@pytest.fixture
def signals_are_out_of_reach(monkeypatch):
    def refused(self, file, index):
        raise AssertionError(f"row group {index} of {file} was decoded with its signals")

    monkeypatch.setattr(SignalDataset, "_read_group", refused)


def counted(source, roles):
    """Row counts, longest rows and tokens, by decoding every pair."""
    lengths = [
        [len(row.prompt_ids) + len(row.response_ids) for row in source.pair(index) if row.role in roles]
        for index in range(source.num_pairs)
    ]
    return np.array([(len(rows), max(rows, default=0), sum(rows)) for rows in lengths]).T


def assert_sizes(sizes, expected):
    np.testing.assert_array_equal([sizes.num_rows, sizes.longest, sizes.tokens], expected)


@pytest.fixture
def expected(scored):
    """Counted while the signals can still be read."""
    return {
        roles: counted(SignalDataset.open(scored.full), roles)
        for roles in (frozenset({"chosen", "rejected"}), frozenset({"student"}))
    }


def test_pairs_are_measured_without_reading_signals(scored, expected, signals_are_out_of_reach):
    dataset = SignalDataset.open(scored.full)
    for roles, true in expected.items():
        assert_sizes(pair_sizes(dataset, roles), true)
        assert_sizes(pair_sizes(ConcatenatedPairs([dataset, dataset]), roles), np.hstack([true, true]))


def test_pairs_at_an_address_are_measured_without_reading_signals(scored, expected, signals_are_out_of_reach):
    push_dataset(scored.full, "memory://bucket/measured")
    dataset = open_signals("memory://bucket/measured")
    for roles, true in expected.items():
        assert_sizes(pair_sizes(dataset, roles), true)


def test_encoded_preference_rows_are_measured_like_scored_ones(scored, expected):
    roles = frozenset({"chosen", "rejected"})
    pairs, _, _ = read_encoded_pairs(
        str(scored.pairs), AutoTokenizer.from_pretrained(scored.student), reading=Reading(), roles=roles,
        max_length=2048, truncate=False,
    )  # fmt: skip
    assert_sizes(pair_sizes(pairs, roles), expected[roles])
