"""Training on signals that were made for another tokenizer."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.errors import DataError
from data.preferences.messages import PreferenceRow
from data.signals.dataset import TOKENIZER_FOLDER, SignalDataset
from data.signals.manifest import Manifest, describe_files, write_manifest
from data.signals.rollouts import Rollout, RolloutDataset, write_rollout_shard
from data.signals.schema import ResponseIds
from data.signals.shards import write_signal_shard
from data.tokens.encoder import PairEncoder
from data.translation.dataset import translate_dataset
from student_training.methods import METHODS
from student_training.options import TrainOptions
from student_training.run import train_student
from tests.data.translation.test_dataset import CHATML, OTHER, TEXTS, save_source, score, train_tokenizer

#: Methods that learn from pairs; for adpa and dppo, which learn from sampled answers, see below.
ON_PAIRS = ("sft", "vanilla-kd", "dckd", "abd", "dpkd")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    tokenizer = train_tokenizer(330, "<|im_end|>", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML)
    return save_source(tmp_path_factory.mktemp("signals") / "source", tokenizer)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    tokenizer = train_tokenizer(290, "<end>", ["<end>"], OTHER)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def train(source, student, tmp_path):
    def run(method, **changes):
        chosen = {"signals": (str(source.path),), "student": str(student), "out": str(tmp_path / method)}
        chosen |= {"max_steps": 2, "batch_size": 4, "logging_steps": 1, "learning_rate": 1e-3}
        train_student(TrainOptions(method=method, **(chosen | changes)))
        lines = (tmp_path / method / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return run


def test_training_on_another_tokenizers_signals_is_refused_with_the_remedy(train):
    with pytest.raises(DataError, match="--translate"):
        train("dckd")


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "dckd" else pytest.mark.slow) for name in ON_PAIRS]
)
def test_training_translates_signals_on_the_fly(train, method):
    lines = [line for line in train(method, translate=True) if "loss" in line]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert method in METHODS


@pytest.mark.slow
def test_training_finds_the_translation_of_an_earlier_run_in_the_store(train, tmp_path, caplog):
    train("dckd", translate=True)
    shutil.rmtree(tmp_path / "dckd")
    with caplog.at_level("INFO"):
        train("dckd", translate=True)
    assert "shards translated" not in caplog.text


def with_samples(folder, tokenizer, *, samples_of):
    """A dataset with scores of sampled answers, and rollouts of the same answers in a student's ids.

    Args:
        folder: where to save both.
        tokenizer: of the dataset.
        samples_of: the student's tokenizer, which the rollouts are in.
    """
    encoders = [PairEncoder(made, store_conversations=True) for made in (tokenizer, samples_of)]
    rng = np.random.default_rng(3)
    rows, rollouts = [], []
    for number, (prompt, chosen, rejected) in enumerate(TEXTS):
        pair = PreferenceRow(f"p{number}", prompt, chosen, rejected, "")
        sample = PreferenceRow(f"p{number}", prompt, chosen[::-1] + rejected, None, "")
        mine, theirs = (encoder.encode(sample).chosen[0] for encoder in encoders)
        rows += [score(row, tokenizer, rng) for row in encoders[0].encode(pair).rows()]
        given = ResponseIds(
            f"p{number}", "student", 0, mine.prompt_ids, mine.ids, conversation=mine.conversation
        )
        rows.append(score(given, tokenizer, rng))
        logprobs = np.full(len(theirs.ids), -1.0, np.float32)
        rollouts.append(Rollout(f"p{number}", 0, theirs.prompt_ids, theirs.ids, "", logprobs, "stop"))
    folder.mkdir()
    written = save_dataset(
        folder / "rollouts",
        RolloutDataset,
        samples_of,
        {"tokenizer": encoders[1].tokenizer_hash, "student": None},
        lambda path, name: write_rollout_shard(path, rollouts, fingerprint=name),
        version=1,
    )
    request = {"tokenizer": encoders[0].tokenizer_hash, "precision": "exact", "teacher": None}
    if samples_of is not tokenizer:
        request["rollouts_tokenizer"] = encoders[1].tokenizer_hash
    signals = save_dataset(
        folder / "signals",
        SignalDataset,
        tokenizer,
        {**request, "rollouts": written.manifest.fingerprint},
        lambda path, name: write_signal_shard(
            path, rows, fingerprint=name, precision="exact", format_version=2
        ),
        version=2,
    )
    return signals, written


def save_dataset(folder, kind, tokenizer, request, write, *, version):
    folder.mkdir()
    tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    manifest = Manifest(kind=kind.kind, request=request, shards=(), format_version=version)
    entry = write(folder / "shard-00000.parquet", manifest.fingerprint)
    files = describe_files(folder, TOKENIZER_FOLDER)
    write_manifest(folder, dataclasses.replace(manifest, shards=(entry,), files=files))
    return kind.open(folder)


def disguised(tokenizer, order):
    """A tokenizer with the same pieces under other ids."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = {piece: int(order[i]) for piece, i in state["model"]["vocab"].items()}
    for entry in state["added_tokens"]:
        entry["id"] = int(order[entry["id"]])
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token=tokenizer.eos_token
    )
    made.chat_template = tokenizer.chat_template
    return made


