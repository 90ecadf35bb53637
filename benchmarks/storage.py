"""Bytes, speed and error of ways to store signals, on distributions of a trained model.

    python -m benchmarks.storage --vocab-size 32000 --vocab-size 128256

The model is trained once for each vocabulary (benchmarks/text_model.py), in less than eight minutes of one core, and
kept in --model-folder with what it says of held-out text. Speeds are positions per second of processor time on one
core, the best of several runs; each column's ratio is to the first layout. Everything but the support (token ids,
log-probabilities and advantages) is left out of the layouts that ours is compared with, in their favour.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

from benchmarks.entropy_bound import column_bytes, entropy_bytes
from benchmarks.layouts import LAYOUTS, Layout, remove, size_bytes
from benchmarks.text_signals import TextSignals, cut_top_p, make_text_signals, objectives
from data.files import adpa_home
from data.signals.schema import ResponseSignals
from data.signals.shards import ROWS_PER_GROUP, read_signal_shard, write_signal_shard

Result = TypeVar("Result")


def _best_seconds(function: Callable[[], Result], repeats: int) -> tuple[float, Result]:
    """Least processor time of several calls, and the last result."""
    seconds = []
    while True:
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
        if len(seconds) >= repeats:
            return min(seconds), result


def _measure(layout: Layout, signals: TextSignals, folder: Path, repeats: int) -> dict[str, float]:
    path = folder / "stored.parquet"
    num_positions = sum(len(row.response_ids) for row in signals.rows)

    def write() -> None:
        if path.exists():
            remove(path)
        layout.write(path, signals.rows)

    writing, _ = _best_seconds(write, repeats)
    reading, (ids, teacher, _) = _best_seconds(lambda: layout.read(path), repeats)
    exact = np.concatenate([row.teacher_logprobs for row in signals.rows if row.teacher_logprobs is not None])
    assert len(ids) == len(exact)
    result = {
        "bytes": size_bytes(path) / num_positions,
        "write": num_positions / writing,
        "read": num_positions / reading,
        "error": float(np.abs(teacher - exact).max()),
    }
    remove(path)
    return result


def _rounding_changes(signals: TextSignals, folder: Path) -> dict[str, float]:
    """What rounding changes of KL and expected advantage: the mean, and each position, relative to the mean."""
    path = folder / "rounded.parquet"
    write_signal_shard(path, signals.rows, fingerprint="0" * 64)
    stored = list(read_signal_shard(path))
    changes = {}
    for name, before, after in zip(
        ("KL", "advantage"),
        objectives(signals.rows, signals.student_logprobs),
        objectives(stored, signals.student_logprobs),
        strict=True,
    ):
        changes[f"{name}, mean"] = float(abs((after - before).mean() / before.mean()))
        changes[f"{name}, each"] = float(np.abs(after - before).mean() / before.mean())
    return changes


def _truncation(signals: TextSignals) -> tuple[float, float]:
    """What the support leaves out of the dense objectives, relative to them."""
    kl, advantage = objectives(signals.rows, signals.student_logprobs)
    return (
        1 - float(kl.mean() / signals.dense_kl.mean()),
        1 - float(advantage.mean() / signals.dense_advantage.mean()),
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vocab-size", type=int, action="append", help="repeatable; default 32000 and 128256"
    )
    parser.add_argument(
        "--model-folder",
        type=Path,
        default=adpa_home() / "benchmarks",
        help="where models and scores are kept",
    )
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument(
        "--entropy",
        type=float,
        action="append",
        help="mean entropy that the teacher is sharpened to, nats; 0 for as trained; repeatable; default 1.2 and 0",
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    for vocab_size in options.vocab_size or (32_000, 128_256):
        for entropy in options.entropy or (1.2, 0):
            signals = make_text_signals(
                options.model_folder,
                vocab_size=vocab_size,
                num_responses=options.responses,
                top_k=options.top_k,
                entropy=entropy or None,
            )
            title = "sharpened" if entropy else "as trained"
            print(
                f"\n## V = {vocab_size:,}, {title}: entropy {signals.entropy:.2f} nats,"
                f" {len(signals.dense_kl):,} positions, k = {options.top_k}\n"
            )
            with tempfile.TemporaryDirectory() as folder:
                _print_tables(signals, Path(folder), options.repeats)


def _print_tables(signals: TextSignals, folder: Path, repeats: int) -> None:
    print("| layout | bytes a position | write, k pos/s | read, k pos/s | largest error, nats |")
    print("| --- | --- | --- | --- | --- |")
    cuts = {f"top-p {top_p}": cut_top_p(signals, top_p) for top_p in (0.9999, 0.999, 0.99)}
    rows = [(layout.name, layout, signals) for layout in LAYOUTS]
    rows += [(f"{LAYOUTS[-1].name}, {name}", LAYOUTS[-1], cut) for name, cut in cuts.items()]
    first: dict[str, float] = {}
    for name, layout, cut in rows:
        result = _measure(layout, cut, folder, repeats)
        first = first or result
        speeds = " | ".join(
            f"{result[key] / 1000:,.0f} ({result[key] / first[key]:,.1f}x)" for key in ("write", "read")
        )
        print(f"| {name} | {result['bytes']:.1f} | {speeds} | {result['error']:.4f} |", flush=True)
    group = dataclasses.replace(signals, rows=_repeated(signals.rows, ROWS_PER_GROUP))
    result = _measure(LAYOUTS[-1], group, folder, repeats)
    print(
        f"\nA whole row group of the default layout ({ROWS_PER_GROUP} responses, these over and over):"
        f" write {result['write'] / 1000:,.0f} k pos/s, read {result['read'] / 1000:,.0f} k pos/s"
        f" ({result['read'] / first['read']:,.0f}x the first layout)"
    )
    _print_columns(signals, folder)
    names = ("KL, mean", "KL, each", "advantage, mean", "advantage, each")
    print(
        f"\n| support | tokens a position | cut: KL | cut: advantage | rounded: {' | rounded: '.join(names)} |"
    )
    print("| --- " * (4 + len(names)) + "|")
    for name, cut in {"top-k": signals, **cuts}.items():
        changes = _rounding_changes(cut, folder)
        values = [*_truncation(cut), *(changes[key] for key in names)]
        size = cut.student_logprobs.size / len(cut.dense_kl)
        print(f"| {name} | {size:.1f} | " + " | ".join(f"{value:.2%}" for value in values) + " |", flush=True)


def _repeated(rows: list[ResponseSignals], num_rows: int) -> list[ResponseSignals]:
    """As many rows as asked for, under ids of their own; too far apart in a file for the compressor to notice."""
    return [
        dataclasses.replace(rows[index % len(rows)], pair_id=f"{index // 2:016x}")
        for index in range(num_rows)
    ]


def _print_columns(signals: TextSignals, folder: Path) -> None:
    path = folder / "columns.parquet"
    write_signal_shard(path, signals.rows, fingerprint="0" * 64)
    bounds = entropy_bytes(signals.rows)
    print("\n| column | bytes a position | order-0 entropy, bytes a position |")
    print("| --- | --- | --- |")
    for name, size in column_bytes(path, len(signals.dense_kl)).items():
        print(f"| {name} | {size:.1f} | {f'{bounds[name]:.1f}' if name in bounds else ''} |")


if __name__ == "__main__":
    main()
