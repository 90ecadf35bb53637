"""Command options as fields of a frozen dataclass: help, ranges, checks."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from data.errors import ConfigurationError

#: The headings of `--help`, in their order: a field's group, and what is printed above its options.
GROUPS: Mapping[str, str] = {
    "model": "Models",
    "data": "Data",
    "method": "Method",
    "sampling": "Sampling",
    "scoring": "Scoring",
    "judge": "Judge",
    "optimisation": "Optimisation",
    "memory": "Memory and speed",
    "evaluation": "Evaluation",
    "saving": "Output and saving",
    "engine": "Engine",
    "": "Options",
    "expert": "Expert",
}


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    determining: bool = True,
    commas: bool = False,
    group: str = "",
    expert: bool = False,
    aliases: tuple[str, ...] = (),
    positional: bool = False,
    instead_of: str | None = None,
    folder: bool = False,
    check: Callable[[Any], object] | None = None,
) -> Any:
    """Declare one command option as a dataclass field.

    Args:
        default: value when neither the command line nor the configuration file gives one; required if omitted.
        help: one line for `--help`, with the unit where there is one.
        choices: the allowed values of a string option.
        minimum: smallest allowed number, inclusive.
        maximum: largest allowed number, inclusive.
        determining: whether the value can change what the command computes. Others (progress, workers) may
            differ between a run and its continuation.
        commas: whether a tuple is written as one comma-separated value; otherwise the option repeats.
        group: the heading that `--help` lists it under, a key of `GROUPS`.
        expert: whether only `--help-all` lists it; true for everything in the group "expert".
        aliases: further spellings, with their dashes, such as `("--lr",)`.
        positional: whether the value may also be given without its flag. Several positional fields are filled in
            their order; one that is a tuple takes all that are left.
        instead_of: name of another field that may be given instead of this one; a command line with neither is
            refused together with what else it lacks.
        folder: whether the value is a folder to write into; a file in its way is found before the work begins.
        check: called with a value; raises what is wrong with it.
    Returns:
        A dataclass field with this description in its metadata.
    """
    if group not in GROUPS:
        raise ValueError(f"group {group!r} is not one of {', '.join(map(repr, GROUPS))}")
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "determining": determining,
        "commas": commas,
        "group": group,
        "expert": expert or group == "expert",
        "aliases": aliases,
        "positional": positional,
        "instead_of": instead_of,
        "folder": folder,
        "check": check,
    }
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_name(field_name: str) -> str:
    """The command-line spelling of a field: `top_k` becomes `--top-k`."""
    return "--" + field_name.replace("_", "-")


def option_type(annotation: Any) -> tuple[type, bool, bool]:
    """Take a field's annotation apart.

    Returns:
        (the scalar type, whether the option repeats as a tuple, whether None is allowed).
    """
    optional = False
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        arguments = [a for a in typing.get_args(annotation) if a is not type(None)]
        optional = len(arguments) < len(typing.get_args(annotation))
        annotation = arguments[0]
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True, optional
    return annotation, False, optional


def check_options(options: Any) -> None:
    """Check every field of an options dataclass against its type and range; call it from `__post_init__`.

    Raises:
        ConfigurationError: naming the option, the value seen and the values allowed.
    """
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        if "help" not in field.metadata:
            continue
        value = getattr(options, field.name)
        scalar, repeats, optional = option_type(hints[field.name])
        if value is None:
            if not optional:
                raise ConfigurationError(f"{flag_name(field.name)} is required")
            continue
        for item in value if repeats else (value,):
            _check_value(flag_name(field.name), item, scalar, field.metadata)
        if field.metadata["check"] is not None:
            field.metadata["check"](value)


# Without slots: a class with two bases can take them from one of the two only.
@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Base of a command's options: every field is checked when they are made."""

    def __post_init__(self) -> None:
        check_options(self)


def _check_value(flag: str, value: Any, scalar: type, metadata: Mapping[str, Any]) -> None:
    right_type = isinstance(value, scalar) or (scalar is float and isinstance(value, int))
    if not right_type or (isinstance(value, bool) and scalar is not bool):
        raise ConfigurationError(f"{flag}: {value!r} is not of type {scalar.__name__}")
    if value == "":
        raise ConfigurationError(f"{flag}: an empty text; give a value or leave the option out")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{flag}: {value} is not a finite number")
    choices, minimum, maximum = metadata["choices"], metadata["minimum"], metadata["maximum"]
    if choices is not None and value not in choices:
        raise ConfigurationError(f"{flag}: {value!r} is not one of {', '.join(choices)}")
    too_small = minimum is not None and not value >= minimum
    too_large = maximum is not None and not value <= maximum
    if too_small or too_large:
        allowed = f"at least {minimum}" if maximum is None else f"at most {maximum}"
        if minimum is not None and maximum is not None:
            allowed = f"between {minimum} and {maximum}"
        raise ConfigurationError(f"{flag}: {value} is out of range; it must be {allowed}")
