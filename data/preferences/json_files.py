"""Rows of a JSON file: one object per line, one array, or objects written over several lines.

Which of these a file holds is seen from its first bytes, not from its name, because tools disagree about names. An
array is decoded one item at a time, so that a file of any size takes as much memory as its longest row.
"""

import codecs
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from data.errors import DataError
from data.preferences.compressed_files import DAMAGE, Row, not_utf8, open_file

_CHUNK_BYTES = 1 << 16

# Characters of a row that are shown in messages.
_SHOWN = 60

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_WHITESPACE = " \t\r\n"


def read_json(address: str) -> Iterator[Row]:
    """Stream the objects of a file, plain or compressed.

    Raises:
        DataError: for what is not JSON, values that are not objects, a file that is damaged.
    """
    number = 0
    with open_file(address, compression="infer") as file:
        try:
            start = b""
            while not start.strip():
                # A whole array may be one line, too long to be read at once.
                if not (start := file.readline(_CHUNK_BYTES)):
                    return
                number += 1
                start = start.removeprefix(_BYTE_ORDER_MARK) if number == 1 else start
            line = start
            if not start.lstrip().startswith(b"["):
                line = start if start.endswith(b"\n") else start + file.readline()
                if _is_object(line):
                    yield from _read_lines(address, line, file, number)
                    return
            yield from _read_values(address, _JsonText(address, line, file, number))
        except DAMAGE as error:
            raise DataError(f"{address}: damaged or cut off after line {number}: {error}") from error


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _read_lines(address: str, first: bytes, file: Iterable[bytes], first_number: int) -> Iterator[Row]:
    number = first_number
    try:
        for number, line in enumerate(itertools.chain([first], file), first_number):
            if not line.isspace():
                location = f"{address} line {number}"
                yield location, _parse_line(line, location)
    except DAMAGE as error:
        raise DataError(f"{address}: damaged or cut off after line {number}: {error}") from error


def _parse_line(line: bytes, location: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        raise not_utf8(location, error) from error
    except json.JSONDecodeError as error:
        shown = line.decode("utf-8").strip()[:_SHOWN]
        raise DataError(
            f"{location}: not JSON ({error.msg} at column {error.colno}): {shown!r}; every line must be "
            "one JSON object"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(location, error) from error
    return _require_object(row, location)


def _read_values(address: str, text: "_JsonText") -> Iterator[Row]:
    """Rows of one array of objects, or of objects that follow each other over any number of lines."""
    in_array = text.peek() == "["
    if in_array:
        text.step()
    number = 0
    while (mark := text.peek()) != ("]" if in_array else ""):
        if not mark:
            raise text.error("the array has no end", "the file is cut off")
        if number and in_array:
            text.expect(",")
        number += 1
        text.peek()
        location = f"{address} {f'item {number}, ' if in_array else ''}line {text.line}"
        yield location, _require_object(text.value(), location)
    if in_array:
        text.step()
        if text.peek():
            raise text.error("something follows the array", "write one array, or one object per line")


class _JsonText:
    """JSON that is decoded value by value, with no more of it in memory than the value at hand.

    Attributes:
        line: the line where the next character is, from 1.
    """

    def __init__(self, address: str, start: bytes, file: Any, line: int) -> None:
        self.line = line
        self._address = address
        self._file = file
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._decoder = json.JSONDecoder()
        self._at = 0
        self._ended = False
        self._buffer = self._decoded(start)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            for at in range(self._at, len(self._buffer)):
                if self._buffer[at] not in _WHITESPACE:
                    self._advance(at)
                    return self._buffer[at]
            self._advance(len(self._buffer))
            if not self._read_more():
                return ""

    def step(self) -> None:
        """Skip one character."""
        self._advance(self._at + 1)

    def expect(self, mark: str) -> None:
        """Skip a mark that has to come next.

        Raises:
            DataError: when something else comes.
        """
        if self.peek() != mark:
            raise self.error(f"{mark!r} must come between two items", "fix or remove it")
        self.step()

    def value(self) -> Any:
        """Decode and skip the next value.

        Raises:
            DataError: for what is not JSON.
        """
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                # Possibly cut off by the end of the buffer: within a string, or in the last few characters.
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - 12
                if cut and self._read_more():
                    continue
                self._advance(error.pos)
                raise self.error(
                    error.msg, "write one JSON object per line, or one array of objects"
                ) from error
            except (ValueError, RecursionError) as error:
                raise _unreadable(f"{self._address} line {self.line}", error) from error
            self._advance(end)
            return value

    def error(self, what: str, advice: str) -> DataError:
        """An error about what comes next."""
        column = self._at - self._buffer.rfind("\n", 0, self._at)
        shown = self._buffer[self._at : self._at + _SHOWN]
        return DataError(
            f"{self._address} line {self.line}: not JSON ({what} at column {column}): {shown!r}; {advice}"
        )

    def _advance(self, at: int) -> None:
        self.line += self._buffer.count("\n", self._at, at)
        self._at = at

    def _read_more(self) -> bool:
        """Read on, twice as much for a value that is longer than what is there; False at the end."""
        if self._ended:
            return False
        # What is left of the line is kept for messages.
        kept = self._buffer[self._at :]
        try:
            more = self._file.read(max(_CHUNK_BYTES, len(kept)))
        except DAMAGE as error:
            raise DataError(f"{self._address}: damaged or cut off after line {self.line}: {error}") from error
        self._ended = not more
        self._buffer, self._at = kept + self._decoded(more), 0
        return not self._ended

    def _decoded(self, more: bytes) -> str:
        try:
            return self._utf8.decode(more, final=not more)
        except UnicodeDecodeError as error:
            raise not_utf8(f"{self._address} after line {self.line}", error) from error


def _unreadable(location: str, error: Exception) -> DataError:
    # Numbers of thousands of digits, brackets within thousands of brackets.
    return DataError(f"{location}: JSON that Python cannot read ({error}); fix or remove it")


def _require_object(row: Any, location: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(
            f"{location}: a JSON {type(row).__name__}, not an object; write one object per line "
            "(`jq -c '.[]'` does so for an array)"
        )
    return row
