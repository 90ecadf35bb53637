"""score-teacher killed, interrupted, refused by the disk: the same command continues to the same bytes."""

import contextlib
import errno
import itertools
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import ShardError
from teacher_scoring.score import ScoreOptions, score_teacher

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
#: 10 pairs, 4 to a shard, two roles, two models.
NUM_PASS_FILES = 12


def command(tiny_world, folder, *more):
    return [
        sys.executable, str(ROOT / "cli.py"), "score-teacher", "--teacher", str(tiny_world.teacher),
        "--reference", str(tiny_world.reference), "--data", str(tiny_world.pairs), "--engine", "transformers",
        "--top-k", "8", "--shard-pairs", "4", "--pass-cache", str(folder / "passes"), "--out",
        str(folder / "out"), *more,
    ]  # fmt: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run(command(tiny_world, folder), check=True, capture_output=True)
    return contents(folder / "out")


def halted(arguments, tmp_path, files, after):
    """Start a command that halts before it names another file once a given number are there.

    By progress, not by the clock, so that load does not matter.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent / "halting"),
        "ADPA_HALT_FILES": str(tmp_path / files),
        "ADPA_HALT_AFTER": str(after),
        "ADPA_HALT_MARK": str(tmp_path / "halted"),
    }
    running = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)
    state = os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert state is not None
    assert state.si_code == os.CLD_STOPPED, running.communicate()
    return running


def go_on(running, number):
    """Let a halted command go on with a signal in its way; its exit code and what it said."""
    running.send_signal(number)
    running.send_signal(signal.SIGCONT)
    _, said = running.communicate()
    return running.returncode, said


@pytest.mark.parametrize(
    ("number", "code", "own_process"),
    [
        (signal.SIGKILL, -9, True),
        (signal.SIGTERM, 143, False),
        (signal.SIGTERM, 143, True),
        (signal.SIGINT, 130, False),
    ],
)
def test_a_stopped_run_continues_to_the_same_bytes(
    number, code, own_process, tiny_world, tmp_path, uninterrupted
):
    # Within the teacher's pass where the engine has a separate process, else within the reference's.
    after = 3 if own_process else 8
    more = ["--own-process"] if own_process else []
    running = halted(command(tiny_world, tmp_path, *more), tmp_path, "passes/*.parquet", after)
    found, said = go_on(running, number)
    assert found == code, said
    if code == 130:
        assert said.endswith("interrupted; the same command continues where this one stopped\n")
    assert not (tmp_path / "out" / "manifest.json").exists()
    # Up to three were being written, and an engine in a separate process does not halt at once.
    kept = len(list(tmp_path.glob("passes/*.parquet")))
    assert after <= kept < NUM_PASS_FILES
    finished = subprocess.run(command(tiny_world, tmp_path), check=True, capture_output=True, text=True)
    assert ", 0 of them scored before" not in finished.stderr.split("reference:")[0]
    assert contents(tmp_path / "out") == uninterrupted
    assert not list((tmp_path / "out").glob(".*"))


# Runs a command that may not write files above a given size.
_LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_disk_that_takes_no_more_is_one_error_and_the_same_command_continues(
    tiny_world, tmp_path, uninterrupted
):
    largest = max(len(content) for path, content in uninterrupted.items() if path.suffix == ".parquet")

    limited = [sys.executable, "-c", _LIMITED, str(largest - 1), *command(tiny_world, tmp_path)]
    refused = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "cannot be written: File too large" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "manifest.json").exists()
    subprocess.run(command(tiny_world, tmp_path), check=True, capture_output=True)
    assert contents(tmp_path / "out") == uninterrupted


def test_a_full_disk_at_any_write_is_an_error_and_the_run_continues(tiny_world, tmp_path, monkeypatch):
    def score(folder):
        options = ScoreOptions(
            teacher=str(tiny_world.teacher), reference=str(tiny_world.reference), data=str(tiny_world.pairs),
            engine="transformers", top_k=8, shard_pairs=10, pass_cache=str(folder / "passes"),
            out=str(folder / "out"),
        )  # fmt: skip
        return score_teacher(options)

    score(tmp_path / "whole")
    whole = contents(tmp_path / "whole" / "out")
    allowed, written = 0, itertools.count()
    fsync = os.fsync

    def full_disk(descriptor):
        # Every file is flushed once before it gets its name; so are folders, which take no room.
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and next(written) == allowed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    while True:
        folder = tmp_path / f"full-{allowed}"
        written = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full_disk)
            try:
                score(folder)
                break
            except ShardError as error:
                assert "cannot be written: No space left on device; nothing was changed" in str(error)  # noqa: PT017
        assert not (folder / "out" / "manifest.json").exists()
        score(folder)
        assert contents(folder / "out") == whole
        allowed += 1
    # The request, token ids, four passes, a shard and its record, three files of the tokenizer, the part's end, card,
    # manifest.
    assert allowed >= 12


def test_a_killed_command_leaves_no_engine_behind(tiny_world, tmp_path, still_running):
    arguments = command(tiny_world, tmp_path, "--own-process", "--shard-pairs", "1")
    running = halted(arguments, tmp_path, "passes/*.parquet", after=1)
    started = descendants(running.pid)
    assert started
    assert go_on(running, signal.SIGKILL)[0] == -signal.SIGKILL
    assert [started[pid] for pid in still_running(started)] == []


def test_a_command_with_workers_stops_and_one_engine_continues_it(
    tiny_world, tmp_path, uninterrupted, still_running
):
    pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
    running = halted(command(tiny_world, tmp_path, "--workers", "2"), tmp_path, "passes/*.parquet", after=1)
    started = descendants(running.pid)
    assert any("_EngineActor" in name for name in started.values())
    code, said = go_on(running, signal.SIGTERM)
    assert (code, said.count("Traceback")) == (143, 0)
    assert [started[pid] for pid in still_running(started)] == []
    assert not list(Path("/tmp").glob(f"adpa-ray-{running.pid}-*"))
    subprocess.run(command(tiny_world, tmp_path), check=True, capture_output=True)
    assert contents(tmp_path / "out") == uninterrupted


def descendants(pid):
    """All processes below one, with their command lines."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # threads and processes that have ended meanwhile
            for child in (task / "children").read_text().split():
                found |= {child: command_line(child), **descendants(child)}
    return found


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_sampling_that_was_stopped_continues_to_the_same_bytes(tiny_world, tmp_path):
    def sample(folder):
        return [
            sys.executable, str(ROOT / "cli.py"), "sample-student", "--student", str(tiny_world.student), "--data",
            str(tiny_world.pairs), "--engine", "transformers", "--max-new-tokens", "20", "--shard-pairs", "1",
            "--out", str(folder),
        ]  # fmt: skip

    subprocess.run(sample(tmp_path / "whole"), check=True, capture_output=True)
    running = halted(sample(tmp_path / "stopped"), tmp_path, "stopped/shard-*", after=3)
    assert go_on(running, signal.SIGTERM)[0] == 143
    finished = subprocess.run(sample(tmp_path / "stopped"), check=True, capture_output=True, text=True)
    assert "of prompts, 0 of them sampled before" not in finished.stderr
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
