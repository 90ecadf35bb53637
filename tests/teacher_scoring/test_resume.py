"""score-teacher killed, interrupted, refused by the disk: the same command continues to the same bytes."""

import errno
import itertools
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import ShardError
from teacher_scoring.score import ScoreOptions, score_teacher

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


def start(arguments, **pipes):
    # In the background of a script Ctrl-C is ignored, and children inherit that; these must not.
    def listen():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(arguments, preexec_fn=listen, **pipes)  # noqa: PLW1509  (no threads here)


def interrupt(arguments, folder, number, after):
    """Start a command and signal it when so many pass files are there; by progress, so that load does not matter."""
    running = start(arguments, stderr=subprocess.PIPE, text=True)
    while running.poll() is None:
        if len(list(folder.glob("passes/*.parquet"))) >= after:
            running.send_signal(number)
            break
        time.sleep(0.005)
    return running.wait(), running.stderr.read()


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
    # Within the teacher's pass where the engine has a process of its own, else within the reference's.
    after = 3 if own_process else 8
    more = ["--own-process"] if own_process else []
    found, said = interrupt(command(tiny_world, tmp_path, *more), tmp_path, number, after)
    assert found == code, said
    if code == 130:
        assert said.endswith("interrupted; the same command continues where this one stopped\n")
    assert not (tmp_path / "out" / "manifest.json").exists()
    # One more may have been finished between the count and the signal, and up to three were being written.
    kept = len(list(tmp_path.glob("passes/*.parquet")))
    assert after <= kept < NUM_PASS_FILES
    finished = subprocess.run(command(tiny_world, tmp_path), check=True, capture_output=True, text=True)
    assert ", 0 of them scored before" not in finished.stderr.split("reference:")[0]
    assert contents(tmp_path / "out") == uninterrupted
    assert not list((tmp_path / "out").glob(".*"))


def test_a_disk_that_takes_no_more_is_one_error_and_the_same_command_continues(
    tiny_world, tmp_path, uninterrupted
):
    largest = max(len(content) for path, content in uninterrupted.items() if path.suffix == ".parquet")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1))

    refused = subprocess.run(
        command(tiny_world, tmp_path), preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "cannot be written: File too large" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "manifest.json").exists()
    subprocess.run(command(tiny_world, tmp_path), check=True, capture_output=True)
    assert contents(tmp_path / "out") == uninterrupted


def test_a_disk_that_is_full_at_any_one_write_is_an_error_after_which_the_same_command_continues(
    tiny_world, tmp_path, monkeypatch
):
    def score(folder):
        options = ScoreOptions(
            teacher=str(tiny_world.teacher), reference=str(tiny_world.reference), data=str(tiny_world.pairs),
            engine="transformers", top_k=8, shard_pairs=10, pass_cache=str(folder / "passes"),
            out=str(folder / "out"),
        )  # fmt: skip
        return score_teacher(options, report=lambda line: None)

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


def test_a_killed_command_leaves_no_engine_behind(tiny_world, tmp_path):
    arguments = command(tiny_world, tmp_path, "--own-process", "--shard-pairs", "1")
    running = start(arguments, stderr=subprocess.DEVNULL)
    while running.poll() is None and not list(tmp_path.glob("passes/*.parquet")):
        time.sleep(0.005)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.kill()
    running.wait()
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in children if is_running(pid)] == []


def test_a_command_with_workers_stops_whole_and_one_engine_continues_to_the_same_bytes(
    tiny_world, tmp_path, uninterrupted
):
    pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
    running = start(command(tiny_world, tmp_path, "--workers", "2"), stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not list(tmp_path.glob("passes/*.parquet")):
        time.sleep(0.005)
    started = descendants(running.pid)
    assert any("_EngineActor" in name for name in started.values())
    running.send_signal(signal.SIGTERM)
    assert (running.wait(), running.stderr.read().count("Traceback")) == (143, 0)
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [name for pid, name in started.items() if is_running(pid)] == []
    assert not list(Path("/tmp").glob(f"adpa-ray-{running.pid}-*"))
    subprocess.run(command(tiny_world, tmp_path), check=True, capture_output=True)
    assert contents(tmp_path / "out") == uninterrupted


def descendants(pid):
    """All processes below one, with their command lines."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found[child] = Path(f"/proc/{child}/cmdline").read_text()
            found |= descendants(child)
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_sampling_that_was_stopped_continues_to_the_same_bytes(tiny_world, tmp_path):
    def sample(folder):
        return [
            sys.executable, str(ROOT / "cli.py"), "sample-student", "--student", str(tiny_world.student), "--data",
            str(tiny_world.pairs), "--engine", "transformers", "--max-new-tokens", "20", "--shard-pairs", "1",
            "--out", str(folder),
        ]  # fmt: skip

    subprocess.run(sample(tmp_path / "whole"), check=True, capture_output=True)
    running = start(sample(tmp_path / "stopped"), stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list(tmp_path.glob("stopped/shard-*"))) < 3:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait() == 143
    finished = subprocess.run(sample(tmp_path / "stopped"), check=True, capture_output=True, text=True)
    assert "of prompts, 0 of them sampled before" not in finished.stderr
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
