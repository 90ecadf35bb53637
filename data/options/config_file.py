"""Options read from a TOML or YAML file, converted to the types of the options."""

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from data.errors import ConfigurationError
from data.options.fields import option_type

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

#: The tables that run.toml has and no other configuration file.
_RUN_RECORD_TABLES = {"options", "paths", "versions"}

_NULL = "tag:yaml.org,2002:null"


class _TextLoader(yaml.SafeLoader):
    """YAML with every value but null as text: by its own rules 1e-4 is text and 0:1 a number."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (a class attribute of the base)
        first: [(tag, pattern) for tag, pattern in resolvers if tag == _NULL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_config(path: str, options_class: type, *, command: str | None = None) -> dict[str, Any]:
    """Read a configuration file into keyword arguments of an options dataclass.

    Args:
        path: a file ending in `.toml`, or YAML; keys as the options are named, dashes and underscores mean the same.
        options_class: the dataclass that the values are for; it checks them when it is made.
        command: the command's name. A file with a table for each of several commands (`[score-teacher]`) is read for
            the one of this name.
    Raises:
        ConfigurationError: for a file that cannot be read, or keys that the command does not have.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        # The base of the loader is PyYAML's safe one.
        values = tomllib.loads(text) if path.endswith(".toml") else yaml.load(text, _TextLoader)
    except OSError as error:
        raise ConfigurationError(f"--config: {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--config: {path} is neither TOML nor YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"--config: {path} holds no options")
    hints = typing.get_type_hints(options_class)
    fields = {field.name: field for field in dataclasses.fields(options_class) if "help" in field.metadata}
    if values.keys() >= _RUN_RECORD_TABLES:
        values = _of_run(path, values, fields)
    else:
        values = _of_command(path, values, command)
    arguments = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            known = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(fields))}"
            raise ConfigurationError(f"{path}: unknown key {key!r}; {known}")
        scalar, repeats, _ = option_type(hints[name])
        if repeats and value is not None:
            parts = _parts(value, commas=fields[name].metadata["commas"])
            arguments[name] = tuple(_typed(part, scalar) for part in parts)
        else:
            arguments[name] = _typed(value, scalar)
    return arguments


def _of_run(path: str, values: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """The options of run.toml, which a run writes beside its checkpoint: that run, in the file's own folder.

    Settings of a user's method have no separate option; `set` takes them.
    """
    named = {**values["options"], **values["paths"]}
    if "out" in fields:
        named.setdefault("out", str(Path(path).parent))
    others = {key: value for key, value in named.items() if key not in fields}
    if others and "set" in fields:
        given = named.get("set", [])
        named["set"] = [*given, *(f"{key}={_as_typed(value)}" for key, value in others.items())]
        return {key: value for key, value in named.items() if key not in others}
    return named


def _as_typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_command(path: str, values: Mapping[str, Any], command: str | None) -> Mapping[str, Any]:
    """The part of a file that is for one command: all of it, or its table where each command has one."""
    tables = {str(key).replace("_", "-"): table for key, table in values.items()}
    if not tables or not all(isinstance(table, Mapping) for table in tables.values()):
        return values
    if command not in tables:
        raise ConfigurationError(f"{path}: has tables for {', '.join(tables)}, none for {command}")
    return tables[command]


def _parts(value: Any, *, commas: bool) -> list[Any]:
    """The values of an option that takes several, written as a list or, as on the command line, as a text."""
    if isinstance(value, list):
        return value
    if commas and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value]


def _typed(value: Any, scalar: type) -> Any:
    """A value as the option's type, or unchanged where it cannot be; the options' checks refuse it then."""
    if isinstance(value, str) and scalar is bool:
        return _BOOLEANS.get(value.lower(), value)
    if isinstance(value, str) and scalar is not str:
        try:
            return scalar(value)
        except ValueError:
            return value
    if scalar is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value
