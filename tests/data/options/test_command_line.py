"""The command line that the demo shows is the step that it took."""

import shlex
from typing import Any

import pytest

from data.options.click_options import command_from
from data.options.command_line import command_line
from data.translation.command import SignalsTranslateOptions
from student_training.options import TrainOptions
from teacher_scoring.options import SampleOptions, ScoreOptions


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "train-student",
            TrainOptions(student="m/a b", out="m/c", method="abd", signals=("s/1", "s/2"), boost=0.5),
        ),
        (
            "train-student",
            TrainOptions(student="m", out="o", method="sft", data="d.jsonl", learning_rate=2e-3),
        ),
        ("train-student", TrainOptions(student="m", out="o", method="abd", signals=("s",), clip="-1:1")),
        (
            "score-teacher",
            ScoreOptions(
                teacher="t", reference="r", data="d", out="o", score=("chosen", "rejected"), top_k=16
            ),
        ),
        ("signals translate", SignalsTranslateOptions(signals="s/a b", tokenizer="m", max_length=9)),
        ("sample-student", SampleOptions(student="s", data="d", out="o", temperature=0.0, truncate=True)),
    ],
)
def test_typing_the_line_gives_the_same_options(command: str, options: Any) -> None:
    line = command_line(command, options)
    typed: list[Any] = []
    words = shlex.split(line)
    name = ["adpa", *command.split()]
    assert words[: len(name)] == name
    command_from(type(options), typed.append, command).main(words[len(name) :], standalone_mode=False)
    assert typed == [options]
