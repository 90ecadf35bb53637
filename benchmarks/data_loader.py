"""What reading costs a training process, from shards on disk to batches, as a share of a step at a given speed.

    python -m benchmarks.data_loader [--pairs 1024] [--positions 400] [--top-k 50] [--batch 8] [--speed 50000]

In line: processor time of decoding and collating. Read ahead by one loader process: processor time of the training
process alone (all its threads) for taking batches over and copying every number once, as for a device; how fast that
process reads; and, with steps that take as long as the speed says but no processor (as on a GPU), how much of the time
the training process waits for batches. The signals are made up.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader

from data.signals.dataset import SignalDataset
from data.signals.manifest import Manifest, write_manifest
from data.signals.schema import ResponseSignals
from data.signals.shards import write_signal_shard
from student_training.batching.collator import PairCollator, PairDataset
from student_training.batching.transport import BATCHES_AHEAD, Batch
from student_training.methods import Needs

ROLES = ("chosen", "rejected")
_PAIRS_PER_SHARD = 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--positions", type=int, default=400)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8, help="pairs")
    parser.add_argument("--speed", type=float, default=50_000, help="response positions a second")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), arguments)
        for num_workers in (0, 1):
            # One decoded block at a time: like a long run, each epoch decodes every block once.
            dataset = SignalDataset.open(folder, cached_blocks=1)
            loader = make_loader(dataset, arguments.batch, num_workers)
            device = Device(loader)
            consume(loader, device)  # the first epoch starts the process and its memory
            place = "read ahead, training process" if num_workers else "in line"
            num_positions, cpu_s, wall_s = consume(loader, device)
            share = cpu_s / num_positions * arguments.speed
            print(
                f"{place}: {num_positions / cpu_s:,.0f} positions a CPU second,"
                f" {share:.2%} of a step at {arguments.speed:,.0f}/s"
            )
            if num_workers:
                print(f"read ahead, loader process: {num_positions / wall_s:,.0f} positions a second")
                waiting = waiting_share(loader, device, arguments.speed)
                print(
                    f"read ahead, waiting for batches: {waiting:.2%} of the time at {arguments.speed:,.0f}/s"
                )


def make_loader(dataset: SignalDataset, batch_size: int, num_workers: int) -> DataLoader:
    """The way from a dataset to batches that a run takes, in the order of storage."""
    needs = Needs(roles=frozenset(ROLES), signals=frozenset(ROLES), advantages=True)
    return DataLoader(
        PairDataset(dataset, needs.roles),
        batch_sampler=BatchSampler(range(dataset.num_pairs), batch_size, drop_last=False),
        num_workers=num_workers,
        prefetch_factor=BATCHES_AHEAD if num_workers else None,
        persistent_workers=num_workers > 0,
        collate_fn=PairCollator(needs, vocab_size=128_256, pad_token_id=0),
    )


class Device:
    """Stands for a device: memory that is there already, into which batches are copied."""

    def __init__(self, loader: DataLoader) -> None:
        self._memory = torch.empty(
            max(tensor.nbytes for batch in loader for tensor in batch.values()), dtype=torch.uint8
        )

    def take(self, batch: Batch) -> int:
        """Copy every number; how many positions there were."""
        for tensor in batch.values():
            self._memory[: tensor.nbytes].copy_(tensor.reshape(-1).view(torch.uint8))
        return len(batch["labels"])


def consume(loader: DataLoader, device: Device) -> tuple[int, float, float]:
    """Take all batches of an epoch as fast as they come.

    Returns:
        Positions, processor seconds of this process, and seconds; all without the first batch.
    """
    batches = iter(loader)
    device.take(next(batches))
    cpu_s, wall_s = time.process_time(), time.monotonic()
    num_positions = sum(map(device.take, batches))
    return num_positions, time.process_time() - cpu_s, time.monotonic() - wall_s


def waiting_share(loader: DataLoader, device: Device, speed: float) -> float:
    """The share of an epoch's time that passes until batches are there, with steps of that speed in between."""
    batches = iter(loader)
    next(batches)
    started = time.monotonic()
    waited_s = 0.0
    while True:
        asked = time.monotonic()
        batch = next(batches, None)
        waited_s += time.monotonic() - asked
        if batch is None:
            return waited_s / (time.monotonic() - started)
        time.sleep(device.take(batch) / speed)


def write_dataset(folder: Path, arguments: argparse.Namespace) -> None:
    """Write made-up signals as a dataset."""
    manifest = Manifest(kind="signals", request={"made": "up"}, shards=())
    shards = [
        write_signal_shard(
            folder / f"shard-{number:05d}.parquet",
            rows(arguments, range(first, min(first + _PAIRS_PER_SHARD, arguments.pairs))),
            fingerprint=manifest.fingerprint,
        )
        for number, first in enumerate(range(0, arguments.pairs, _PAIRS_PER_SHARD))
    ]
    write_manifest(folder, dataclasses.replace(manifest, shards=tuple(shards)))


def rows(arguments: argparse.Namespace, pairs: range) -> Iterator[ResponseSignals]:
    """Made-up signals with ids as spread out as those of a large vocabulary."""
    generator = np.random.default_rng(pairs.start)
    length, width = arguments.positions, arguments.top_k
    for pair in pairs:
        for role in ROLES:
            scores = generator.normal(size=(length, width)).astype(np.float32)
            logprobs = -np.sort(-scores, axis=1) - 8
            yield ResponseSignals(
                pair_id=str(pair),
                role=role,
                sample_index=0,
                prompt_ids=generator.integers(0, 128_000, size=200).astype(np.int32),
                response_ids=generator.integers(0, 128_000, size=length).astype(np.int32),
                support_sizes=np.full(length, width, np.uint16),
                topk_ids=generator.integers(0, 128_000, size=length * width).astype(np.int32),
                teacher_logprobs=logprobs.reshape(-1),
                advantages=scores.reshape(-1),
                teacher_tail_logprobs=np.full(length, -1, np.float32),
                reference_tail_logprobs=np.full(length, -1, np.float32),
                teacher_token_logprobs=np.full(length, -2, np.float32),
                reference_token_logprobs=np.full(length, -2, np.float32),
            )


if __name__ == "__main__":
    main()
