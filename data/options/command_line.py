"""An options object as the command line that a user would type."""

import dataclasses
import shlex
from collections.abc import Collection
from typing import Any

from data.options.fields import flag_name


def command_line(
    command: str, options: Any, *, determining: bool = False, without: Collection[str] = ()
) -> str:
    """The `adpa` line for an options dataclass: every option that differs from its default.

    Args:
        command: the command's name; several words for one of a group.
        options: its options.
        determining: leave out what cannot change what the command computes.
        without: fields to leave out.
    """
    words = ["adpa", *command.split()]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        described = field.metadata["determining"] or not determining
        if value == field.default or field.name in without or not described:
            continue
        flag = flag_name(field.name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif isinstance(value, tuple) and field.metadata["commas"]:
            words += [flag, ",".join(value)]
        else:
            for item in value if isinstance(value, tuple) else (value,):
                words += [flag, f"{item:g}" if isinstance(item, float) else str(item)]
    return shlex.join(words)
