"""One pass over the student before training: log-probabilities of the response tokens, cached beside the run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from data.files import atomic_output
from data.signals.schema import ROLES
from student_training.batching.collator import PairCollator, PairDataset, model_inputs
from student_training.head.fused import sparse_logprobs
from student_training.head.lm_head import split_model
from student_training.inputs.pairs import TokenLogprobs

__all__ = ["initial_logprobs"]


_SCHEMA = pa.schema(
    [
        ("pair", pa.int64()),
        ("role", pa.string()),
        ("sample_index", pa.int32()),
        ("token_logprobs", pa.list_(pa.float32())),
    ]
)


def initial_logprobs(
    student: torch.nn.Module,
    dataset: PairDataset,
    batches: Sequence[Sequence[int]],
    collator: PairCollator,
    *,
    cache: Path,
    head_chunk: int | None,
    device: torch.device,
    bf16: bool,
    quiet: bool,
) -> TokenLogprobs:
    """Log-probability of every response token under the student as it is now.

    Args:
        student: the causal language model; left as it was found.
        dataset: pairs with the rows of the method's roles.
        batches: indices of pairs that go through the student together; every pair once.
        collator: makes batches of them.
        cache: Parquet file that holds the result; read instead of computing when it exists. It belongs to one
            run's folder, whose run.toml pins student and data.
        head_chunk: positions that go through the LM head at once; None lets the head choose.
        device: where to compute.
        bf16: whether the arithmetic is bfloat16, as in training: else the first step's ratios would not be 1, and
            on a GPU the pass would take longer than training on the same pairs.
        quiet: whether to leave out the progress bar.
    Returns:
        Nats by (pair index, role, sample index), float32 of shape (T,).
    """
    if cache.exists():
        return _read(cache)
    was_training = student.training
    student.eval().to(device)
    results: TokenLogprobs = {}
    backbone, head = split_model(student)
    for indices in tqdm(batches, desc="initial student", unit="batch", disable=quiet):
        pairs = [dataset[index] for index in indices]
        batch = {name: tensor.to(device) for name, tensor in collator(pairs).items()}
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            hidden = backbone(**model_inputs(batch))
            hidden = hidden.flatten(0, 1)[batch["position_index"]]
            support_ids, support_mask = (
                batch["support_ids"][:, :1].long(),
                torch.zeros_like(batch["support_mask"][:, :1]),
            )
            values = sparse_logprobs(
                hidden, head, batch["labels"], support_ids, support_mask, chunk_size=head_chunk
            ).token.float()
        # The collator orders rows by role and then by pair, as here.
        rows = [
            ((index, role, row.sample_index), row.num_scored)
            for role in ROLES
            for index, responses in pairs
            for row in responses
            if row.role == role
        ]
        pieces = np.split(values.cpu().numpy(), np.cumsum([length for _, length in rows])[:-1])
        results.update(zip((key for key, _ in rows), pieces, strict=True))
    student.train(was_training)
    _write(cache, results)
    return results


def _write(path: Path, results: TokenLogprobs) -> None:
    keys = sorted(results)
    columns = [
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        pa.array([results[key] for key in keys], type=pa.list_(pa.float32())),
    ]
    table = pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), schema=_SCHEMA)
    with atomic_output(path) as file:
        pq.write_table(table, file)


def _read(path: Path) -> TokenLogprobs:
    table = pq.read_table(path, schema=_SCHEMA)
    lists = table["token_logprobs"].combine_chunks()
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    keys = zip(*(table[name].to_pylist() for name in _SCHEMA.names[:3]), strict=True)
    return {key: values[offsets[place] : offsets[place + 1]] for place, key in enumerate(keys)}
