"""How much of the writing hides behind an engine that computes elsewhere, as on a GPU, at several speeds.

    python -m benchmarks.overlap

The engine sleeps for as long as it would score, and answers random scores. Around it all is as in `score-teacher`: a
thread in the engine's process writes the pass files, and during the reference's pass another process assembles the
shards of signals. "Writing" is the same work without the sleep and without a second process.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.written_passes import WrittenPasses, make_sequences
from teacher_scoring.engines.contract import (
    GivenScores,
    SampledResponse,
    Sampling,
    SupportScores,
    TokenSequence,
)

VOCAB_SIZE = 32_000
TOP_K = 50


class DistantEngine:
    """See `teacher_scoring.engines.contract.Engine`; takes no time of this machine's processors."""

    name, version, vocab_size, dtype = "distant", "1", VOCAB_SIZE, "float32"

    def __init__(self, num_response: int) -> None:
        """Draw the scores of one response, which every response gets."""
        rng = np.random.default_rng(0)
        self.positions_per_second = np.inf
        logits = rng.normal(0, 3, (num_response, TOP_K)).astype(np.float32)
        self._logprobs = -np.sort(-logits, axis=1) - 12
        self._ids = np.stack([rng.choice(VOCAB_SIZE, TOP_K, replace=False) for _ in logits]).astype(np.int32)

    def score_support(self, sequences: Sequence[TokenSequence], top_k: int) -> list[SupportScores]:
        """See `Engine.score_support`."""
        self._sleep(sequences)
        return [SupportScores(self._ids, self._logprobs, self._logprobs[:, 0]) for _ in sequences]

    def score_given(self, sequences: Sequence[TokenSequence], ids: Sequence[np.ndarray]) -> list[GivenScores]:
        """See `Engine.score_given`."""
        self._sleep(sequences)
        return [GivenScores(self._logprobs[:, ::-1] - 0.5, self._logprobs[:, 0]) for _ in sequences]

    def sample(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> list[SampledResponse]:
        """Not measured here."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Engine.close`."""

    def _sleep(self, sequences: Sequence[TokenSequence]) -> None:
        time.sleep(sum(len(sequence.response_ids) for sequence in sequences) / self.positions_per_second)


def main() -> None:
    """Run both passes at each speed and print by how much they are slower than their engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--length", type=int, default=256, help="prompt and response, tokens")
    parser.add_argument("--prompt-length", type=int, default=64, help="tokens")
    arguments = parser.parse_args()
    sequences = make_sequences(arguments.sequences, arguments.length, arguments.prompt_length, VOCAB_SIZE)
    num_positions = sum(len(sequence.response_ids) for sequence in sequences)
    engine = DistantEngine(len(sequences[0].response_ids))
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        alone = WrittenPasses(Path(folder) / "alone", sequences, vocab_size=VOCAB_SIZE)
        beside = WrittenPasses(Path(folder) / "beside", sequences, vocab_size=VOCAB_SIZE, pool=pool)
        timed(engine, beside, 1)
        writing = timed(engine, alone, arguments.rounds)
        print(
            "| engine, positions/s | pass | writing : scoring | written : scoring | of the writing hidden |"
        )
        print("| --- | --- | --- | --- | --- |")
        for speed in (10_000, 30_000, 100_000, 300_000):
            engine.positions_per_second = speed
            scoring = num_positions / speed
            written = timed(engine, beside, arguments.rounds)
            for name, seconds, own in zip(("teacher", "reference"), written, writing, strict=True):
                hidden = (scoring + own - seconds) / own
                print(
                    f"| {speed:,} | {name} | {own / scoring:.3f} | {seconds / scoring:.3f} | {hidden:.0%} |"
                )


def timed(engine: DistantEngine, passes: WrittenPasses, num_rounds: int) -> tuple[float, float]:
    """Seconds of the teacher's and of the reference's pass, medians over rounds."""
    rounds = []
    for number in range(num_rounds):
        start = time.perf_counter()
        passes.teacher(engine, number, TOP_K, assemble=False)
        middle = time.perf_counter()
        passes.reference(engine, number)
        rounds.append((middle - start, time.perf_counter() - middle))
    teachers, references = zip(*rounds, strict=True)
    return statistics.median(teachers), statistics.median(references)


if __name__ == "__main__":
    main()