def test_answers_of_a_student_with_the_teachers_tokenizer_are_left_out_and_counted(student, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(student)
    signals, rollouts = with_samples(tmp_path / "made", tokenizer, samples_of=tokenizer)
    train_tokenizer(257, "<end>", ["<end>"], OTHER).save_pretrained(tmp_path / "bytewise")
    translate = functools.partial(
        translate_dataset,
        signals,
        tmp_path / "bytewise",
        load_tokenizer=AutoTokenizer.from_pretrained,
        out=str(tmp_path / "translated"),
    )
    with pytest.raises(DataError, match="leave --rollouts out"):
        translate(rollouts=rollouts.path)
    result = translate()
    assert result.dropped == {"sampled by a student with the teacher's tokenizer": len(TEXTS)}
    rows = list(SignalDataset.open(result.path).iterate())
    assert [row.role for row in rows] == ["chosen", "rejected"] * len(TEXTS)


@pytest.mark.parametrize("method", ["adpa", "dppo-token", "dckd", "dpkd"])
def test_a_tokenizer_in_disguise_gives_the_same_losses_and_weights(student, tmp_path, method):
    # The teacher's ids are permuted and the numbers are the same: translated back, nothing may differ by a bit.
    tokenizer = AutoTokenizer.from_pretrained(student)
    order = np.random.default_rng(7).permutation(len(tokenizer))
    plain, rollouts = with_samples(tmp_path / "plain", tokenizer, samples_of=tokenizer)
    hidden, same = with_samples(tmp_path / "hidden", disguised(tokenizer, order), samples_of=tokenizer)
    # Drawn for one vocabulary each; what the teacher thinks has to be the same in both.
    hidden = renamed(hidden, plain, order)
    result = translate_dataset(
        hidden,
        student,
        load_tokenizer=AutoTokenizer.from_pretrained,
        out=str(tmp_path / "translated"),
        rollouts=same.path,
    )
    assert (result.aligned_share, result.placed_mass) == (1.0, pytest.approx(1.0))
    more = {"rollouts": (str(rollouts.path),)} if method.startswith("dppo") else {}
    runs = []
    for signals in (plain.path, result.path):
        out = tmp_path / f"run-{signals.name}"
        options = TrainOptions(
            method=method, signals=(str(signals),), student=str(student), out=str(out), max_steps=3,
            batch_size=4, logging_steps=1, learning_rate=1e-2, **more,
        )  # fmt: skip
        train_student(options)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses = [(line["loss"], line["grad_norm"]) for line in lines if "loss" in line]
        runs.append((losses, load_file(out / "model.safetensors")))
    (losses, weights), (others, other_weights) = runs
    assert len(losses) == 3
    assert losses == others
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def onto_single_bytes(student, tmp_path):
    """(the signals, the rollouts, the translated signals, folder) of a student whose tokens are single bytes."""
    # Its model is not that tokenizer's; signals are looked at before it is loaded.
    folder = shutil.copytree(student, tmp_path / "bytewise")
    bytewise = train_tokenizer(257, "<end>", ["<end>"], OTHER)
    bytewise.save_pretrained(folder)
    teacher = AutoTokenizer.from_pretrained(student)
    signals, rollouts = with_samples(tmp_path / "made", teacher, samples_of=bytewise)
    result = translate_dataset(
        signals,
        folder,
        load_tokenizer=AutoTokenizer.from_pretrained,
        out=str(tmp_path / "translated"),
        rollouts=rollouts.path,
    )
    return signals, rollouts, result, folder


def test_a_method_on_single_tokens_refuses_log_ratios_of_spans(student, tmp_path):
    _, rollouts, result, folder = onto_single_bytes(student, tmp_path)
    options = TrainOptions(
        method="dppo-token", signals=(str(result.path),), student=str(folder),
        out=str(tmp_path / "run"), rollouts=(str(rollouts.path),),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"have none of its own at .*take dppo-sequence"):
        train_student(options)


def renamed(hidden, plain, order):
    """The rows of one dataset in the other's ids, in the other's place."""
    rows = []
    for row in plain.iterate():
        ids = {name: order[getattr(row, name)].astype(np.int32) for name in ("prompt_ids", "response_ids")}
        rows.append(dataclasses.replace(row, **ids, topk_ids=order[row.topk_ids].astype(np.int32)))
    name = hidden.manifest.fingerprint
    path = hidden.path / "shard-00000.parquet"
    entry = write_signal_shard(path, rows, fingerprint=name, precision="exact", format_version=2)
    write_manifest(hidden.path, dataclasses.replace(hidden.manifest, shards=(entry,)))
    return SignalDataset.open(hidden.path)


def test_answers_whose_tokens_are_split_keep_the_sum_of_each_token(student, tmp_path):
    # A student without merges has a token for each byte: every token of the teacher is split.
    signals, _, result, _ = onto_single_bytes(student, tmp_path)
    teacher = AutoTokenizer.from_pretrained(student)
    num_split = 0
    for old, new in zip(signals.iterate(), SignalDataset.open(result.path).iterate(), strict=True):
        pieces = [len(teacher.decode([token]).encode()) for token in old.response_ids[:-1]]
        if any("\ufffd" in teacher.decode([token]) for token in old.response_ids):
            continue  # a character over several tokens, whose bytes cannot be read from decoded text
        starts = np.concatenate([[0], np.cumsum(pieces)])
        num_split += sum(length > 1 for length in pieces)
        for name in ("teacher_token_logprobs", "reference_token_logprobs"):
            values = getattr(new, name)
            # One teacher token to a span: its own number, not a sum.
            assert values[starts].tolist() == getattr(old, name).tolist()
            assert np.count_nonzero(values) == len(starts)
        assert np.flatnonzero(new.support_sizes).tolist() == starts.tolist()
    assert num_split > 30
