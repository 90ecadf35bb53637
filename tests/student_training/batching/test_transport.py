"""Batches between processes: the same tensors, handed over once."""

import copy

import torch
from torch.utils.data import DataLoader

from student_training.batching.transport import Batch


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        {
            "ids": torch.randint(0, 1 << 40, (3, 5), generator=generator),
            "mask": torch.tensor([[True, False, True]]),
            "none": torch.zeros((0, 4), dtype=torch.int64),
            "values": torch.randn((2, 7), generator=generator),
            "number": torch.tensor(7.5, dtype=torch.float64),
        }
    )


def _assert_same(expected: Batch, actual: Batch) -> None:
    assert type(actual) is Batch
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert actual[name].shape == tensor.shape
        assert torch.equal(actual[name], tensor)


def test_a_batch_from_a_loader_process_is_the_same_and_lies_in_one_piece_of_memory():
    (received,) = DataLoader([_batch()], batch_size=None, num_workers=1)  # pyright: ignore[reportArgumentType]
    _assert_same(_batch(), received)
    filled = [tensor for tensor in received.values() if tensor.numel()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in filled}) == 1


def test_an_empty_batch_travels():
    _assert_same(Batch(), copy.deepcopy(Batch()))


def test_a_copy_holds_the_tensors_themselves():
    batch = _batch()
    shallow = copy.copy(batch)
    _assert_same(batch, shallow)
    assert shallow["values"] is batch["values"]
