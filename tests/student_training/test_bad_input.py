"""Inputs that cannot be trained on: one clear error each, and nothing written."""

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from data.errors import ConfigurationError, DataError, ShardError, TrainingError
from student_training.options import TrainOptions


def copied(source, target):
    shutil.copytree(source, target)
    return target


def swapped_tokenizer(scored, folder):
    """The student with two tokens' ids exchanged."""
    student = copied(scored.student, folder / "student")
    tokenizer = json.loads((student / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["w3"], vocabulary["w4"] = vocabulary["w4"], vocabulary["w3"]
    (student / "tokenizer.json").write_text(json.dumps(tokenizer))
    return {"student": str(student)}


def no_model(scored, folder):
    (folder / "student").mkdir()
    return {"student": str(folder / "student")}


def torn_weights(scored, folder):
    student = copied(scored.student, folder / "student")
    content = (student / "model.safetensors").read_bytes()
    (student / "model.safetensors").write_bytes(content[: len(content) // 2])
    return {"student": str(student)}


def no_head(scored, folder):
    """What a reward model's or an embedding model's checkpoint looks like."""
    student = copied(scored.student, folder / "student")
    weights = load_file(student / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, student / "model.safetensors", metadata={"format": "pt"})
    return {"student": str(student)}


def few_embeddings(scored, folder):
    """Its tokenizer was given tokens, the model no embeddings for them."""
    student = copied(scored.student, folder / "student")
    model = AutoModelForCausalLM.from_pretrained(student)
    model.resize_token_embeddings(60)
    model.save_pretrained(student)
    return {"student": str(student)}


def no_tokenizer(scored, folder):
    student = copied(scored.student, folder / "student")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (student / file).unlink()
    return {"student": str(student)}


def broken_tokenizer(scored, folder):
    student = copied(scored.student, folder / "student")
    (student / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    return {"student": str(student)}


def damaged_shard(scored, folder):
    signals = copied(scored.full, folder / "signals")
    shard = next(signals.glob("shard-*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    return {"signals": (str(signals),)}


def changed(**changes):
    def prepare(scored, folder):
        return {
            name: (str(getattr(scored, value[1:])),)
            if isinstance(value, str) and value.startswith("@")
            else value
            for name, value in changes.items()
        }

    return prepare


def on_pairs(**changes):
    return lambda scored, folder: {"data": str(scored.pairs), **changes}


CASES = {
    "another tokenizer": ("dckd", swapped_tokenizer, DataError, "'w3' is 9 and 10"),
    "not a model": ("dckd", no_model, ConfigurationError, "is not a model folder: it has no config.json"),
    "torn weights": ("dckd", torn_weights, ConfigurationError, "does not load as a causal language model"),
    "no head": ("dckd", no_head, ConfigurationError, "lacks 1 of its weights, the first lm_head.weight"),
    "few embeddings": ("dckd", few_embeddings, DataError, "student has embeddings for 0 to 59; give it more"),
    "few embeddings for data": (
        "sft",
        lambda scored, folder: {**few_embeddings(scored, folder), "data": str(scored.pairs)},
        DataError,
        "student has embeddings for 0 to 59; give it more",
    ),
    "no tokenizer": (
        "dckd",
        no_tokenizer,
        ConfigurationError,
        "student has no tokenizer; put its files beside",
    ),
    "broken tokenizer": (
        "dckd",
        broken_tokenizer,
        ConfigurationError,
        "student cannot be loaded ('added_tokens')",
    ),
    "damaged shard": ("dckd", damaged_shard, ShardError, "damaged: SHA-256"),
    "no student rows": (
        "adpa",
        changed(signals="@pairs_only"),
        DataError,
        "method adpa needs student responses",
    ),
    "no reference": (
        "adpa",
        changed(signals="@plain"),
        DataError,
        "needs advantages, but no reference was scored",
    ),
    "unknown method": (
        "dkcd",
        changed(),
        ConfigurationError,
        "'dkcd' is not one of sft, dpo, simpo, vanilla-kd",
    ),
    "stray setting": (
        "dckd",
        changed(gamma=1.0),
        ConfigurationError,
        "--gamma: method dckd does not read it",
    ),
    "data for a teacher method": (
        "dckd",
        on_pairs(),
        ConfigurationError,
        "method dckd learns from a teacher",
    ),
    "everything too long": ("sft", on_pairs(max_length=3), DataError, "no row is left: 10 rows, 0 kept"),
    "no rollouts": ("dppo-token", changed(rollouts=()), ConfigurationError, "give --rollouts"),
    "idle rollouts": ("dckd", changed(rollouts="@rollouts"), ConfigurationError, "does not read them"),
    "no bitsandbytes": ("dckd", changed(optimizer="adamw-8bit"), ConfigurationError, "needs a CUDA device"),
    "quantised": ("dckd", changed(quantize="nf4", lora_rank=2), ConfigurationError, "needs a CUDA device"),
    "no such layer": (
        "dckd",
        changed(lora_rank=2, lora_targets=("q",)),
        ConfigurationError,
        "no adapter fits",
    ),
    "adapter on the head": (
        "dckd",
        changed(lora_rank=2, lora_targets=("q_proj", "lm_head")),
        TrainingError,
        "its output head carries an adapter",
    ),
    "a pair beyond the budget": (
        "dckd",
        changed(max_tokens_per_batch=20),
        ConfigurationError,
        "--max-tokens-per-batch: 20 tokens do not hold pair ",
    ),
    "evaluation without rollouts": (
        "dppo-token",
        changed(eval_signals="@full"),
        ConfigurationError,
        "hold pairs out of --signals with --eval-fraction",
    ),
    "nothing held out": (
        "dckd",
        changed(eval_fraction=1e-6),
        ConfigurationError,
        "leaves none to evaluate on",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_unusable_input_gives_one_error_and_leaves_nothing(name, scored, tmp_path, monkeypatch):
    method, prepare, error, message = CASES[name]
    if error is ConfigurationError and "CUDA" in message:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "run"
    with pytest.raises(error, match=re.escape(message)):
        scored.train(method, out, **prepare(scored, tmp_path))
    assert not out.exists()


def test_a_folder_of_other_things_is_left_alone(scored, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match=r"is not empty and holds no run\.toml"):
        scored.train("dckd", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_output_folder_that_cannot_be_made_is_one_error(scored, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "disk")
    with pytest.raises(ShardError, match=r"run: no folder can be made there: .*; choose another place"):
        scored.train("dckd", tmp_path / "link" / "run")


OPTIONS = {
    "both": ({"signals": ("s",), "data": "d"}, "exclude each other"),
    "neither": ({}, "nothing to train on"),
    "weights": ({"signals": ("s",), "signal_weight": (1.0, 2.0)}, "2 weights for 1 --signals"),
    "no epoch": ({"signals": ("s",), "epochs": 0.0}, "--epochs: 0 passes train nothing"),
    "no weight": ({"signals": ("s",), "signal_weight": (0.0,)}, "must be above 0"),
    "rollouts": ({"signals": ("s",), "rollouts": ("a", "b")}, "2 folders for 1 --signals"),
    "best": ({"signals": ("s",), "keep_best": True}, "give --eval-fraction or --eval-signals"),
    "two ways to evaluate": (
        {"signals": ("s",), "eval_signals": ("e",), "eval_fraction": 0.1},
        "replaces --eval-fraction",
    ),
    "packed and grouped": (
        {"signals": ("s",), "packing": True, "group_by_length": True},
        "--packing leaves none: give one of the two",
    ),
    "rows of signals": (
        {"signals": ("s",), "template_arg": ("a=1",)},
        "--template-arg is about rows of --data",
    ),
    "no template argument": ({"data": "d", "template_arg": ("a",)}, "--template-arg: 'a' is not KEY=VALUE"),
    "adapters": ({"signals": ("s",), "quantize": "nf4"}, "give --lora-rank too"),
    "logger": (
        {"signals": ("s",), "report_to": ("mlflow",)},
        "--report-to: 'mlflow' is not one of tensorboard",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_contradict_each_other_are_refused(name):
    changes, message = OPTIONS[name]
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        TrainOptions(method="dckd", student="student", out="out", **changes)
