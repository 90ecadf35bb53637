import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data.locks import hold_lock

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_only_one_process_of_many_holds_a_lock_that_each_deletes(tmp_path):
    """Eight processes count to 400 together, by reading a number and writing it back."""
    script = """
import contextlib, sys
from pathlib import Path
from data.locks import hold_lock
counter = Path(sys.argv[1]) / "counter"
folder = counter.with_name("folder")
for _ in range(50):
    with hold_lock(folder / "lock"):
        value = int(counter.read_text())
        counter.write_text(str(value + 1))
    with contextlib.suppress(OSError):
        folder.rmdir()
"""
    (tmp_path / "counter").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=REPOSITORY) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert (tmp_path / "counter").read_text() == "400"
    assert not (tmp_path / "folder").exists()


def test_whoever_has_to_wait_is_told_so_once(tmp_path):
    told = []
    held = threading.Event()
    released = []

    def holder():
        with hold_lock(tmp_path / "lock"):
            held.set()
            while not told:
                pass
            released.append(True)

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait()
    with hold_lock(tmp_path / "lock", waiting=lambda: told.append(True)):
        assert released == [True]
    thread.join()
    assert told == [True]


def test_a_lock_in_what_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError), hold_lock(tmp_path / "file" / "lock"):
        pass


def test_a_lock_behind_a_link_that_leads_nowhere_is_an_error(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "disk")
    with pytest.raises((FileNotFoundError, FileExistsError)), hold_lock(tmp_path / "link" / "runs" / "lock"):
        pass


def test_a_lock_that_another_machine_has_deleted_is_not_taken_for_held(tmp_path, monkeypatch):
    """NFS says ESTALE of an open file that another machine has deleted; whoever waited for it tries again."""
    calls = []
    fstat = os.fstat

    def stale_once(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fstat(descriptor)

    monkeypatch.setattr(os, "fstat", stale_once)
    with hold_lock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert len(calls) == 2


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_where_the_file_system_knows_no_locks_nothing_keeps_others_out(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold_lock(tmp_path / "lock"), hold_lock(tmp_path / "lock", waiting=lambda: pytest.fail("waits")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_holder_was_killed_is_free(tmp_path):
    script = "import os, sys; from data.locks import hold_lock\nwith hold_lock(sys.argv[1]): os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", script, tmp_path / "lock"]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == -9
    assert (tmp_path / "lock").exists()
    with hold_lock(tmp_path / "lock", waiting=lambda: pytest.fail("waits")):
        pass
    assert list(tmp_path.iterdir()) == []
