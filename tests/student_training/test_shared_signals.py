"""Training from signals that others share: at an S3 address, by their name in the store, and damaged on the way."""

import re
import shutil

import fsspec
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.checks.verify import verify_dataset
from data.errors import ShardError, TrainingError
from data.storage.store import list_datasets
from data.storage.transfer import push_dataset
from student_training.inputs.inputs import open_inputs
from student_training.run import resolve_method


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def assert_same_weights(one, other):
    for name, weight in weights(one).items():
        torch.testing.assert_close(weight, weights(other)[name], rtol=0, atol=0)


@pytest.fixture(scope="module")
def from_the_folder(scored, tmp_path_factory):
    out = tmp_path_factory.mktemp("from-the-folder") / "out"
    scored.train("dckd", out)
    return out


@pytest.mark.slow
def test_training_straight_from_s3_equals_training_from_the_folder(
    scored, from_the_folder, s3_bucket, tmp_path
):
    """Two loader processes fetch the shards as they need them; afterwards the store holds the dataset."""
    address = f"{s3_bucket}/signals"
    push_dataset(scored.full, address)
    scored.train("dckd", tmp_path / "first", signals=(address,), loader_workers=2)
    assert_same_weights(tmp_path / "first", from_the_folder)
    (stored,) = list_datasets()
    assert verify_dataset(stored.path) == []
    # The next run finds all shards here: without them at the address, it trains all the same.
    files, root = fsspec.core.url_to_fs(address)
    files.rm([path for path in files.find(root) if path.endswith(".parquet")])
    scored.train("dckd", tmp_path / "second", signals=(address,))
    assert_same_weights(tmp_path / "second", from_the_folder)
    # Nor is the address needed by those who know the name.
    scored.train("dckd", tmp_path / "third", signals=(stored.path.name[:10],))
    assert_same_weights(tmp_path / "third", from_the_folder)


@pytest.mark.slow
def test_a_shard_that_is_damaged_at_its_address_is_never_trained_on(scored, s3_bucket, tmp_path):
    address = f"{s3_bucket}/signals"
    push_dataset(scored.full, address)
    files, root = fsspec.core.url_to_fs(address)
    content = bytearray(files.cat_file(f"{root}/shard-00000.parquet"))
    content[len(content) // 2] ^= 4
    files.pipe_file(f"{root}/shard-00000.parquet", bytes(content))
    with pytest.raises(
        (ShardError, TrainingError), match=r"shard-00000\.parquet: SHA-256 .* of what arrived"
    ):
        scored.train("dckd", tmp_path / "out", signals=(address,))
    assert not (tmp_path / "out" / "config.json").exists()


def test_any_flipped_bit_stops_training_before_it_begins(scored, tmp_path):
    """100 random bits, dealt over the files of the dataset; the checks are those that train-student runs first."""
    folder = tmp_path / "signals"
    shutil.copytree(scored.full, folder)
    options = scored.options("dckd", tmp_path / "out", signals=(str(folder),))
    method, _ = resolve_method(options)
    tokenizer = AutoTokenizer.from_pretrained(scored.student)
    # The card is for people, and nothing reads it.
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    rng = np.random.default_rng(7)
    for trial in range(100):
        path = files[trial % len(files)]
        valid = path.read_bytes()
        damaged = bytearray(valid)
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=re.escape(path.name)):
            open_inputs(options, method.needs, tokenizer)
        path.write_bytes(valid)
    open_inputs(options, method.needs, tokenizer)
