"""Training on signals that were made for another tokenizer."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data.errors import DataError
from student_training.methods import METHODS
from student_training.options import TrainOptions
from student_training.run import train_student
from tests.data.translation.test_dataset import CHATML, OTHER, save_source, train_tokenizer

#: Methods that learn from pairs; adpa and dppo learn from sampled answers.
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
