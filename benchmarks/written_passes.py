"""Both scoring passes as score-teacher runs them: shards of ids in, pass files and shards of signals out."""

import functools
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from data.signals.schema import ResponseIds
from teacher_scoring.build.assemble import ScoredShard, assemble_shard
from teacher_scoring.engines.checked import CheckedEngine
from teacher_scoring.engines.contract import TokenSequence
from teacher_scoring.passes.cache import PassFile, PassPlan
from teacher_scoring.passes.scoring import PassResult, score_given_ids, score_support
from teacher_scoring.passes.tasks import SupportRule, write_encoded_shards, write_responses


def make_sequences(num: int, length: int, num_prompt: int, vocab_size: int) -> list[TokenSequence]:
    """Random ids; what they are changes nothing about the time."""
    ids = np.random.default_rng(0).integers(0, vocab_size, (num, length)).astype(np.int32)
    return [TokenSequence(row[:num_prompt], row[num_prompt:]) for row in ids]


class WrittenPasses:
    """The passes over some sequences.

    The command has its engine in another process, and assembles the signals while that one goes on. So does this
    with a pool; without one the engine waits until they are assembled, and nothing is hidden.
    """

    def __init__(
        self,
        folder: Path,
        sequences: list[TokenSequence],
        *,
        vocab_size: int,
        shard_pairs: int = 50,
        pool: Executor | None = None,
    ) -> None:
        """Write the sequences as shards of ids.

        Args:
            folder: does not exist; everything goes there.
            sequences: what is scored.
            vocab_size: of teacher and reference.
            shard_pairs: rows of one shard.
            pool: assembles the signals beside the engine.
        """
        self._folder = folder
        self._pool = pool
        self._rule = SupportRule(top_p=1.0, teacher_vocab_size=vocab_size, reference_vocab_size=vocab_size)
        rows = ([_ids_only(number, sequence)] for number, sequence in enumerate(sequences))
        wanted = range(-(-len(sequences) // shard_pairs))
        folder.mkdir()
        write = functools.partial(write_responses, roles=["chosen"])
        self._shards = list(
            write_encoded_shards(rows, folder, write=write, shard_pairs=shard_pairs, wanted=wanted)
        )

    def teacher(self, engine: CheckedEngine, round_number: int, top_k: int, *, assemble: bool = True) -> None:
        """The teacher's pass to shards without advantages; a new cache each round, so that nothing is found.

        Args:
            engine: the teacher's.
            round_number: another one each time.
            top_k: tokens to keep at each position.
            assemble: whether to go as far as shards; before a reference's pass, the command does not.
        """
        results = score_support(engine, self._files(self._teacher(round_number)), top_k=top_k)
        if assemble:
            self._assemble(results)
        else:
            list(results)

    def reference(self, engine: CheckedEngine, round_number: int) -> None:
        """The reference's pass over what the teacher's wrote in the same round, to shards with advantages."""
        teacher = self._teacher(round_number)
        plan = PassPlan(self._cache(round_number), {"model": "reference"}, teacher=teacher)
        self._assemble(score_given_ids(engine, self._files(plan)), teacher)

    def _assemble(self, results: Iterable[PassResult], teacher: PassPlan | None = None) -> None:
        submitted = []
        for result in results:
            shard, task = result.file.shard, result.file.task
            scored = {task.role: result.file}
            passes = (scored, {}) if teacher is None else ({task.role: teacher.file(shard, task)}, scored)
            path = self._folder / f"signals-{shard.index:05}.parquet"
            if self._pool is None:
                _assemble_shard(ScoredShard(shard, *passes), path, self._rule)
            else:
                submitted.append(
                    self._pool.submit(_assemble_shard, ScoredShard(shard, *passes), path, self._rule)
                )
        for future in submitted:
            future.result()

    def _teacher(self, round_number: int) -> PassPlan:
        return PassPlan(self._cache(round_number), {"model": "teacher"})

    def _cache(self, round_number: int) -> Path:
        return self._folder / f"cache-{round_number}"

    def _files(self, plan: PassPlan) -> list[PassFile]:
        return [plan.file(shard, task) for shard in self._shards for task in shard.tasks]


def _assemble_shard(scored: ScoredShard, path: Path, rule: SupportRule) -> None:
    """With the command's defaults."""
    assemble_shard(scored, path, rule, fingerprint="benchmark", precision="rounded", encoding="compact")


def _ids_only(number: int, sequence: TokenSequence) -> ResponseIds:
    """A row as it is stored in a shard before it is scored."""
    return ResponseIds(
        pair_id=f"pair-{number}",
        role="chosen",
        sample_index=0,
        prompt_ids=sequence.prompt_ids,
        response_ids=sequence.response_ids,
    )
