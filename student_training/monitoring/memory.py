"""How much memory training will take, from the student and the batches themselves, before anything is trained.

Compared with measured peaks on a CPU (tests). What it says of a GPU, under bfloat16 in particular, is unmeasured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.hardware import CARDS
from student_training.batching.batchers import PairSizes
from student_training.head.chunks import default_chunk_size
from student_training.head.lm_head import read_head, split_model
from student_training.head.products import STACKED_CHUNKS
from student_training.head.tail import SCRATCH_BYTES
from student_training.monitoring.cost import TrainingCost

#: Memory of cards too small for stage one, GiB; the others are in data/hardware.py.
_SMALL_CARDS_GIB = (8, 16)

#: Share of a card's memory that the driver and the allocator's gaps leave.
_USABLE = 0.92

#: Bytes of optimizer state per trained parameter. Adafactor's rows and columns are next to nothing.
_STATE_BYTES = {"adamw": 8.0, "adamw-8bit": 2.0, "paged-adamw-8bit": 0.0, "adafactor": 0.1}

#: Length of the shortest of the three probes that activations are extrapolated from, and their distance.
_PROBE_LENGTH = 32


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by what they are for.

    Attributes:
        parameters: the student's weights and buffers.
        gradients: of the trained weights.
        optimizer: its states; those that are paged to the host are left out.
        activations: kept for the backward pass by the layers below the head, for the largest batch; under bfloat16
            the copies of the weights in it, too.
        head: one chunk of logits with its scratch, the head weight's gradient while it is being summed, and under
            bfloat16 a copy of that weight.
        batch: ids, signals and hidden states at response positions.
        accumulates: whether gradients of earlier micro-batches are held during a forward pass.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    batch: int
    accumulates: bool

    @property
    def peak(self) -> int:
        """Bytes at the worst moment of a step: at the head, or at the end of the backward pass."""
        at_head = self.activations + self.head + self.batch + (self.gradients if self.accumulates else 0)
        return self.parameters + self.optimizer + max(at_head, self.gradients + self.batch)

    def fits(self, memory_gib: int) -> bool:
        """Whether a card of this memory is enough."""
        return self.peak <= memory_gib * 2**30 * _USABLE

    def __str__(self) -> str:
        """Lines to print, in GB of 10^9 bytes or MB of 10^6, and by card in GiB, as cards are named."""
        names = ("parameters", "gradients", "optimizer", "activations", "head", "batch", "peak")
        lines = [f"{name:12} {_size(getattr(self, name))}" for name in names]
        for memory_gib in sorted({*_SMALL_CARDS_GIB, *(card.memory_gib for card in CARDS.values())}):
            cards = ", ".join(card.name for card in CARDS.values() if card.memory_gib == memory_gib)
            verdict = "fits" if self.fits(memory_gib) else "does not fit"
            lines.append(f"{memory_gib:3} GiB card: {verdict}{f' ({cards})' if cards else ''}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What a run would train on at once, and the memory that takes.

    Attributes:
        pairs, rows: of the largest batch of the first epoch.
        tokens: of that batch with its padding.
        tokens_without_padding: the same without.
        positions: its response positions.
        memory: what training on it takes.
        cost: what the whole run does.
    """

    pairs: int
    rows: int
    tokens: int
    tokens_without_padding: int
    positions: int
    memory: MemoryPlan
    cost: TrainingCost

    def __str__(self) -> str:
        """Lines for people."""
        return (
            f"largest batch of the first epoch: {self.pairs:,} pairs, {self.rows:,} rows, {self.tokens:,} tokens "
            f"({self.tokens_without_padding:,} without padding), {self.positions:,} response positions\n{self.memory}\n"
            f"{self.cost}"
        )


