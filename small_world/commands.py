"""Options as the command line that does the same by hand."""

import dataclasses
import shlex
from typing import Any

from data.options import flag_name

__all__ = ["command_line"]


def command_line(command: str, options: Any) -> str:
    """The `adpa` line for an options dataclass: every option that differs from its default."""
    words = ["adpa", command]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default:
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
