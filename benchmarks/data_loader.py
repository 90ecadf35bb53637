"""What reading costs: CPU time of shards to batches, as a share of a step at a given speed.

    python benchmarks/data_loader.py [--pairs 2048] [--positions 400] [--top-k 50] [--batch 8] [--speed 50000]

Times are CPU seconds of this process, so that a busy machine does not count; decoding and collating are told apart.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from data.schema import ResponseSignals
from data.shards import read_signal_group, write_signal_shard
from student_training.batches import PairCollator
from student_training.methods import Needs

ROLES = ("chosen", "rejected")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--positions", type=int, default=400)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--speed", type=float, default=50_000, help="response positions a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "shard-00000.parquet"
        num_positions = 2 * arguments.pairs * arguments.positions
        entry = write_signal_shard(shard, rows(arguments), fingerprint="benchmark")
        pairs: list[tuple[int, list[ResponseSignals]]] = []
        started = time.process_time()
        for number in range(len(entry.row_groups)):
            group = read_signal_group(shard, number)
            pairs += [(len(pairs), group.pair(index)) for index in range(group.num_pairs)]
        report("decode", time.process_time() - started, num_positions, arguments.speed)
        needs = Needs(roles=frozenset(ROLES), signals=frozenset(ROLES), advantages=True)
        collator = PairCollator(needs, vocab_size=128_256, pad_token_id=0)
        started = time.process_time()
        for start in range(0, len(pairs), arguments.batch):
            collator(pairs[start : start + arguments.batch])
        report("collate", time.process_time() - started, num_positions, arguments.speed)


def rows(arguments: argparse.Namespace):
    """Made-up signals with ids as spread out as those of a large vocabulary."""
    generator = np.random.default_rng(0)
    length, width = arguments.positions, arguments.top_k
    for pair in range(arguments.pairs):
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


def report(what: str, cpu_s: float, num_positions: int, speed: float) -> None:
    """Print positions a second, and the share of a step at the given speed."""
    share = cpu_s / num_positions * speed
    print(
        f"{what}: {num_positions / cpu_s:,.0f} positions a CPU second, {share:.2%} of a step at {speed:,.0f}/s"
    )


if __name__ == "__main__":
    main()
