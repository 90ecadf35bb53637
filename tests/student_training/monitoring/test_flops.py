"""Operations counted by hand."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from student_training.monitoring.throughput import Speed, batch_flops, student_size


def test_operations_of_a_batch_are_those_counted_by_hand():
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    batch = {
        "row_tokens": torch.tensor([5, 3]),
        "labels": torch.zeros(4, dtype=torch.long),
    }
    # Per layer: q and o 8x8, k and v 8x4, three products of the MLP 8x16.
    weights = 2 * (2 * 64 + 2 * 32 + 3 * 128)
    # Pairs of tokens that see each other: 5·6/2 and 3·4/2. Queries with keys and weights with values: 2·2
    # operations per width forward, and twice that backward.
    attention = 2 * 12 * 8 * (15 + 6)
    expected = 6 * weights * 8 + attention + 6 * 32 * 8 * 4
    assert batch_flops(student_size(LlamaForCausalLM(config)), batch) == expected


def test_a_token_meets_its_experts_alone_and_heads_need_not_add_up_to_the_width():
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
        num_local_experts=4,
        num_experts_per_tok=2,
        tie_word_embeddings=False,
    )
    batch = {"row_tokens": torch.tensor([3]), "labels": torch.zeros(2, dtype=torch.long)}
    # q and o 8x12, k and v 8x6, the router 8x4, and two experts of three products 8x16.
    weights = 2 * 96 + 2 * 48 + 32 + 2 * 3 * 128
    expected = 6 * weights * 3 + 12 * 12 * 6 + 6 * 32 * 8 * 2
    assert batch_flops(student_size(MixtralForCausalLM(config)), batch) == expected


def test_frozen_weights_cost_no_gradient_of_their_own():
    config = GPT2Config(
        vocab_size=32, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=1
    )
    model = GPT2LMHeadModel(config).requires_grad_(False)
    batch = {"row_tokens": torch.tensor([3]), "labels": torch.zeros(2, dtype=torch.long)}
    # qkv 8x24, its output 8x8, the MLP 8x32 twice; positions are looked up as tokens are.
    weights = 192 + 64 + 2 * 256
    assert batch_flops(student_size(model), batch) == 4 * weights * 3 + 12 * 8 * 6 + 4 * 32 * 8 * 2


def test_utilisation_is_a_share_of_all_devices_where_known():
    known, unknown = Speed(peak_flops=1e9), Speed()
    for speed in (known, unknown):
        speed.start_fetching()
        speed.end_fetching()
    metrics = known.take(10, 4e6, 2)
    reached = metrics["model_flops_utilisation"] * 2 * 1e9 / 1e12
    assert reached == pytest.approx(metrics["tflops"])
    assert "model_flops_utilisation" not in unknown.take(10, 4e6, 2)
