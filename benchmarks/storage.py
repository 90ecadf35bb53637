"""Bytes, speed and error of ways to store signals, on distributions of a trained model.

    python -m benchmarks.text_model --out runs/storage/text32k.pt --vocab-size 32000
    python -m benchmarks.storage --model runs/storage/text32k.pt

Speeds are positions per second of processor time on one core, the best of several runs. Everything but the
support (token ids, log-probabilities and advantages) is left out of the layouts that it is compared with, in
their favour.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from benchmarks.layouts import LAYOUTS, Layout, remove, size_bytes
from benchmarks.text_model import load_text_model
from benchmarks.text_signals import TextSignals, cut_top_p, make_text_signals, objectives
from data.shards import read_signal_shard

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
    num_positions = len(signals.dense_kl)

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


def _objective_changes(signals: TextSignals, folder: Path) -> tuple[float, float]:
    """What rounding changes: the mean absolute change per position over the mean, of KL and expected advantage."""
    path = folder / "rounded.parquet"
    next(layout for layout in LAYOUTS if "default" in layout.name).write(path, signals.rows)
    stored = list(read_signal_shard(path))
    changes = [
        float(np.abs(after - before).mean() / np.abs(before).mean())
        for before, after in zip(
            objectives(signals.rows, signals.student_logprobs),
            objectives(stored, signals.student_logprobs),
            strict=True,
        )
    ]
    return changes[0], changes[1]


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
    parser.add_argument("--model", type=Path, required=True, help="what benchmarks.text_model saved")
    parser.add_argument("--responses", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument(
        "--entropy", type=float, default=1.2, help="mean entropy of the sharpened teacher, nats"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    model = load_text_model(options.model)
    for entropy in (options.entropy, None):
        signals = make_text_signals(
            model, num_responses=options.responses, top_k=options.top_k, entropy=entropy
        )
        title = "sharpened" if entropy is not None else "as trained"
        print(f"\n## {title}: entropy {signals.entropy:.2f} nats, {len(signals.dense_kl):,} positions\n")
        _print_tables(signals, options.repeats)
        sys.stdout.flush()


def _print_tables(signals: TextSignals, repeats: int) -> None:
    print("| layout | bytes a position | write, k pos/s | read, k pos/s | largest error, nats |")
    print("| --- | --- | --- | --- | --- |")
    cuts = {top_p: cut_top_p(signals, top_p) for top_p in (0.9999, 0.999, 0.99)}
    with tempfile.TemporaryDirectory() as folder:
        for layout in LAYOUTS:
            _print_row(layout.name, _measure(layout, signals, Path(folder), repeats))
        for top_p, cut in cuts.items():
            _print_row(
                f"{LAYOUTS[-1].name}, top-p {top_p}", _measure(LAYOUTS[-1], cut, Path(folder), repeats)
            )
        print(
            "\n| support | tokens a position | mass cut from KL | from expected advantage | rounding: KL | advantage |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        for name, cut in {"top-k": signals, **{f"top-p {top_p}": cut for top_p, cut in cuts.items()}}.items():
            size = cut.student_logprobs.size / len(cut.dense_kl)
            values = [*_truncation(cut), *_objective_changes(cut, Path(folder))]
            print(f"| {name} | {size:.1f} | " + " | ".join(f"{value:.2%}" for value in values) + " |")


def _print_row(name: str, result: dict[str, float]) -> None:
    speeds = " | ".join(f"{result[key] / 1000:,.0f}" for key in ("write", "read"))
    print(f"| {name} | {result['bytes']:.1f} | {speeds} | {result['error']:.4f} |", flush=True)


if __name__ == "__main__":
    main()
