"""The plan against what is really allocated, on the CPU."""

import gc
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from data.errors import ConfigurationError
from data.signals.dataset import SignalDataset
from student_training.batching.batchers import PairSizes
from student_training.batching.collator import PairCollator, PairDataset
from student_training.methods import build_method, find_method
from student_training.model.layout import lay_out, with_layers
from student_training.model.lora import add_lora
from student_training.monitoring.memory import MemoryPlan, _kept, largest_batch, plan_memory
from student_training.run import plan_training, train_student
from student_training.student import StudentWithObjective

pytestmark = pytest.mark.slow


SETTINGS = {
    "vocab_size": 2000,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def student(**changes):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(SETTINGS | changes)))


def measured_peak(module, batches, *, bf16):
    """Bytes allocated at the worst moment of two steps, beyond the parameters that were there before."""
    optimizer = torch.optim.AdamW(value for value in module.parameters() if value.requires_grad)
    # Attention on a CPU has a buffer for each thread: with 64 of them, these small batches would take twice as much.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # What earlier tests have left in cycles must not be given back in between: it would count as memory saved.
    gc.freeze()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for _ in range(2):
            for batch in batches:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                    loss = module(**batch)["loss"]
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    gc.unfreeze()
    torch.set_num_threads(num_threads)
    assert recorded.profiler is not None
    events = recorded.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    allocated = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        allocated += size
        peak = max(peak, allocated)
    return peak


@dataclass(frozen=True)
class Case:
    """What differs from one batch of padded rows through a whole student of 4 layers."""

    student: dict[str, Any] = field(default_factory=dict)
    num_batches: int = 1
    checkpointing: bool = False
    lora_rank: int | None = None
    packed: bool = False
    bf16: bool = False


CASES = {
    "layers": Case({"num_hidden_layers": 6}),
    "vocabulary": Case({"vocab_size": 12_000, "num_hidden_layers": 1}),
    "tied": Case({"vocab_size": 12_000, "num_hidden_layers": 1, "tie_word_embeddings": True}),
    "accumulation": Case(num_batches=2),
    "recomputed": Case({"num_hidden_layers": 6}, checkpointing=True),
    "adapters": Case(lora_rank=4),
    "adapters, recomputed": Case({"num_hidden_layers": 6}, lora_rank=4, checkpointing=True),
    "bfloat16": Case(bf16=True),
    "bfloat16, adapters": Case(lora_rank=4, bf16=True),
    "bfloat16, recomputed": Case({"num_hidden_layers": 6}, checkpointing=True, bf16=True),
    "packed": Case(packed=True),
    "packed, accumulation": Case({"num_hidden_layers": 6}, packed=True, num_batches=2),
    "packed, recomputed": Case({"num_hidden_layers": 6}, packed=True, checkpointing=True),
}


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_within_15_percent_of_the_measured_peak(name, scored):
    case = CASES[name]
    method, _ = build_method(find_method("dckd"), {})
    dataset = PairDataset(SignalDataset.open(scored.full), method.needs.roles)
    pairs = [dataset[index % len(dataset)] for index in range(40)]
    batch = PairCollator(method.needs, vocab_size=2000, pad_token_id=0, packed=case.packed)(pairs)
    model = student(**case.student)
    if case.lora_rank is not None:
        model = add_lora(model, case.lora_rank)
    # Without weights, as a plan is made, and with them.
    configuration = LlamaConfig(**(SETTINGS | case.student))
    laid_out = [lay_out(configuration), with_layers(configuration, 1), with_layers(configuration, 2)]
    if case.lora_rank is not None:
        laid_out = [add_lora(each, case.lora_rank) for each in laid_out]
    plan, planned_with_weights = (
        plan_memory(
            subject,
            batch,
            optimizer="adamw",
            head_chunk=64,
            accumulates=case.num_batches > 1,
            checkpointing=case.checkpointing,
            bf16=case.bf16,
            probes=probes,
        )
        for subject, probes in ((laid_out[0], laid_out[1:]), (model, []))
    )
    if case.checkpointing:
        model.gradient_checkpointing_enable()
    module = StudentWithObjective(model.train(), method, head_chunk=64)
    inputs = sum(value.numel() * value.element_size() for value in batch.values())
    measured = plan.parameters + inputs + measured_peak(module, [batch] * case.num_batches, bf16=case.bf16)

    assert plan.peak == pytest.approx(measured, rel=0.15), plan
    # Buffers, such as rotary frequencies, are a few hundred bytes of one layer's and the whole model's.
    assert plan.peak == pytest.approx(planned_with_weights.peak, rel=0.001)


def test_a_dry_run_prints_the_plan_and_writes_nothing(scored, tmp_path):
    plan = plan_training(scored.options("dckd", tmp_path / "run", dry_run=True))
    # 10 pairs in batches of 4.
    assert (plan.pairs, plan.rows) == (4, 8)
    first, *lines = str(plan).splitlines()
    assert first.startswith("largest batch of the first epoch: 4 pairs, 8 rows, ")
    assert [line.split()[0] for line in lines[:7]] == [
        "parameters", "gradients", "optimizer", "activations", "head", "batch", "peak",
    ]  # fmt: skip
    # Sizes of cards, then two lines on time.
    assert all(" GiB card: fits" in line for line in lines[7:-2])
    assert lines[-2].startswith("2 steps, ")
    assert lines[-1].startswith("on one card: h100-sxm ")
    assert not (tmp_path / "run").exists()


def test_training_refuses_the_options_of_a_dry_run(scored, tmp_path):
    with pytest.raises(ConfigurationError, match="--dry-run: plan_training plans a run"):
        train_student(scored.options("dckd", tmp_path / "run", dry_run=True))


@pytest.mark.parametrize("packed", [False, True])
def test_the_largest_batch_is_the_one_with_the_most_tokens_as_they_are_laid_out(packed):
    # Padded: 4 rows of 9 against 2 of 16; without padding: 22 tokens against 31.
    sizes = PairSizes(np.array([2, 2, 2]), np.array([9, 3, 16]), np.array([17, 5, 31]))
    assert largest_batch([[0, 1], [], [2]], sizes, packed=packed) == ([2] if packed else [0, 1])


def test_what_fits_is_said_for_every_card():
    plan = MemoryPlan(int(4e9), int(4e9), int(8e9), int(3e9), int(1e9), 0, accumulates=False)
    assert plan.peak == 16e9
    lines = str(plan).splitlines()
    assert lines[7:10] == [
        "  8 GiB card: does not fit",
        " 16 GiB card: does not fit",
        " 24 GiB card: fits (a10, a10g, l4, rtx-3090, rtx-4090)",
    ]
    assert (plan.fits(16), plan.fits(24)) == (False, True)


def test_copies_of_the_weights_are_counted_once_and_not_for_every_token():
    """Under bfloat16 autograd keeps them beside the activations; weights large, rows much longer than the probes."""
    model = student(hidden_size=256, intermediate_size=1024, num_hidden_layers=2)
    long = {
        "input_ids": torch.zeros(1, 512, dtype=torch.int64),
        "labels": torch.zeros(10, dtype=torch.int64),
    }
    plan = plan_memory(model, long, optimizer="adamw", head_chunk=None, accumulates=False, bf16=True)
    measured = _kept(model, 512, bf16=True, packed=False)
    copies = sum(2 * p.numel() for name, p in model.named_parameters() if "layers" in name and p.dim() > 1)
    assert copies > 0.1 * measured, "this student shows nothing"
    assert plan.activations == pytest.approx(measured, rel=0.15)
