"""Datasets in the store, and two processes that want the same one."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.checks.verify import verify_dataset
from data.errors import ConfigurationError
from data.locks import hold_lock
from data.storage.store import list_datasets, store_folder
from teacher_scoring.sample import SampleOptions, sample_student
from teacher_scoring.score import ScoreOptions, score_teacher

ROOT = Path(__file__).parents[3]
WAITING = ": another process is making this dataset; waiting for it"


@pytest.fixture
def options(tiny_world):
    """Options without a folder, with some of them changed."""

    def make(**changed):
        given = {
            "teacher": str(tiny_world.teacher),
            "reference": str(tiny_world.reference),
            "data": str(tiny_world.pairs),
            "engine": "transformers",
            "top_k": 8,
        }
        return ScoreOptions(**{**given, **changed})

    return make


def test_without_out_the_same_request_finds_its_dataset_in_the_store(options, monkeypatch):
    made = score_teacher(options())
    assert made.path.parent == store_folder()
    assert made.open().manifest.fingerprint.startswith(made.path.name)
    assert verify_dataset(made.path) == []
    monkeypatch.setattr("teacher_scoring.score._score", lambda *_: pytest.fail("must not score"))
    found = score_teacher(options())
    assert found.path == made.path
    assert found.reused


def test_another_request_gets_another_folder(options):
    assert score_teacher(options()).path != score_teacher(options(top_k=4)).path
    assert len(list_datasets()) == 2
    assert sorted(os.listdir(store_folder())) == sorted(dataset.path.name for dataset in list_datasets())


def test_sampled_answers_lie_in_the_store_too_and_are_scored_by_their_name(options, tiny_world):
    sample = SampleOptions(
        student=str(tiny_world.student), data=str(tiny_world.pairs), engine="transformers", max_new_tokens=4
    )
    rollouts = sample_student(sample).open()
    assert sample_student(sample).path == rollouts.path
    dataset = score_teacher(options(rollouts=rollouts.path.name, score=("student",))).open()
    assert dataset.manifest.request["rollouts"] == rollouts.manifest.fingerprint
    assert {stored.manifest.kind for stored in list_datasets()} == {"signals", "rollouts"}


def test_parts_need_a_folder_to_meet_in(options):
    with pytest.raises(ConfigurationError, match="--shard-range needs --out"):
        options(shard_range="1/2")


# A command that stops before it completes its dataset, until it is told to go on.
_SLOW = """
import sys
from teacher_scoring.build.dataset_build import DatasetBuild
complete = DatasetBuild.complete
def slow(*arguments):
    print("almost", flush=True)
    sys.stdin.readline()
    return complete(*arguments)
DatasetBuild.complete = slow
import cli
cli.main()
"""


def test_of_two_processes_one_scores_and_the_other_waits_and_then_reads(options):
    given = options()
    command = ["score-teacher", "--teacher", given.teacher, "--reference", given.reference, "--data", given.data,
               "--engine", "transformers", "--top-k", "8"]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    first = subprocess.Popen([sys.executable, "-c", _SLOW, *command], stdin=subprocess.PIPE, **pipes)
    assert first.stdout.readline() == "almost\n"
    second = subprocess.Popen([sys.executable, "cli.py", *command], **pipes)
    # Libraries may have something to say first.
    folder = next(line for line in second.stderr if line.endswith(WAITING + "\n")).removesuffix(
        WAITING + "\n"
    )
    made, _ = first.communicate("go on\n")
    found, said = second.communicate()
    assert (first.returncode, second.returncode) == (0, 0), said
    assert made == found
    assert made.startswith(f"{folder}: 20 responses of 10 pairs, ")
    assert f"{folder} holds this dataset already; nothing to do\n" in said
    assert "positions" not in said
    assert verify_dataset(folder) == []
    assert not list(Path(folder).parent.glob(".*.lock"))


def test_with_out_other_parts_are_made_at_the_same_time(options, tmp_path, caplog):
    class WaitsError(Exception):
        pass

    def stop_at_waiting(record):
        if record.getMessage() == f"{tmp_path / 'out'}{WAITING}":
            raise WaitsError
        return True

    whole, part = (
        options(out=str(tmp_path / "out"), shard_pairs=4, shard_range=text) for text in (None, "2/2")
    )
    logger = logging.getLogger("teacher_scoring.build.dataset_build")
    with caplog.at_level("INFO", logger=logger.name):
        logger.addFilter(stop_at_waiting)
        try:
            with hold_lock(tmp_path / "out" / ".work" / "1-of-1.lock"):
                with pytest.raises(WaitsError):
                    score_teacher(whole)
                score_teacher(part)
            assert verify_dataset(score_teacher(whole).path) == []
        finally:
            logger.removeFilter(stop_at_waiting)
    assert not (tmp_path / "out" / ".work").exists()
