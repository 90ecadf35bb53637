"""Engines as Ray actors: order, lost workers, what a worker has to find where it runs."""

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import ConfigurationError, ShardError
from teacher_scoring.engines.contract import EngineOptions
from teacher_scoring.engines.models import find_model
from teacher_scoring.options import SampleOptions, ScoreOptions
from teacher_scoring.sample import sample_student
from teacher_scoring.workers import process
from teacher_scoring.workers.ray_cluster import session_folder
from teacher_scoring.workers.run import EngineRequest, request_engine, run_on_engine

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all of this file; commands that start their own are in test_resume.py."""
    with pytest.MonkeyPatch.context() as patch, session_folder() as folder:
        # Without one Ray makes a token and keeps it in the user's home.
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # Where workers find what this file gives them to do, wherever the tests were started.
        patch.setenv("PYTHONPATH", str(ROOT))
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            configure_logging=False,
            _temp_dir=str(folder),
        )
        yield
        ray.shutdown()


@pytest.fixture
def request_of(tiny_world):
    def make(**changed):
        return EngineRequest(
            **{
                "kind": "transformers",
                "settings": EngineOptions(model=str(tiny_world.teacher), dtype="float32"),
                "option": "--teacher",
                "vocab_size": 128,
                "own_process": False,
                "workers": 2,
                **changed,
            }
        )

    return make


def work(engine, items):
    """Answers every item when it has done what it says; an engine or its actor is killed only once, a file says so."""
    for item in items:
        order, _, marker = item.partition(" ")
        if order in ("engine", "actor") and not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid() if order == "engine" else os.getppid(), signal.SIGKILL)
        if order == "refuse":
            raise ShardError("this disk is full")
        time.sleep(0.05)
        yield item, engine.vocab_size, os.getpid()


def report(engine, items):
    """Says three times how far it is before it answers; each is passed on at once."""
    process._TELL_EVERY_S = 0.0
    for item in items:
        for _ in range(3):
            engine.backend.heard(0.25)
        yield item


def test_work_of_killed_workers_is_done_by_others_in_order(request_of, tmp_path, caplog, still_running):
    items = [str(number) for number in range(12)]
    # Nearly at once, so that the engines which take their places start side by side.
    items[3], items[4] = (f"{victim} {tmp_path / victim}" for victim in ("engine", "actor"))
    found = list(run_on_engine(request_of(shared_folders=(tmp_path,)), work, iter(items)))
    assert [item for item, _, _ in found] == items
    assert {size for _, size, _ in found} == {128}
    said = [
        record.message for record in caplog.records if "waiting for the Ray cluster" not in record.message
    ]
    assert ["was killed by SIGKILL" in line or "a worker died" in line for line in said] == [True, True]
    assert all(line.endswith("its work goes to another worker") for line in said)
    assert still_running({pid for _, _, pid in found}) == []
    assert sorted(os.listdir(tmp_path)) == ["actor", "engine"]


def test_what_workers_say_while_they_work_is_heard_here(request_of):
    heard = []
    found = run_on_engine(request_of(), report, ["one", "two", "three"], heard.append)
    assert list(found) == ["one", "two", "three"]
    assert sum(heard) == 0.75 * 3


def test_what_another_worker_cannot_fix_ends_the_run_with_the_error_itself(request_of):
    results = run_on_engine(request_of(workers=1, ray_address="auto"), work, ["one", "refuse", "two"])
    assert next(results)[0] == "one"
    with pytest.raises(ShardError, match=r"^this disk is full$"):
        next(results)


def test_a_worker_that_does_not_see_the_shared_folder_says_where_it_runs(request_of, tmp_path):
    # What this process has written there is gone before the worker looks: as if it were on another machine.
    def items():
        yield "one"
        for probe_file in tmp_path.iterdir():
            probe_file.unlink()
        yield "two"

    request = request_of(shared_folders=(tmp_path,), workers=2)
    with pytest.raises(ConfigurationError, match=rf"worker on .* does not see .* {tmp_path}; put --out and"):
        list(run_on_engine(request, work, items()))


def test_rollouts_of_two_workers_are_those_of_one_engine(tiny_world, tmp_path):
    def sample(name, **options):
        rollouts = sample_student(
            SampleOptions(
                student=str(tiny_world.student), data=str(tiny_world.pairs), engine="transformers",
                max_new_tokens=6, shard_pairs=2, out=str(tmp_path / name), **options,
            )
        )  # fmt: skip
        return {path.name: path.read_bytes() for path in rollouts.path.rglob("*") if path.is_file()}

    assert sample("two", workers=2) == sample("one")


def test_a_command_joins_the_cluster_that_it_is_told_of(tiny_world, tmp_path):
    line = [sys.executable, ROOT / "cli.py", "score-teacher", "--engine", "transformers", "--top-k", "4"]
    line += ["--teacher", tiny_world.teacher, "--data", tiny_world.pairs, "--shard-pairs", "4"]
    line += ["--ray-address", ray.get_runtime_context().gcs_address, "--out", tmp_path / "signals"]
    # Ray's own switch: without it, a cluster with an address is not asked for its token.
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    run = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert "20 responses of 10 pairs" in run.stdout


@pytest.fixture
def engine_for(tiny_world):
    def make(**options):
        teacher = find_model(
            "--teacher", str(tiny_world.teacher), revision=None, adapter=None, trust_remote_code=False
        )
        chosen = {"teacher": str(tiny_world.teacher), "data": "data", "out": "out", "engine": "transformers"}
        return request_engine(ScoreOptions(**{**chosen, **options}), teacher)

    return make


def test_several_workers_and_a_named_cluster_run_on_ray(engine_for):
    assert engine_for(workers=3).workers == 3
    assert engine_for(workers=3).on_ray
    assert not engine_for().on_ray
    assert engine_for(ray_address="auto").on_ray


def test_options_that_workers_cannot_serve_are_refused_before_any_work(engine_for, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"--no-own-process: .* leave it out"):
        engine_for(workers=2, own_process=False)
    with pytest.raises(ConfigurationError, match=r"--ray-address: 'ray://head:10001' .* auto or HOST:PORT"):
        engine_for(ray_address="ray://head:10001")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"need Ray, which is not installed; .* \[ray\]"):
        engine_for(workers=2)
