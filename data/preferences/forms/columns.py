"""Column values as text, numbers or JSON; and the error for a row that cannot be used.

Errors raised here do not say where the row is; the reader that calls puts the location in front.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from data.errors import DataError

# Values that mean "nothing": other rows of the same file have something in that field or column.
NOTHING = (None, "", [], {})


class RowError(DataError):
    """A row that cannot be used.

    Attributes:
        reason: what is wrong in a few words, the same for all rows of which it is true.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def given(row: Mapping[str, Any], column: str) -> bool:
    """Whether a column is there and holds something; null and an empty list are nothing."""
    value = row.get(column)
    return value is not None and value != []


def text(value: Any, what: str, *names: object) -> str:
    """A value that has to be text.

    Args:
        value: the value.
        what: what to call it; put together (`what % names`) only for a message.
        names: what goes into `what`.
    Raises:
        RowError: for another type, or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise RowError("not text", f"`{what % names}` is of type {type(value).__name__}; it must be text")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(
                "half of a surrogate pair",
                f"`{what % names}` has half of a surrogate pair at character {error.start}; that is no text, remove it",
            ) from error
    return value


def number(value: Any, what: str) -> float:
    """A value that has to be a number; from a CSV file it comes as text.

    Raises:
        RowError: for anything else, NaN too.
    """
    found = value
    if isinstance(value, str):
        try:
            found = float(value)
        except ValueError:
            found = None
    if isinstance(found, bool) or not isinstance(found, int | float) or math.isnan(found):
        raise RowError("no number", f"`{what}` is {value!r}; it must be a number")
    return float(found)


def looks_like_json(value: Any) -> bool:
    """Whether text can only be meant as JSON: an object, or a list of objects. Cheap, for every row."""
    return isinstance(value, str) and value.lstrip()[:1] in ("[", "{") and value.lstrip("[ \r\n\t")[:1] == "{"


def parsed(value: str, column: str) -> Any:
    """Text as the JSON that it has to be.

    Raises:
        RowError: when it is not.
    """
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise RowError(
            "broken JSON", f"`{column}` is text that is not JSON ({error}); write it as JSON"
        ) from error


def json_value(row: Mapping[str, Any], column: str) -> Any:
    """A column's value, decoded where it is JSON text; None where it holds nothing."""
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        value = parsed(value, column)
    if value in NOTHING:
        return None
    check_unicode(value, column)
    return value


def check_unicode(value: Any, what: str, *names: object) -> None:
    """Refuse halves of surrogate pairs anywhere in a value."""
    if value:
        text(json.dumps(value, ensure_ascii=False, default=str), what, *names)


def listed(names: Iterable[str]) -> str:
    """Names in order, for a message."""
    return ", ".join(sorted(names)) or "none"
