"""A batch that is sent between processes as one piece of memory.

Measured on a CPU (docs/lab_notes/training.md); with a GPU it is unmeasured.
"""

import math
from collections.abc import Mapping
from typing import Self

import torch

#: Batches that a loader process may be ahead by: long enough to decode a block of storage meanwhile.
BATCHES_AHEAD = 4

#: Tensors begin at multiples of this in the joint memory; at least the size of any number in them.
_ALIGNMENT_BYTES = 64

#: Name, dtype and shape of a tensor, and where it begins.
_Place = tuple[str, torch.dtype, tuple[int, ...], int]


class Batch(dict[str, torch.Tensor]):
    """Tensors on the CPU by name.

    torch sends every tensor from a loader process to the training process by a separate connection, which costs the
    training process more than reading the batch itself would. Pickled, a batch is one tensor.
    """

    def __reduce__(self) -> tuple:
        if torch.utils.data.get_worker_info() is not None:
            # By the name of its memory: an open file would be handed over by a thread of the loader process, which
            # has to wait until the next batch leaves it the interpreter.
            torch.multiprocessing.set_sharing_strategy("file_system")
        return _unpack, _pack(self)

    def __copy__(self) -> Self:
        # Pinning starts from a copy, which must not go through the pickled form.
        return type(self)(self)


def _pack(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, list[_Place]]:
    """Copy all tensors into one, uint8; and where each is in it."""
    places: list[_Place] = []
    end = 0
    for name, tensor in batch.items():
        places.append((name, tensor.dtype, tuple(tensor.shape), end))
        end += math.ceil(tensor.nbytes / _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    memory = torch.empty(end, dtype=torch.uint8)
    for place in places:
        _at(memory, place).copy_(batch[place[0]])
    return memory, places


def _unpack(memory: torch.Tensor, places: list[_Place]) -> Batch:
    """The tensors as views of the joint one."""
    return Batch({place[0]: _at(memory, place) for place in places})


def _at(memory: torch.Tensor, place: _Place) -> torch.Tensor:
    _, dtype, shape, start = place
    return memory[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
