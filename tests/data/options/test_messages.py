"""Messages of a command: what is shown of our loggers and of others, and how."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from data.options.messages import show_messages

ROOT = Path(__file__).parents[3]


def say_everything():
    logging.getLogger("teacher_scoring.score").debug("our detail")
    logging.getLogger("data.files").info("our line: 100%s")
    logging.getLogger("student_training").warning("our warning")
    logging.getLogger("somebody.else").info("their line")
    logging.getLogger("somebody.else").warning("their warning")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ["our line: 100%s", "warning: our warning", "warning: their warning"]),
        ({"quiet": True}, ["warning: our warning", "warning: their warning"]),
    ],
)
def test_messages_are_our_lines_and_everybodys_warnings(capsys, flags, expected):
    with show_messages(**flags):
        say_everything()
    assert capsys.readouterr().err.splitlines() == expected


def test_verbose_messages_say_when_and_by_whom(capsys):
    with show_messages(verbose=True):
        say_everything()
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith(" debug teacher_scoring.score: our detail")
    assert first[2] == first[5] == ":"


def test_messages_end_with_their_context(capsys):
    handlers, level = list(logging.getLogger().handlers), logging.getLogger("data").level
    with show_messages(verbose=True):
        pass
    say_everything()
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("data").level == level
    assert "our line" not in capsys.readouterr().err


def test_message_stands_alone_while_a_bar_is_drawn():
    program = (
        "import logging, sys, tqdm\n"
        "from data.options.messages import show_messages\n"
        "with show_messages(), tqdm.tqdm(desc='bar', total=2, file=sys.stderr):\n"
        "    logging.getLogger('data').info('a line')"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=True)
    assert "bar:" in finished.stderr.decode()
    # What a terminal shows: a carriage return begins the line anew.
    assert "a line" in finished.stderr.decode().replace("\r", "\n").split("\n")
