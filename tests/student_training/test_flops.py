"""Operations counted by hand."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from student_training.flops import StepFlops
from student_training.speed import Speed


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
    assert StepFlops(LlamaForCausalLM(config))(batch) == expected


def test_utilisation_is_a_share_of_all_devices_and_left_out_where_their_limit_is_unknown():
    known, unknown = Speed(peak_flops=1e9), Speed()
    for speed in (known, unknown):
        speed.start_fetching()
        speed.end_fetching()
    metrics = known.take(10, 4e6, 2)
    assert metrics["model_flops_utilisation"] * 2 * 1e9 / 1e12 == metrics["tflops"]
    assert "model_flops_utilisation" not in unknown.take(10, 4e6, 2)
