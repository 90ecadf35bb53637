"""A command's result as text for people and as JSON for programs.

A command's function returns one object, as a rule a frozen dataclass. Its `str()` is what people read on standard
output, where the class defines one; `--json` prints the object itself as one JSON document. A class with fields that
no program could use, such as an open dataset, defines `to_json()`.
"""

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A result with the text that people read of it, where that depends on where it is printed.

    Attributes:
        result: what was found.
        text: what is printed of it.
    """

    result: Any
    text: str

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> Any:
        """The result alone."""
        return self.result


def result_as_text(result: Any) -> str:
    """A result as people read it: its `str()`, else its `table`; empty where there is nothing to read."""
    if result is None:
        return ""
    if type(result).__str__ is object.__str__:
        return str(getattr(result, "table", ""))
    return str(result)


def result_as_json(result: Any) -> str:
    """A result as one JSON document. A number that JSON does not have (NaN, infinities) is written as null.

    Raises:
        TypeError: for an object that is neither plain data nor a dataclass and has no `to_json()`.
    """
    return json.dumps(_plain(result), ensure_ascii=False, indent=2)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        document = value.to_json()
        return json.loads(document) if isinstance(document, str) else _plain(document)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if tolist := getattr(value, "tolist", None):  # numpy's scalars and arrays
        return _plain(tolist())
    raise TypeError(f"a {type(value).__name__} in a command's result cannot be written as JSON")
