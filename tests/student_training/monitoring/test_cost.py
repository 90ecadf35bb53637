"""The price of a training run: operations counted by hand, hours, and a plan without weights."""

import shutil

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from data.hardware import CARDS
from student_training.batching.batchers import PairSizes
from student_training.model.layout import lay_out, with_layers
from student_training.model.lora import add_lora
from student_training.monitoring.cost import TrainingCost, Work, count_work, estimate_cost
from student_training.monitoring.throughput import student_size
from student_training.run import plan_training

CONFIG = LlamaConfig(
    vocab_size=10,
    hidden_size=4,
    intermediate_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=2,
    tie_word_embeddings=False,
)
#: Of both layers: q and o 16 each, k and v 8 each, the three of the MLP 24 each.
BODY, HEAD = 2 * (16 + 16 + 8 + 8 + 72), 40
#: 2 layers of 2 heads of 2.
WIDTH = 8
WORK = Work(tokens=100, attended=1000, positions=30)


def test_work_counts_padding_rows_and_the_pairs_that_see_each_other():
    # Two pairs of two rows, padded to 6 tokens, then one pair of two rows of 4.
    sizes = PairSizes(np.array([2, 2, 2]), np.array([6, 3, 4]), np.array([11, 6, 8]))
    padded = count_work([[0, 1], [2], []], sizes, 2.0, packed=False)
    assert padded == Work(tokens=24 + 8, attended=24 * 6 / 2 + 8 * 4 / 2, positions=6)
    packed = count_work([[0, 1], [2]], sizes, 2.0, packed=True)
    assert packed.tokens == 11 + 6 + 8


def test_a_whole_student_costs_six_operations_a_weight_and_a_first_pass_two():
    size = student_size(lay_out(CONFIG))
    cost = estimate_cost(size, WORK, steps=5, first_pass=WORK, checkpointing=False, dtype="bfloat16")
    step = 6 * BODY * 100 + 6 * HEAD * 30 + 12 * WIDTH * 1000
    assert cost.flops == step + step / 3
    assert (cost.steps, cost.tokens) == (5, 100)


def test_recomputing_costs_a_forward_pass_below_the_head():
    size = student_size(lay_out(CONFIG))
    costs = [
        estimate_cost(size, WORK, steps=1, first_pass=None, checkpointing=recomputed, dtype="bfloat16").flops
        for recomputed in (False, True)
    ]
    assert costs[1] - costs[0] == 2 * BODY * 100 + 4 * WIDTH * 1000


def test_frozen_weights_cost_no_gradient_of_their_own():
    adapted = student_size(add_lora(lay_out(CONFIG), 1))
    # Rank 1: an adapter's weights are as many as its layer has inputs and outputs.
    adapters = 2 * (8 + 6 + 6 + 8 + 10 + 10 + 10)
    assert (
        adapted.training_flops(tokens=100, attended=0, positions=30)
        == (4 * BODY + 6 * adapters) * 100 + 4 * HEAD * 30
    )


def test_hours_are_operations_over_forty_percent_of_the_data_sheet():
    cost = TrainingCost(steps=1, tokens=1, flops=3600 * 0.4 * 121e12, dtype="bfloat16")
    assert cost.hours(CARDS["l4"]) == pytest.approx(1)
    assert "l4 60.0 minutes" in str(cost)
    slow = TrainingCost(steps=1, tokens=1, flops=3600 * 0.4 * 30.3e12, dtype="float32")
    assert slow.hours(CARDS["l4"]) == pytest.approx(1)


def test_a_student_without_weights_has_the_parameters_of_one_with_them():
    counts = [
        sum(value.numel() for value in model.parameters())
        for model in (lay_out(CONFIG), LlamaForCausalLM(CONFIG))
    ]
    assert counts[0] == counts[1]
    assert lay_out(CONFIG).device.type == "meta"
    shallow = with_layers(CONFIG, 1)
    assert len(shallow.model.layers) == 1
    # Never what was in the memory before: that may be NaN, at which the check of the head would stop a plan.
    assert not any(weight.any() for weight in shallow.parameters())
    assert any(weight.any() for weight in with_layers(CONFIG, 1, drawn=True).parameters())
    assert CONFIG.num_hidden_layers == 2


@pytest.mark.slow
def test_a_plan_needs_no_weights(scored, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(scored.student, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    with_weights = plan_training(scored.options("dckd", tmp_path / "run", dry_run=True))
    without = plan_training(scored.options("dckd", tmp_path / "run", dry_run=True, student=str(bare)))
    assert without == with_weights
    # 2 steps of 4 pairs of 2 rows.
    assert without.cost.steps == 2
