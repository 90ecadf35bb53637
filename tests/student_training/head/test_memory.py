"""What the fused objective holds at once on a GPU, counted on tensors without memory."""

import contextlib
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from student_training.head import chunk as head_chunk
from student_training.head.fused import fused_objective, sparse_logprobs
from student_training.head.lm_head import LMHead
from student_training.head.products import STACKED_CHUNKS, HeadProducts


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at once, beyond those given."""

    def __init__(self, *known):
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key, size):
        self._known.discard(key)
        self.now -= size


class TailInTwoKernels:
    """Replaces the compiled functions, which allocate nothing of a chunk's size but their output."""

    def __init__(self, logits):
        self.shift, self.total, self.weighted = (logits.new_empty(len(logits)) for _ in range(3))

    def spread(self, factor, soft_cap, out):
        pass


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Products in bfloat16 with float32 results, and compiled tails, on the device without memory."""
    initialize = HeadProducts.__init__

    def mixed(self, *arguments):
        initialize(self, *arguments)
        self.mixed, self.upcast = True, False
        self.gradient_dtype, self.num_stacked_chunks = torch.bfloat16, STACKED_CHUNKS

    monkeypatch.setattr(HeadProducts, "__init__", mixed)
    monkeypatch.setattr(head_chunk, "tail_of", TailInTwoKernels)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no such device


def loss_of(student):
    return student.tail - student.token - student.support.sum(1)


USES = {
    "fused": lambda *arguments: fused_objective(*arguments, lambda rows, student: loss_of(student))[0],
    "sparse": lambda *arguments: loss_of(sparse_logprobs(*arguments)).sum(),
}


@pytest.mark.parametrize("use", USES)
def test_8192_positions_of_a_large_vocabulary_take_less_than_3_gb_on_a_gpu(use, as_on_a_gpu):
    num_positions, width, vocab_size, support = 8192, 4096, 128_256, 50
    options = {"device": "meta", "dtype": torch.bfloat16, "requires_grad": True}
    hidden, weight = torch.empty(num_positions, width, **options), torch.empty(vocab_size, width, **options)
    labels = torch.empty(num_positions, dtype=torch.int64, device="meta")
    support_ids = torch.empty(num_positions, support, dtype=torch.int64, device="meta")
    support_mask = torch.empty(num_positions, support, dtype=torch.bool, device="meta")
    with LiveBytes(hidden, weight, labels, support_ids, support_mask) as live:
        USES[use](hidden, LMHead(weight=weight), labels, support_ids, support_mask).backward()
    assert weight.grad is not None
    assert hidden.grad is not None
    # What is left is the two gradients, and no second copy of the larger one.
    assert live.now < 1.01 * (weight.nbytes + hidden.nbytes)
    # The float32 sum of the weight's gradient alone is 2.1 GB; cuBLAS wants 34 MB for itself.
    assert 2.1e9 < live.peak < 2.95e9
