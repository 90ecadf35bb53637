"""One pass before training: the initial student's log-probabilities of responses and supports, cached by the run."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.files import atomic_output
from data.progress import Progress
from data.signals.schema import ROLES, ResponseIds, ResponseSignals
from student_training.batching.collator import PairCollator, PairDataset, model_inputs
from student_training.head.fused import SparseLogprobs, sparse_logprobs
from student_training.head.lm_head import split_model
from student_training.inputs.initial_supports import SCHEMA, InitialSupports
from student_training.inputs.pairs import TokenLogprobs

_TOKEN_SCHEMA = pa.schema(
    [
        ("pair", pa.int64()),
        ("role", pa.string()),
        ("sample_index", pa.int32()),
        ("token_logprobs", pa.list_(pa.float32())),
    ]
)


class InitialPass:
    """The student as it is now over all pairs; its results are read from a cache where there is one."""

    def __init__(
        self,
        student: torch.nn.Module,
        dataset: PairDataset,
        batches: Sequence[Sequence[int]],
        collator: PairCollator,
        *,
        head_chunk: int | None,
        device: torch.device,
        bf16: bool,
    ) -> None:
        """Say what to run.

        Args:
            student: the causal language model; left as it was found.
            dataset: pairs with the rows of the method's roles.
            batches: indices of pairs that go through the student together; every pair once.
            collator: makes batches of them.
            head_chunk: positions that go through the LM head at once; None lets the head choose.
            device: where to compute.
            bf16: whether the arithmetic is bfloat16, as in training: else the first step's ratios would not be 1, and
                on a GPU the pass would take longer than training on the same pairs.
        """
        self._student = student
        self._dataset = dataset
        self._batches = batches
        self._collator = collator
        self._head_chunk = head_chunk
        self._device = device
        self._bf16 = bf16

    def tokens(self, cache: Path) -> TokenLogprobs:
        """Log-probability of every response token.

        Args:
            cache: Parquet file that holds the result; read instead of computing when it exists. It belongs to one
                run's folder, whose run.toml pins student and data.
        Returns:
            Nats by (pair index, role, sample index), float32 of shape (T,).
        """
        if cache.exists():
            return _read(cache)
        results: TokenLogprobs = {}
        for rows, values in self._run(with_support=False):
            lengths = [row.num_scored for _, row in rows]
            pieces = np.split(values.token.float().cpu().numpy(), np.cumsum(lengths)[:-1])
            keys = ((index, row.role, row.sample_index) for index, row in rows)
            results.update(zip(keys, pieces, strict=True))
        _write(cache, results)
        return results

    def supports(self, cache: Path) -> InitialSupports:
        """Log-probabilities at the teacher's support and of the tail, at every position that has signals.

        They are written as they come and read from the file later on: with k tokens they take 4·(k + 1) bytes a
        position.

        Args:
            cache: Arrow file that holds the result, as for `tokens`.
        """
        if not cache.exists():
            with atomic_output(cache) as file, pa.ipc.new_file(file, SCHEMA) as writer:
                for rows, values in self._run(with_support=True):
                    support, tail = (part.float().cpu().numpy() for part in (values.support, values.tail))
                    writer.write_batch(_as_record_batch(rows, support, tail))
        return InitialSupports(cache)

    def _run(self, *, with_support: bool) -> Iterator[tuple[list[tuple[int, ResponseIds]], SparseLogprobs]]:
        """Batch by batch: rows with their pair's index in the collator's order, and the log-probabilities."""
        student, device = self._student, self._device
        was_training = student.training
        student.eval().to(device)
        backbone, head = split_model(student)
        total = sum(map(len, self._batches))
        with Progress("initial student", unit="pairs", total=total) as progress:
            for indices in self._batches:
                pairs = [self._dataset[index] for index in indices]
                batch = {name: tensor.to(device) for name, tensor in self._collator(pairs).items()}
                support_ids, support_mask = batch["support_ids"].long(), batch["support_mask"]
                if not with_support:
                    support_ids, support_mask = support_ids[:, :1], torch.zeros_like(support_mask[:, :1])
                with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                    hidden = backbone(**model_inputs(batch))
                    hidden = hidden.flatten(0, 1)[batch["position_index"]]
                    values = sparse_logprobs(
                        hidden, head, batch["labels"], support_ids, support_mask, chunk_size=self._head_chunk
                    )
                # The collator orders rows by role and then by pair, as here.
                rows = [
                    (index, row)
                    for role in ROLES
                    for index, responses in pairs
                    for row in responses
                    if row.role == role
                ]
                yield rows, values
                progress.update(len(indices))
        student.train(was_training)


def _as_record_batch(
    rows: Sequence[tuple[int, ResponseIds]], support: np.ndarray, tail: np.ndarray
) -> pa.RecordBatch:
    """A batch's rows that have signals, flat as shards have them: a position's tokens in the order of its support."""
    columns: list[list] = [[] for _ in SCHEMA]
    ends = itertools.accumulate(row.num_scored for _, row in rows)
    for (index, row), end in zip(rows, ends, strict=True):
        if not isinstance(row, ResponseSignals):
            continue
        here = slice(end - row.num_scored, end)
        filled = np.arange(support.shape[1]) < row.support_sizes[:, None]
        values = (index, row.role, row.sample_index, support[here][filled], tail[here])
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=SCHEMA)


def _write(path: Path, results: TokenLogprobs) -> None:
    keys = sorted(results)
    columns = [
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        pa.array([results[key] for key in keys], type=pa.list_(pa.float32())),
    ]
    table = pa.table(dict(zip(_TOKEN_SCHEMA.names, columns, strict=True)), schema=_TOKEN_SCHEMA)
    with atomic_output(path) as file:
        pq.write_table(table, file)


def _read(path: Path) -> TokenLogprobs:
    table = pq.read_table(path, schema=_TOKEN_SCHEMA)
    lists = table["token_logprobs"].combine_chunks()
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    keys = zip(*(table[name].to_pylist() for name in _TOKEN_SCHEMA.names[:3]), strict=True)
    return {key: values[offsets[place] : offsets[place + 1]] for place, key in enumerate(keys)}
