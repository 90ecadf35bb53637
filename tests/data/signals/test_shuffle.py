import numpy as np
import pytest

from data.signals.dataset import SignalDataset
from data.signals.shuffle import shuffled_pairs, split_pairs


def _blocks(sizes):
    ends = np.cumsum(sizes).tolist()
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("sizes", [[], [1], [7], [5, 5, 3], [4, 1, 9, 2, 6] * 8])
def test_every_pair_comes_once(sizes):
    order = shuffled_pairs(_blocks(sizes), seed=3, epoch=0, window=4)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    assert order.dtype == np.int64


def test_seed_and_epoch_determine_the_order():
    blocks = _blocks([10] * 30)
    first = shuffled_pairs(blocks, seed=1, epoch=0)
    np.testing.assert_array_equal(first, shuffled_pairs(blocks, seed=1, epoch=0))
    assert not np.array_equal(first, shuffled_pairs(blocks, seed=1, epoch=1))
    assert not np.array_equal(first, shuffled_pairs(blocks, seed=2, epoch=0))


def test_no_more_blocks_are_in_use_than_the_window_and_one():
    window = 5
    blocks = _blocks([20] * 40)
    order = shuffled_pairs(blocks, seed=0, epoch=0, window=window)
    block_of = order // 20
    first = {block: int(np.argmax(block_of == block)) for block in range(40)}
    last = {block: len(order) - 1 - int(np.argmax(block_of[::-1] == block)) for block in range(40)}
    in_use = [sum(first[b] <= time <= last[b] for b in range(40)) for time in range(len(order))]
    assert max(in_use) <= window + 1


def test_each_block_is_decoded_once_in_an_epoch(tmp_path, make_dataset, monkeypatch):
    make_dataset(tmp_path)
    dataset = SignalDataset.open(tmp_path, cached_blocks=6)
    reads = []
    read = dataset._read_group
    monkeypatch.setattr(dataset, "_read_group", lambda *place: reads.append(place) or read(*place))
    for pair in shuffled_pairs(dataset.blocks, seed=0, epoch=0, window=3).tolist():
        dataset.pair(pair)
    assert len(reads) == len(dataset.blocks) == len(set(reads))


def test_few_blocks_are_shuffled_uniformly():
    """Where the first pair ends up is uniform over the epoch: a chi-square test over 12 places, 3,000 orders."""
    blocks = _blocks([4, 4, 4])
    places = [int(np.argmax(shuffled_pairs(blocks, seed=seed, epoch=0) == 0)) for seed in range(3000)]
    counts = np.bincount(places, minlength=12)
    # 11 degrees of freedom: above 31.3 once in a thousand; the seeds are fixed, so this does not flicker.
    assert ((counts - 250) ** 2 / 250).sum() < 31.3


def test_neighbours_in_storage_are_spread_out():
    order = shuffled_pairs(_blocks([50] * 40), seed=0, epoch=0, window=8)
    same_block = np.mean(order[1:] // 50 == order[:-1] // 50)
    # With eight blocks in use at a time, one pair in eight follows a pair of the same block.
    assert same_block < 0.2


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7, 50])
def test_shares_are_disjoint_and_cover_the_order(num_parts):
    order = shuffled_pairs(_blocks([9] * 4), seed=0, epoch=0)
    shares = [split_pairs(order, part=part, num_parts=num_parts) for part in range(num_parts)]
    np.testing.assert_array_equal(np.concatenate(shares), order)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ValueError, match="part"):
        split_pairs(order, part=num_parts, num_parts=num_parts)


def test_an_epoch_split_over_readers_and_continued_reads_every_pair_once(tmp_path, make_dataset, monkeypatch):
    make_dataset(tmp_path, num_shards=4)
    num_parts, stopped_at = 4, 3

    def read(part, skipped, stop):
        """A reader that knows nothing but the folder, the seed and how far it had come; and what it decoded."""
        dataset = SignalDataset.open(tmp_path)
        decoded = []
        whole = dataset._read_block
        monkeypatch.setattr(dataset, "_read_block", lambda block: decoded.append(block) or whole(block))
        order = shuffled_pairs(dataset.blocks, seed=5, epoch=2, window=2)
        share = split_pairs(order, part=part, num_parts=num_parts)[skipped:stop]
        return [dataset.pair(index)[0].pair_id for index in share.tolist()], decoded

    before = [read(part, 0, stopped_at) for part in range(num_parts)]
    after = [read(part, stopped_at, None) for part in range(num_parts)]
    seen = [pair_id for ids, _ in before + after for pair_id in ids]
    assert sorted(seen) == sorted(SignalDataset.open(tmp_path).pair_ids)
    for _, decoded in before + after:
        assert len(decoded) == len(set(decoded)) < len(SignalDataset.open(tmp_path).blocks)
