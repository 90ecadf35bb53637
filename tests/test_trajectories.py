"""Trajectories from JSONL through format 2 to trained students: pairs that part at any turn, among plain ones."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from data.checks.verify import verify_dataset
from data.signals.dataset import SignalDataset
from data.signals.schema import SIGNAL_SCHEMAS
from student_training.options import TrainOptions
from student_training.run import train_student
from teacher_scoring.engines.contract import EngineOptions, TokenSequence
from teacher_scoring.engines.open import open_engine
from teacher_scoring.score import ScoreOptions, score_teacher

pytestmark = pytest.mark.slow


def turns(*texts):
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three plain pairs, then three whose conversations part at the first or the second answer and go on."""
    rows = [{"chosen": turns(f"w{n} w1", "w2 w3"), "rejected": turns(f"w{n} w1", "w4")} for n in range(3)] + [
        {
            "chosen": turns(f"w{n} w5", "w6 w7", "w8", "w9 w10 w11"),
            "rejected": turns(f"w{n} w5", "w6 w12", "w13 w14", "w15"),
        }
        for n in range(3)
    ]
    path = tmp_path_factory.mktemp("trajectories") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def options(tiny_world, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    return ScoreOptions(
        teacher=str(tiny_world.teacher),
        reference=str(tiny_world.reference),
        data=str(data),
        engine="transformers",
        top_k=6,
        shard_pairs=2,
        precision="exact",
        pass_cache=str(folder / "passes"),
        out=str(folder / "signals"),
    )


@pytest.fixture(scope="module")
def signals(options):
    return score_teacher(options).open()


def test_a_dataset_has_the_columns_of_its_latest_row_in_every_shard(signals):
    assert signals.manifest.format_version == 2
    assert len(signals.manifest.shards) == 3
    for shard in signals.manifest.shards:
        assert pq.read_schema(signals.path / shard.file).equals(SIGNAL_SCHEMAS[2])
    assert [row.response_mask is None for row in signals.iterate()] == [True] * 6 + [False] * 6


def test_masks_hold_the_assistant_s_turns_and_conversations_can_be_rendered_again(signals, tiny_world):
    tokenizer = AutoTokenizer.from_pretrained(tiny_world.teacher)
    row = list(signals.iterate())[6]
    assert tokenizer.decode(row.prompt_ids) == "<s> <|user|> w0 w5 <|assistant|>"
    assert tokenizer.decode(row.scored_ids) == "w6 w7 </s> w9 w10 w11 </s>"
    said = json.loads(row.conversation)
    assert said["messages"] == turns("w0 w5", "w6 w7", "w8", "w9 w10 w11")
    ids = tokenizer.apply_chat_template(said["messages"], return_dict=False)
    assert ids == [*row.prompt_ids.tolist(), *row.response_ids.tolist()]


def test_the_dataset_passes_its_own_verification(signals):
    assert verify_dataset(signals.path) == []


def test_signals_of_masked_rows_are_those_of_each_turn_alone(signals, tiny_world):
    row = list(signals.iterate())[-1]
    ids = np.concatenate([row.prompt_ids, row.response_ids])
    engine = open_engine("transformers", EngineOptions(model=str(tiny_world.teacher)))
    places = len(row.prompt_ids) + row.scored_places
    alone = [
        engine.score_support([TokenSequence(ids[:place], ids[place : place + 1])], 6)[0] for place in places
    ]
    engine.close()
    np.testing.assert_allclose(
        row.teacher_logprobs.reshape(-1, 6), np.concatenate([one.logprobs for one in alone]), atol=1e-5
    )


def test_the_same_rows_give_the_same_bytes_whichever_shards_were_there_before(signals, options, tmp_path):
    again = score_teacher(dataclasses.replace(options, out=str(tmp_path / "again"))).open()
    assert [shard.sha256 for shard in again.manifest.shards] == [
        shard.sha256 for shard in signals.manifest.shards
    ]


def test_plain_rows_alone_stay_in_format_1(options, data, tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(data.read_text().splitlines(keepends=True)[:3]))
    dataset = score_teacher(dataclasses.replace(options, data=str(plain), out=str(tmp_path / "out"))).open()
    assert dataset.manifest.format_version == 1
    kept = dataclasses.replace(options, data=str(plain), out=str(tmp_path / "kept"), store_conversations=True)
    dataset = score_teacher(kept).open()
    assert dataset.manifest.format_version == 2
    assert all(row.conversation and row.response_mask is None for row in dataset.iterate())


@pytest.mark.parametrize("method", ["dckd", "abd", "dpkd", "vanilla-kd"])
def test_methods_train_on_masked_signals(signals, tiny_world, tmp_path, method):
    train_student(
        TrainOptions(
            signals=(str(signals.path),),
            student=str(tiny_world.student),
            method=method,
            max_steps=2,
            batch_size=3,
            out=str(tmp_path / "student"),
        )
    )
    lines = (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line).get("loss", 0)) for line in lines)


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo"])
def test_methods_train_on_trajectories_without_a_teacher(data, tiny_world, tmp_path, method):
    train_student(
        TrainOptions(
            data=str(data),
            student=str(tiny_world.student),
            method=method,
            max_steps=2,
            batch_size=3,
            out=str(tmp_path / "student"),
        )
    )
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_signals_of_an_earlier_reader_are_read_as_they_are(signals):
    assert SignalDataset.open(signals.path, check_shards=True).num_positions == sum(
        row.num_scored for row in signals.iterate()
    )
