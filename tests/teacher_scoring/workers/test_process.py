"""An engine in a separate process: same results, its errors, its death."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import ConfigurationError, DataError, ScoringError
from teacher_scoring.engines.contract import EngineOptions
from teacher_scoring.score import ScoreOptions, score_teacher
from teacher_scoring.workers import process as engine_process
from teacher_scoring.workers.run import EngineRequest, run_on_engine

pytestmark = pytest.mark.slow


def request(tiny_world, *, own_process=True, **changed):
    settings = EngineOptions(**{"model": str(tiny_world.teacher), "dtype": "float32", **changed})
    return EngineRequest(
        kind="transformers", settings=settings, option="--teacher", vocab_size=128, own_process=own_process
    )


def work(engine, items):
    """Answers every item with what it is told to do."""
    for item in items:
        if item == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "refuse":
            raise DataError("this cannot be used")
        yield item, engine.vocab_size, os.getpid()


def alive():
    return multiprocessing.active_children()


def test_results_come_in_order_from_another_process_that_is_gone_afterwards(tiny_world):
    found = list(run_on_engine(request(tiny_world), work, (str(n) for n in range(9))))
    assert [item for item, _, _ in found] == [str(n) for n in range(9)]
    assert {size for _, size, _ in found} == {128}
    (pid,) = {pid for _, _, pid in found}
    assert pid != os.getpid()
    assert not alive()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_no_engine_is_opened_for_no_work(tiny_world):
    assert list(run_on_engine(request(tiny_world, model="/nowhere"), work, [])) == []


def test_errors_arrive_as_what_they_are_after_the_results_before_them(tiny_world):
    results = run_on_engine(request(tiny_world), work, ["one", "refuse", "two"])
    assert next(results)[0] == "one"
    with pytest.raises(DataError, match=r"^this cannot be used$"):
        next(results)
    assert not alive()
    with pytest.raises(ConfigurationError, match="/nowhere: no such folder"):
        list(run_on_engine(request(tiny_world, model="/nowhere"), work, ["one"]))


def test_a_killed_process_is_an_error_that_names_the_item_and_the_way_on(tiny_world):
    results = run_on_engine(request(tiny_world), work, ["one", "die", "two"])
    assert next(results)[0] == "one"
    with pytest.raises(
        ScoringError, match=r"--teacher: .* killed by SIGKILL while it worked on die; .*run the same"
    ):
        next(results)
    assert not alive()


def test_giving_up_in_the_middle_stops_the_process(tiny_world):
    results = run_on_engine(request(tiny_world), work, ["one", "two", "three"])
    next(results)
    assert len(alive()) == 1
    results.close()
    assert not alive()


def with_a_helper(engine, items):
    """Has a child process that needs a moment to free what it holds, as vLLM's have."""
    tidy = "import signal, sys, time, pathlib; signal.signal(15, lambda *_: sys.exit(time.sleep(0.5)))\n"
    tidy += "try: pathlib.Path(sys.argv[1], 'held').touch(); time.sleep(600)\n"
    tidy += "finally: pathlib.Path(sys.argv[1], 'held').unlink()"
    for item in items:
        if item == "wait":
            time.sleep(600)
        subprocess.Popen([sys.executable, "-c", tidy, item])
        while not Path(item, "held").exists():
            time.sleep(0.01)
        yield item


def test_what_an_engine_has_started_may_tidy_up_before_it_is_ended(tiny_world, tmp_path, monkeypatch):
    # However busy this machine is.
    monkeypatch.setattr(engine_process, "STOP_WITHIN_S", 120.0)
    results = run_on_engine(request(tiny_world), with_a_helper, [str(tmp_path), "wait"])
    assert next(results) == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["held"]
    results.close()
    assert not list(tmp_path.iterdir())


def test_an_engine_that_does_not_fit_its_configuration_is_refused(tiny_world):
    settings = EngineOptions(model=str(tiny_world.teacher))
    wrong = functools.partial(
        EngineRequest, kind="transformers", settings=settings, option="--teacher", vocab_size=99
    )
    with pytest.raises(ScoringError, match=r"logits are 128 wide, config\.json says 99"):
        list(run_on_engine(wrong(own_process=False), work, ["one"]))


def test_both_ways_to_run_a_pass_write_the_same_bytes(tiny_world, tmp_path):
    written = []
    for own in (False, True):
        dataset = score_teacher(
            ScoreOptions(
                teacher=str(tiny_world.teacher), reference=str(tiny_world.reference), data=str(tiny_world.pairs),
                engine="transformers", top_k=8, shard_pairs=4, own_process=own,
                pass_cache=str(tmp_path / f"passes-{own}"), out=str(tmp_path / f"out-{own}"),
            )
        )  # fmt: skip
        written.append({path.name: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()})
    assert written[0] == written[1]


def report(engine, items):
    """Says three times how far it is before it answers; each is passed on at once, whatever process this is."""
    engine_process._TELL_EVERY_S = 0.0
    for item in items:
        for _ in range(3):
            engine.backend.heard(0.25)
        yield item


@pytest.mark.parametrize("own_process", [True, False])
def test_what_an_engine_says_while_it_works_is_heard_here(tiny_world, own_process, monkeypatch):
    monkeypatch.setattr(engine_process, "_TELL_EVERY_S", engine_process._TELL_EVERY_S)
    heard = []
    found = run_on_engine(request(tiny_world, own_process=own_process), report, ["one", "two"], heard.append)
    assert list(found) == ["one", "two"]
    assert heard == [0.25] * 6
