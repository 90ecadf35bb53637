"""What a pass takes of a Ray cluster, and what it leaves on disk; nothing here starts one."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import ConfigurationError
from teacher_scoring.engines.contract import EngineOptions
from teacher_scoring.workers.ray_cluster import connected_ray, session_folder, worker_resources
from teacher_scoring.workers.work import EngineRequest


def engine_request(workers=2, **settings):
    return EngineRequest(
        kind="vllm",
        settings=EngineOptions(model="model", **settings),
        option="--teacher",
        vocab_size=10,
        own_process=True,
        workers=workers,
    )


def resources(nodes, workers=2, **settings):
    """What Ray is asked for, on a cluster of which it says this; machines with GPUs are not at hand."""
    cluster = SimpleNamespace(
        nodes=lambda: (
            [{"Alive": True, "Resources": node} for node in nodes]
            + [{"Alive": False, "Resources": {"CPU": 1.0, "GPU": 99.0}}]
        )
    )
    return worker_resources(cluster, engine_request(workers, **settings))


def test_a_worker_takes_tensor_times_pipeline_gpus():
    nodes = [{"CPU": 8.0, "GPU": 8.0}, {"CPU": 64.0}]
    assert resources(nodes)["num_gpus"] == 1
    assert resources(nodes, tensor_parallel_size=2, pipeline_parallel_size=4)["num_gpus"] == 8


def test_more_gpus_than_any_machine_has_are_refused():
    nodes = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]
    with pytest.raises(ConfigurationError, match=r": 8 GPUs for each worker, but no machine .* more than 4$"):
        resources(nodes, tensor_parallel_size=8)


@pytest.mark.parametrize(("cpus", "workers", "share"), [([16.0], 2, 8), ([2.0], 4, 1), ([2.0, 16.0], 1, 16)])
def test_without_gpus_workers_share_the_cpus_and_fit_on_one_machine(cpus, workers, share):
    assert resources([{"CPU": number} for number in cpus], workers) == {"num_cpus": share}


def test_rays_folder_goes_with_the_run_and_those_of_killed_runs_with_the_next(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)
        left, in_use, foreign = (
            Path(parent) / name
            for name in (f"adpa-ray-{ended.pid}-x", f"adpa-ray-{os.getppid()}-x", "adpa-ray-notes")
        )
        for folder in (left, in_use, foreign):
            folder.mkdir()
        with session_folder() as folder:
            assert folder.parent == Path(parent)
            assert sorted(Path(parent).iterdir()) == sorted([folder, in_use, foreign])
        assert not folder.exists()


@pytest.mark.parametrize("mode", [{}, {"RAY_AUTH_MODE": "token"}], ids=["default", "asked for"])
def test_a_cluster_of_this_machine_puts_no_token_into_the_home(monkeypatch, mode):
    environment = dict(mode)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    with connected_ray(engine_request()):
        assert environment["RAY_AUTH_MODE"] == "token"
        assert len(environment["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_that_the_user_has_chosen_is_left_alone(monkeypatch, name):
    environment = {name: "chosen"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    with connected_ray(engine_request()):
        assert {key: value for key, value in environment.items() if "TOKEN" in key} == {name: "chosen"}
