"""Rows packed into one sequence train as padded ones do, or are refused."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    JambaConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
)

from data.errors import ConfigurationError
from data.signals.dataset import SignalDataset
from data.signals.rollouts import RolloutDataset
from student_training.batching.collator import PairCollator, PairDataset
from student_training.batching.packing import check_packing, use_varlen_attention
from student_training.inputs.inputs import behavior_logprobs
from student_training.methods import build_method, find_method
from student_training.model.lora import add_lora
from student_training.student import StudentWithObjective

#: Every architecture at this size, under the names that its configuration has for it.
SMALL = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def model(config, implementation=None):
    torch.manual_seed(0)
    student = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    # Attention of a fresh model is nearly flat: louder weights, so that a row that sees another one shows.
    with torch.no_grad():
        for value in student.parameters():
            value.mul_(3)
    return student


PACKABLE = {
    "sdpa": lambda: model(LlamaConfig(**SMALL, intermediate_size=64, num_key_value_heads=2), "sdpa"),
    "eager": lambda: model(LlamaConfig(**SMALL, intermediate_size=64), "eager"),
    # A window that is shorter than the rows.
    "sliding window": lambda: model(
        MistralConfig(**SMALL, intermediate_size=64, num_key_value_heads=2, sliding_window=5), "sdpa"
    ),
    "learned positions": lambda: model(
        GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
        "sdpa",
    ),
}
METHODS = {"dckd": {}, "adpa": {}, "dpo": {}, "dppo-sequence": {"clip": "1"}}


def loss_and_gradient(student, method, collator, pairs):
    student.zero_grad()
    module = StudentWithObjective(student, method, head_chunk=16)
    loss = module(**collator(pairs))["loss"]
    loss.backward()
    return loss.item(), [value.grad.clone() for value in student.parameters()]


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize("name", METHODS)
def test_packing_changes_neither_loss_nor_gradient(kind, name, scored):
    method, _ = build_method(find_method(name), METHODS[name])
    student = PACKABLE[kind]()
    check_packing(student)
    source = SignalDataset.open(scored.full)
    dataset = PairDataset(source, method.needs.roles)
    known = {"behavior": behavior_logprobs(source, RolloutDataset.open(scored.rollouts))}
    pairs = [dataset[index] for index in range(6)]
    results = [
        loss_and_gradient(
            student,
            method,
            PairCollator(method.needs, vocab_size=128, pad_token_id=0, packed=packed, **known),
            pairs,
        )
        for packed in (False, True)
    ]
    (padded, padded_gradients), (packed, packed_gradients) = results
    assert packed == pytest.approx(padded, rel=1e-5)
    for one, other in zip(padded_gradients, packed_gradients, strict=True):
        # float32 sums in another order, over the largest entry of the tensor.
        assert (one - other).abs().max() <= 1e-5 * one.abs().max() + 1e-8


REFUSED = {
    "positions from a mask": (
        OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32),
        "does not keep the rows",
    ),
    "a state along the sequence": (
        JambaConfig(
            **SMALL, intermediate_size=64, num_key_value_heads=2, mamba_dt_rank=4, use_mamba_kernels=False
        ),
        "does not keep the rows",
    ),
    "attention of its own": (FalconConfig(**SMALL), "does not keep the rows"),
    "no positions": (BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4), "no position ids"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_student_that_would_mix_packed_rows_is_refused(name):
    config, message = REFUSED[name]
    student = model(config)
    modes = [module.training for module in student.modules()]
    with pytest.raises(ConfigurationError, match=f"--packing: .*{message}"):
        check_packing(student)
    assert [module.training for module in student.modules()] == modes


def test_adapters_may_be_packed():
    check_packing(add_lora(PACKABLE["sdpa"](), 2))


def test_attention_stays_what_it_is_without_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    student = PACKABLE["sdpa"]()
    assert not use_varlen_attention(student, bf16=True)
    assert student.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["dckd", "dpo"])
def test_a_batch_without_pairs_adds_nothing_and_reaches_every_parameter(packed, name, scored):
    method, _ = build_method(find_method(name), {})
    student = PACKABLE["sdpa"]()
    collator = PairCollator(method.needs, vocab_size=128, pad_token_id=0, packed=packed)
    loss, gradients = loss_and_gradient(student, method, collator, [])
    assert loss == 0
    # Wrappers that add gradients up between processes wait for every one of them.
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)
