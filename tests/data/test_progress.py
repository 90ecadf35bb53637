import logging
import sys
import threading

import pytest

from data import progress
from data.progress import Progress


def count(done, **description):
    shown = Progress("teacher", unit="positions", **description)
    shown.update(done)
    return shown


@pytest.mark.parametrize(
    ("done", "total", "elapsed_s", "line"),
    [
        (0, 1000, 95, "teacher: 0 of 1,000 positions (0%), 1 min 35 s so far"),
        (250, 1000, 10, "teacher: 250 of 1,000 positions (25%), 25 a second, 30 s left"),
        (10, 2000, 100, "teacher: 10 of 2,000 positions (0%), 6.0 a minute, 5 h 31 min left"),
        (5000, None, 10, "teacher: 5,000 positions, 500 a second"),
    ],
)
def test_progress_says_count_share_rate_and_time_left(done, total, elapsed_s, line):
    assert count(done, total=total).describe(elapsed_s) == line


def test_progress_off_a_terminal_writes_lines_before_anything_is_done(monkeypatch, caplog):
    """The thread writes by itself; the loop here waits for two lines without ever updating."""
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    written = threading.Semaphore(0)
    handler = logging.Handler()
    handler.emit = lambda record: written.release()
    progress.logger.addHandler(handler)
    try:
        with (
            caplog.at_level(logging.INFO, logger="data.progress"),
            Progress("student", unit="responses", total=9),
        ):
            assert written.acquire(timeout=120)
            assert written.acquire(timeout=120)
    finally:
        progress.logger.removeHandler(handler)
    assert caplog.messages[0] == "student: 0 of 9 responses (0%), 0 s so far"


def test_progress_is_silent_where_nobody_asked_for_it(monkeypatch, caplog, capsys):
    monkeypatch.setattr(progress, "EVERY_S", 0.001)
    before = threading.active_count()
    with (
        caplog.at_level(logging.WARNING, logger="data.progress"),
        Progress("student", unit="responses") as shown,
    ):
        shown.update()
        assert threading.active_count() == before
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


def test_progress_counts_what_it_hears_before_results_arrive_and_nothing_twice():
    shown = Progress("student", unit="responses", total=40)
    shown.hear(4.4)
    assert shown.describe(22) == "student: 4 of 40 responses (11%), 12.0 a minute, 2 min 58 s left"
    shown.update(10)
    shown.hear(5.6)
    assert shown.describe(10) == "student: 10 of 40 responses (25%), 1 a second, 30 s left"
    # Answers that were lost and asked for again are heard more than once.
    shown.hear(60)
    assert shown.describe(10) == "student: 40 of 40 responses (100%), 4 a second, 0 s left"


def test_progress_leaves_out_of_its_speed_what_an_earlier_run_did():
    shown = Progress("train", unit="steps", total=100)
    shown.find(50)
    assert shown.describe(30) == "train: 50 of 100 steps (50%), 30 s so far"
    shown.update(10)
    assert shown.describe(20) == "train: 60 of 100 steps (60%), 30.0 a minute, 1 min 20 s left"
