"""Commands made of options dataclasses: what is typed becomes fields."""

import dataclasses
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete

from data.errors import ConfigurationError
from data.options.click_options import CommandGroup, command_from
from data.options.fields import check_options, option


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Do something with a folder."""

    folder: str = option(help="a folder", positional=True)
    learning_rate: float = option(0.1, help="a rate", aliases=("--lr",))
    engine: str = option("auto", help="an engine", choices=("auto", "vllm"), expert=True)
    also: tuple[str, ...] = option((), help="further folders", positional=True)
    signals: str | None = option(None, help="signals")
    data: str | None = option(None, help="data", instead_of="signals")

    def __post_init__(self) -> None:
        check_options(self)


def typed(*words: str) -> Options:
    got: list[Any] = []
    command_from(Options, got.append, "do").main([*words], standalone_mode=False)
    return got[0]


def test_command_hands_positional_words_to_the_fields_in_their_order():
    assert typed("a") == Options(folder="a")
    assert typed("a", "b", "c") == Options(folder="a", also=("b", "c"))


def test_command_gives_a_flag_the_field_and_the_words_the_next_one():
    assert typed("--folder", "a", "b") == Options(folder="a", also=("b",))


def test_command_reads_an_alias_like_the_flag():
    assert (
        typed("a", "--lr", "3") == typed("a", "--learning-rate", "3") == Options(folder="a", learning_rate=3)
    )


def test_command_names_all_that_is_missing_at_once():
    with pytest.raises(ConfigurationError, match=r"^--folder and --signals \(or --data\) are required "):
        typed()
    # Where only one of the alternatives is missing, the dataclass itself decides.
    assert typed("a").signals is None


def test_command_completes_choices_and_files():
    program = CommandGroup("adpa", commands={"do": command_from(Options, print, "do")})

    def offered(*words: str) -> list[tuple[str, str]]:
        completion = BashComplete(program, {}, "adpa", "_ADPA_COMPLETE")
        return [(item.type, item.value) for item in completion.get_completions([*words], "")]

    assert offered("do", "--engine") == [("plain", "auto"), ("plain", "vllm")]
    assert offered("do", "--signals") == [("file", "")]
    assert offered("do") == [("file", "")]


def test_command_names_the_other_commands_that_have_an_option():
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Other:
        """Do something else."""

        teacher: str | None = option(None, help="a teacher")

    commands = {"do": command_from(Options, print, "do"), "score": command_from(Other, print, "score")}
    program = CommandGroup("adpa", commands=commands)
    with pytest.raises(click.UsageError, match=r"'--teacher'\. It is an option of 'adpa score'"):
        program.main(["do", "--teacher", "t"], standalone_mode=False)
    with pytest.raises(click.UsageError, match=r"'scroe'\. Did you mean 'adpa score'"):
        program.main(["scroe"], standalone_mode=False)
