"""Bytes a position and speed of reading of a signal dataset, beside other ways to store the same numbers.

    python -m benchmarks.storage runs/demo/signals/pairs --responses 256

Take a dataset of real models: bytes depend on real distributions. Speeds are positions per second of processor time
on one core, the best of several runs, and ratios to the first layout (the published code's records).
"""

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.signals.dataset import SignalDataset
from data.signals.schema import ResponseSignals
from data.signals.shards import read_signal_group, write_signal_shard

Rows = Sequence[ResponseSignals]


def _positions(row: ResponseSignals, values: np.ndarray | None) -> list[np.ndarray]:
    assert values is not None
    return np.split(values, np.cumsum(row.support_sizes, dtype=np.int64)[:-1])


def write_records(path: Path, rows: Rows) -> None:
    """The published code's form: each position a record of ids and values, once for each of two quantities.

    Source: SLIT-AI/ADPA, utils/compress_logits.py; `datasets` infers 64-bit columns from its JSON.
    """

    def records(row: ResponseSignals, values: np.ndarray | None) -> list[dict]:
        pairs = zip(_positions(row, row.topk_ids), _positions(row, values), strict=True)
        return [{"indices": ids.tolist(), "values": part.tolist()} for ids, part in pairs]

    table = [
        {"compressed_probs": records(row, row.teacher_logprobs), "margin_logp": records(row, row.advantages)}
        for row in rows
    ]
    datasets.Dataset.from_list(table).save_to_disk(str(path))


def read_records(path: Path) -> None:
    """As the published loss gets them: Python records, each field of which becomes a tensor."""
    for row in datasets.load_from_disk(str(path)):
        assert isinstance(row, dict)
        for column, field in itertools.product(row.values(), ("indices", "values")):
            for position in column:
                torch.tensor(position[field])


def write_float16(path: Path, rows: Rows) -> None:
    """Flat lists with float16 values, zstd, no dictionary: what a careful user of pyarrow would write."""

    def column(name: str, dtype: str) -> pa.Array:
        arrays = [np.asarray(getattr(row, name)).astype(dtype) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in arrays])])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.concatenate(arrays)))

    columns = {"topk_ids": column("topk_ids", "i4")}
    columns |= {name: column(name, "f2") for name in ("teacher_logprobs", "advantages")}
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False)


def read_float16(path: Path) -> None:
    """Columns as numpy arrays."""
    table = pq.read_table(path, use_threads=False)
    for name in table.column_names:
        table[name].combine_chunks().values.to_numpy()


def read_ours(path: Path) -> None:
    """Columns as a reader of whole row groups gets them: views of Arrow's memory."""
    for index in range(pq.ParquetFile(path).num_row_groups):
        for column in read_signal_group(path, index).columns.values():
            assert len(column.values) >= 0


def _ours(precision: str, encoding: str) -> Callable[[Path, Rows], None]:
    def write(path: Path, rows: Rows) -> None:
        write_signal_shard(path, rows, fingerprint="0" * 64, precision=precision, encoding=encoding)

    return write


LAYOUTS = {
    "records, `datasets` (published code)": (write_records, read_records),
    "flat lists, float16, zstd": (write_float16, read_float16),
    "this format, exact, plain": (_ours("exact", "plain"), read_ours),
    "this format, rounded, plain": (_ours("rounded", "plain"), read_ours),
    "this format, rounded, compact (default)": (_ours("rounded", "compact"), read_ours),
}


def _best_seconds(function: Callable[[], None], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("signals", help="a signal dataset with advantages")
    parser.add_argument("--responses", type=int, default=256, help="responses to take from its beginning")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    dataset = SignalDataset.open(options.signals)
    scored = (row for row in dataset.iterate() if isinstance(row, ResponseSignals))
    rows = list(itertools.islice(scored, options.responses))
    num_positions = sum(len(row.support_sizes) for row in rows)
    num_tokens = sum(len(row.topk_ids) for row in rows)
    print(
        f"{len(rows):,} responses, {num_positions:,} positions, {num_tokens / num_positions:.1f} tokens each"
    )
    print("| layout | bytes a position | read, k positions/s |\n| --- | --- | --- |")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for name, (write, read) in LAYOUTS.items():
            path = Path(folder) / "stored"
            write(path, rows)
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
            size = sum(file.stat().st_size for file in files) / num_positions
            speed = num_positions / _best_seconds(lambda path=path, read=read: read(path), options.repeats)
            first = first or speed
            print(f"| {name} | {size:.1f} | {speed / 1000:,.0f} ({speed / first:,.1f}x) |", flush=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