def plan_memory(
    student: Any,
    batch: Mapping[str, Tensor],
    *,
    optimizer: str,
    head_chunk: int | None,
    accumulates: bool,
    checkpointing: bool = False,
    bf16: bool = False,
    probes: Sequence[Any] = (),
) -> MemoryPlan:
    """Add up what training takes on one device.

    Activations are not guessed from the architecture: three short rows go through the student, what autograd
    keeps of them is counted, and a quadratic in length is fitted to the three counts.

    Args:
        student: the causal language model, with its adapters if any.
        batch: the largest one, from `PairCollator`.
        optimizer: as in `TrainOptions.optimizer`.
        head_chunk: positions that go through the LM head at once; None for the head's own choice.
        accumulates: whether a step has several micro-batches.
        checkpointing: whether activations are recomputed.
        bf16: whether the arithmetic is bfloat16 under autocast.
        probes: where the student has no weights (meta device), the same with one layer and with two, which are asked
            in its place; further layers are taken to keep as much as the second.
    """
    parameters = {id(value): value for value in (*student.parameters(), *student.buffers())}.values()
    trained = [value for value in student.parameters() if value.requires_grad]
    head = read_head(student)
    vocab_size, width = head.weight.shape
    num_rows, length = batch["input_ids"].shape
    num_positions = len(batch["labels"])
    chunk = min(head_chunk or default_chunk_size(vocab_size), num_positions)
    logits = chunk * vocab_size * 4
    if bf16 and torch.cuda.is_available():
        # Gradients of several chunks in bfloat16.
        work = min(STACKED_CHUNKS * chunk, num_positions) * vocab_size * 2
    else:
        work = min(SCRATCH_BYTES["other" if torch.cuda.is_available() else "cpu"], logits)
    head_gradient = head.weight.numel() * 4 if head.weight.requires_grad else 0
    rounded_weight = head.weight.numel() * 2 if bf16 and head.weight.dtype is torch.float32 else 0
    hidden = 2 * num_positions * width * 4 + num_rows * length * width * 4
    return MemoryPlan(
        parameters=sum(map(_bytes, parameters)),
        gradients=sum(value.numel() * 4 for value in trained),
        optimizer=int(sum(value.numel() for value in trained) * _STATE_BYTES[optimizer]),
        activations=_activations(
            student,
            _keeping(student, probes, bf16=bf16, packed="position_ids" in batch),
            num_rows,
            length,
            checkpointing=checkpointing,
        ),
        head=logits + work + head_gradient + rounded_weight,
        batch=sum(map(_bytes, batch.values())) + hidden,
        accumulates=accumulates,
    )


def largest_batch(batches: Iterable[Sequence[int]], sizes: PairSizes, *, packed: bool) -> list[int]:
    """The batch with the most tokens, padding among them.

    Args:
        batches: indices of pairs, as training visits them.
        sizes: of all pairs.
        packed: whether the rows of a batch are concatenated.
    """
    return max(map(list, batches), key=lambda batch: sizes.of_batch(np.array(batch, np.int64), packed=packed))


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:8.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:8.2f} MB"


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _keeping(student: Any, probes: Sequence[Any], *, bf16: bool, packed: bool) -> Callable[[int], float]:
    """Bytes that autograd keeps of one row of a length."""
    if not probes:
        return lambda length: _kept(student, length, bf16=bf16, packed=packed)
    further = student.config.get_text_config().num_hidden_layers - 1

    def kept(length: int) -> float:
        one, two = (_kept(probe, length, bf16=bf16, packed=packed) for probe in probes)
        return one + further * (two - one)

    return kept


def _activations(
    student: Any, kept: Callable[[int], float], num_rows: int, length: int, *, checkpointing: bool
) -> int:
    """Bytes that autograd keeps of `num_rows` rows of this length, or of packed rows that fill them, extrapolated."""
    step = _PROBE_LENGTH
    first, second, third = (kept(factor * step) for factor in (1, 2, 3))
    square = max(0.0, (third - 2 * second + first) / (2 * step**2))
    linear = (second - first) / step - 3 * step * square
    # Whatever the length: copies of the weights in bfloat16, which all rows share.
    fixed = max(0.0, first - linear * step - square * step**2)
    per_row = linear * length + square * length**2
    if checkpointing:
        config = student.config.get_text_config()
        # Kept are the layers' inputs; one layer at a time is computed again.
        per_row = (
            config.num_hidden_layers * length * config.hidden_size * 4 + per_row / config.num_hidden_layers
        )
    return int(fixed + num_rows * per_row)


def _kept(student: Any, length: int, *, bf16: bool, packed: bool) -> int:
    """Bytes that autograd keeps for the backward pass of one row through the layers below the head.

    Packed rows share a mask over the whole sequence, which a single row does not have: two rows are measured instead.
    """
    backbone, _ = split_model(student)
    weights = {value.untyped_storage().data_ptr() for value in student.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = next(student.parameters()).device
    input_ids = torch.ones(1, length, dtype=torch.long, device=device)
    was_training = student.training
    student.train()
    with (
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        if packed:
            positions = torch.arange(length, device=device)[None] % (length // 2)
            hidden = backbone(input_ids=input_ids, position_ids=positions)
        else:
            hidden = backbone(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    student.train(was_training)
    del hidden
    return sum(kept.values())
