"""Small signal datasets for the tests of the storage modules."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data.signals.dataset import SignalDataset
from data.signals.manifest import Manifest, write_manifest
from data.signals.rollouts import Rollout, write_rollout_shard
from data.signals.schema import ResponseIds
from data.signals.shards import write_signal_shard
from data.signals.support import tail_logprobs, truncate_top_p

VOCAB_SIZE = 97


def _log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.fixture
def make_row():
    """Builds one scored response from random teacher and reference distributions over a small vocabulary."""

    def make(
        pair_id, role, *, length=5, top_k=4, top_p=1.0, seed=0, reference=True, scored=True, sample_index=0
    ):
        rng = np.random.default_rng([seed, length, *map(ord, pair_id + role), sample_index])
        prompt_ids = rng.integers(0, VOCAB_SIZE, 3, dtype=np.int32)
        response_ids = rng.integers(0, VOCAB_SIZE, length, dtype=np.int32)
        ids_only = ResponseIds(pair_id, role, sample_index, prompt_ids, response_ids)
        if not scored:
            return ids_only
        teacher = _log_softmax(rng.normal(scale=3.0, size=(length, VOCAB_SIZE)))
        other = _log_softmax(teacher + rng.normal(scale=0.5, size=teacher.shape))
        order = np.argsort(-teacher, axis=1, kind="stable")[:, :top_k]
        kept = np.take_along_axis(teacher, order, axis=1)
        sizes, mask = truncate_top_p(kept, top_p)
        teacher_logprobs = kept[mask].astype(np.float32)
        reference_logprobs = np.take_along_axis(other, order, axis=1)[mask].astype(np.float32)
        positions = np.arange(length)
        row = ids_only.with_signals(
            support_sizes=sizes,
            topk_ids=order[mask].astype(np.int32),
            teacher_logprobs=teacher_logprobs,
            teacher_tail_logprobs=tail_logprobs(teacher_logprobs, sizes, vocab_size=VOCAB_SIZE),
            teacher_token_logprobs=teacher[positions, response_ids].astype(np.float32),
        )
        if not reference:
            return row
        return dataclasses.replace(
            row,
            advantages=teacher_logprobs - reference_logprobs,
            reference_tail_logprobs=tail_logprobs(reference_logprobs, sizes, vocab_size=VOCAB_SIZE),
            reference_token_logprobs=other[positions, response_ids].astype(np.float32),
        )

    return make


@pytest.fixture
def make_rows(make_row):
    """Builds the rows of several pairs: chosen and rejected, of 1 to 7 positions unless told."""

    def make(
        num_pairs=12,
        *,
        first=0,
        roles=("chosen", "rejected"),
        scored=("chosen", "rejected"),
        num_positions=None,
        **settings,
    ):
        return [
            make_row(
                f"pair-{pair}",
                role,
                length=num_positions or 1 + (3 * pair + len(role)) % 7,
                scored=role in scored,
                **settings,
            )
            for pair in range(first, first + num_pairs)
            for role in roles
        ]

    return make


@pytest.fixture
def make_dataset(make_rows):
    """Writes a complete signal dataset of several shards and returns its rows."""

    def make(folder: Path, *, num_shards=3, pairs_per_shard=5, rows_per_group=4, request=None, **settings):
        folder.mkdir(parents=True, exist_ok=True)
        storage = {name: settings.pop(name) for name in ("encoding", "precision") if name in settings}
        manifest = Manifest(
            kind="signals", request=request or {"teacher": {"source": "tiny"}, "top_k": 4}, shards=()
        )
        rows, shards = [], []
        for shard in range(num_shards):
            part = make_rows(pairs_per_shard, first=shard * pairs_per_shard, **settings)
            path = folder / f"shard-{shard:05d}.parquet"
            shards.append(
                write_signal_shard(
                    path, part, fingerprint=manifest.fingerprint, rows_per_group=rows_per_group, **storage
                )
            )
            rows += part
        write_manifest(folder, dataclasses.replace(manifest, shards=tuple(shards)))
        return rows

    return make


@pytest.fixture
def make_rollouts():
    """Writes a complete rollout dataset of one shard and returns its rows."""

    def make(folder: Path, *, num_prompts=6, num_samples=2, rows_per_group=5):
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(5)
        rows = [
            Rollout(
                pair_id=f"pair-{prompt}",
                sample_index=sample,
                prompt_ids=rng.integers(0, VOCAB_SIZE, 3, dtype=np.int32),
                response_ids=rng.integers(0, VOCAB_SIZE, 2 + sample, dtype=np.int32),
                response_text=f"answer {sample} to {prompt}, “quoted”",
                token_logprobs=-rng.random(2 + sample, dtype=np.float32),
                finish_reason="length" if sample else "stop",
            )
            for prompt in range(num_prompts)
            for sample in range(num_samples)
        ]
        manifest = Manifest(kind="rollouts", request={"student": "tiny", "temperature": 1.0}, shards=())
        shard = write_rollout_shard(
            folder / "shard-00000.parquet",
            rows,
            fingerprint=manifest.fingerprint,
            rows_per_group=rows_per_group,
        )
        write_manifest(folder, dataclasses.replace(manifest, shards=(shard,)))
        return rows

    return make


@pytest.fixture
def assert_same_rows():
    """Compares rows field by field, arrays bit for bit."""

    def check(expected, actual):
        actual = list(actual)
        assert len(actual) == len(expected)
        for left, right in zip(expected, actual, strict=True):
            for field in dataclasses.fields(left):
                a, b = getattr(left, field.name), getattr(right, field.name)
                if isinstance(a, np.ndarray):
                    assert a.dtype == b.dtype, field.name
                    np.testing.assert_array_equal(a, b, err_msg=field.name)
                else:
                    assert a == b, field.name

    return check


@pytest.fixture
def readable_dataset(tmp_path, make_dataset):
    """A dataset whose tokenizer knows 97 tokens, some of them hostile to HTML."""
    folder = tmp_path / "signals <1>"
    make_dataset(
        folder, roles=("chosen", "rejected", "student"), scored=("chosen", "student"), pairs_per_shard=6
    )
    vocabulary = {f"Ġword{i}": i for i in range(94)} | {"</script><b>": 94, "&amp;": 95, "ĊĊ": 96}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="Ġword0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.ByteLevel()
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    return SignalDataset.open(folder)
