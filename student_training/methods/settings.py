"""A method's hyper-parameters: fields of one dataclass beside its loss, and what is derived from them.

`setting` declares a field with its default, help, range and the values that presets give it. From these fields
come the options of train-student, its help, the checks, the presets, run.toml and docs/methods.md.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from data.errors import ConfigurationError
from data.options.fields import check_options, flag_name, option, option_type

#: Preset -> how it averages a loss. What it sets of a method's own settings is written at their fields.
PRESETS = {"paper": "sequence", "published-code": "token"}


def setting(default: Any, *, presets: Mapping[str, Any] | None = None, **description: Any) -> Any:
    """Declare a hyper-parameter as a dataclass field.

    Args:
        default: its value where nothing else is given.
        presets: value by preset, for the methods that `--preset` knows.
        **description: as for `data.options.fields.option`: help, choices, minimum, maximum, aliases.
    """
    field = option(default, group="method", **description)
    field.metadata = {**field.metadata, "presets": dict(presets or {})}
    return field


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MethodSettings:
    """Base of every method's settings: checks types and ranges; has no fields itself, which is enough for some."""

    def __post_init__(self) -> None:
        check_options(self)


class NamedSettings(Protocol):
    """A method's name and the class of its settings."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def settings(self) -> type: ...  # noqa: D102


def settings_options(methods: Iterable[NamedSettings]) -> list[tuple[str, Any, dataclasses.Field]]:
    """The options of train-student that set the methods' settings: one for each name, None where not given.

    Methods that share a name share its option; its help then gives what it is to each of them.

    Args:
        methods: all that have options.
    Returns:
        (name, annotation, field) for `dataclasses.make_dataclass`, in the order of the methods.
    """
    declared: dict[str, list[tuple[str, dataclasses.Field, type]]] = {}
    for method in methods:
        hints = typing.get_type_hints(method.settings)
        for field in dataclasses.fields(method.settings):
            declared.setdefault(field.name, []).append(
                (method.name, field, option_type(hints[field.name])[0])
            )
    return [(name, owners[0][2] | None, _shared_option(owners)) for name, owners in declared.items()]


def _shared_option(owners: list[tuple[str, dataclasses.Field, type]]) -> dataclasses.Field:
    """One option for a setting of several methods. Each method checks its own range again."""
    fields = [field for _, field, _ in owners]
    choices = [choice for field in fields for choice in field.metadata["choices"] or ()]
    described = fields[0].metadata
    return option(
        None,
        help=_shared_help(owners),
        choices=tuple(dict.fromkeys(choices)) or None,
        minimum=_loosest(min, [field.metadata["minimum"] for field in fields]),
        maximum=_loosest(max, [field.metadata["maximum"] for field in fields]),
        expert=True,  # `--help-method` lists them with their own method
        **{name: described[name] for name in ("group", "aliases", "commas")},
    )


def _shared_help(owners: list[tuple[str, dataclasses.Field, type]]) -> str:
    """What a setting is, with the default of every method that has it: `weight of the KL [dckd: 5, abd: 1]`."""
    texts: dict[str, dict[str, list[str]]] = {}
    for method, field, _ in owners:
        defaults = texts.setdefault(field.metadata["help"], {})
        defaults.setdefault(display(field.default), []).append(method)
    parts = []
    for text, defaults in texts.items():
        named = ", ".join(f"{', '.join(methods)}: {default}" for default, methods in defaults.items())
        parts.append(f"{text} [{named}]")
    return "; or ".join(parts)


def _loosest(choose: Any, bounds: list[float | None]) -> float | None:
    return None if None in bounds else choose(bounds)


def display(value: Any) -> str:
    """A default as help and documentation write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def preset_settings(
    preset: str | None, method: NamedSettings, known: Iterable[NamedSettings]
) -> dict[str, Any]:
    """What a preset sets for a method, `normalize` among it; nothing without a preset.

    Args:
        preset: its name.
        method: the method to set up.
        known: all methods, to name those that the preset is for.
    Raises:
        ConfigurationError: for a method that the preset says nothing about.
    """
    if preset is None:
        return {}
    values = _preset_fields(preset, method)
    if not values:
        names = ", ".join(other.name for other in known if _preset_fields(preset, other))
        raise ConfigurationError(f"--preset {preset}: says nothing about {method.name}; it is for {names}")
    return {**values, "normalize": PRESETS[preset]}


def _preset_fields(preset: str, method: NamedSettings) -> dict[str, Any]:
    return {
        field.name: field.metadata["presets"][preset]
        for field in dataclasses.fields(method.settings)
        if preset in field.metadata.get("presets", {})
    }


def fill_settings(method: NamedSettings, given: Mapping[str, Any]) -> Any:
    """A method's settings: what is given, and defaults for the rest.

    Args:
        method: whose settings to make.
        given: values by name; None means not given. Text may be given for a value of another type, as `--set`
            and configuration files have it.
    Raises:
        ConfigurationError: for a setting that the method does not read, or a value out of its range.
    """
    fields = {field.name: field for field in dataclasses.fields(method.settings)}
    chosen = {name: value for name, value in given.items() if value is not None}
    if stray := sorted(chosen.keys() - fields.keys()):
        flags = ", ".join(map(flag_name, stray))
        reads = ", ".join(map(flag_name, fields)) or "none"
        raise ConfigurationError(
            f"{flags}: method {method.name} does not read it; its own settings are: {reads}"
        )
    hints = typing.get_type_hints(method.settings)
    return method.settings(**{name: _typed(value, hints[name], name) for name, value in chosen.items()})


def _typed(value: Any, annotation: Any, name: str) -> Any:
    """A value as its setting's type, where it came as text."""
    scalar, _, _ = option_type(annotation)
    if not isinstance(value, str) or scalar is str:
        return value
    if scalar is bool:
        words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
        return words.get(value.lower(), value)
    try:
        return scalar(value)
    except ValueError as error:
        raise ConfigurationError(f"{flag_name(name)}: {value!r} is not of type {scalar.__name__}") from error


def parse_clip(text: str) -> tuple[float, float] | None:
    """Read a clip range: `low:high`, `c` for −c:c, or `none`.

    Raises:
        ConfigurationError: for anything else.
    """
    if text == "none":
        return None
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] > 0:
        return -numbers[0], numbers[0]
    if len(numbers) == 2 and numbers[0] < numbers[1]:
        return numbers[0], numbers[1]
    raise ConfigurationError(
        f"--clip: {text!r} is not low:high with low < high, one positive number, or none"
    )
