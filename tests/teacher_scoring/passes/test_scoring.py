"""A pass reads and writes beside its engine."""

import functools
import threading

import numpy as np
import pytest

from data.signals.schema import ResponseIds
from teacher_scoring.engines.contract import SupportScores
from teacher_scoring.passes import scoring as passes
from teacher_scoring.passes.cache import PassPlan, read_teacher
from teacher_scoring.passes.scoring import score_support
from teacher_scoring.passes.tasks import write_encoded_shards, write_responses

# Seconds until a test gives up on what should have happened long before.
PATIENCE_S = 120


class ScriptedEngine:
    """Answers what nobody looks at, and does something first at each call."""

    def __init__(self, *before_calls):
        self._before_calls = iter(before_calls)

    def score_support(self, sequences, top_k):
        next(self._before_calls)()
        ids = np.arange(top_k, dtype=np.int32)
        return [
            SupportScores(
                np.tile(ids, (len(s.response_ids), 1)),
                np.full((len(s.response_ids), top_k), -3, dtype=np.float32),
                np.full(len(s.response_ids), -4, dtype=np.float32),
            )
            for s in sequences
        ]


@pytest.fixture
def files(tmp_path):
    """Two shards with one task each."""
    ids = np.array([1, 2, 3], dtype=np.int32)
    rows = ([ResponseIds(f"pair-{n}", "chosen", 0, ids, ids + n)] for n in range(4))
    write = functools.partial(write_responses, roles=["chosen"])
    shards = write_encoded_shards(rows, tmp_path, write=write, shard_pairs=2, wanted=range(2))
    plan = PassPlan(tmp_path / "cache", {"model": "teacher"})
    return [plan.file(shard, task) for shard in shards for task in shard.tasks]


def test_the_next_rows_are_read_while_the_engine_scores(files, monkeypatch):
    second_read, in_time = threading.Event(), []
    read_rows = passes.read_rows

    def read(shard, role):
        if shard.index == 1:
            second_read.set()
        return read_rows(shard, role)

    monkeypatch.setattr(passes, "read_rows", read)
    engine = ScriptedEngine(lambda: in_time.append(second_read.wait(PATIENCE_S)), lambda: None)
    assert [result.file for result in score_support(engine, files, top_k=2)] == files
    assert in_time == [True]


def test_results_are_written_while_the_engine_scores_what_comes_next(files, monkeypatch):
    second_asked, in_time = threading.Event(), []
    write_teacher = passes.write_teacher

    def write(file, rows):
        in_time.append(second_asked.wait(PATIENCE_S))
        write_teacher(file, rows)

    monkeypatch.setattr(passes, "write_teacher", write)
    engine = ScriptedEngine(lambda: None, second_asked.set)
    results = list(score_support(engine, files, top_k=2))
    assert in_time == [True, True]
    assert [result.positions for result in results] == [6, 6]
    assert [len(list(read_teacher(file.path))) for file in files] == [2, 2]


def test_an_engine_that_fails_ends_the_pass_after_what_was_scored_before_is_written(files):
    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        list(score_support(ScriptedEngine(lambda: None, fail), files, top_k=2))
    assert [file.path.exists() for file in files] == [True, False]
