"""The type of a form: its columns, and the function that reads a row of it."""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from data.preferences.forms.columns import given, json_value, text
from data.preferences.forms.content import Said
from data.preferences.forms.turns import column_kind, is_transcript, read_column, transcript_turns
from data.preferences.messages import Message, Prompt

Row = Mapping[str, Any]

#: Which pairs a list of scored answers gives.
PAIRINGS = ("best-worst", "best-random", "all")


class Kind(enum.IntEnum):
    """What a row holds, from what says most to what says least; a row that shows several is taken for the first."""

    PAIR = enum.auto()
    VOTE = enum.auto()
    SCORES = enum.auto()
    LABEL = enum.auto()
    RATING = enum.auto()
    ANSWER = enum.auto()
    PROMPT = enum.auto()


class Found(NamedTuple):
    """A row as one form reads it.

    Attributes:
        description: what the row looks like, in words.
        said: what the row says, given one of `PAIRINGS`; several pairs for a list of scored answers. Raises RowError
            for a row that cannot be used.
    """

    description: str
    said: Callable[[str], Iterable[Said]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One way to keep preferences in rows.

    Attributes:
        name: what `form` options call it.
        kind: what its rows hold.
        columns: every column that it reads, beside those that all forms have.
        read: reads a row; None for a row of another form.
        used_by: public data sets of this form, for the documentation.
        examples: rows, for the documentation.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    read: Callable[[Row], Found | None]
    used_by: str
    examples: tuple[dict[str, Any], ...]


def prompt_of(row: Row, column: str) -> Prompt:
    """A column that holds a prompt; a transcript that ends before its answer becomes messages.

    `instruction` takes the column `input` with it, as Alpaca's rows want, and `history` in front.
    """
    said = read_column(row, column)
    if isinstance(said, str) and is_transcript(said) and said.rstrip().endswith("Assistant:"):
        turns = transcript_turns(said, column)
        return turns[:-1] if turns and turns[-1] == Message("assistant", "") else turns
    if column != "instruction" or not isinstance(said, str):
        return said
    more = row.get("input")
    if more is not None and text(more, "input").strip():
        said = f"{said}\n{more}"
    history = json_value(row, "history")
    if history is None:
        return said
    turns = []
    for question, answer in history:
        turns += [Message("user", text(question, "history")), Message("assistant", text(answer, "history"))]
    return (*turns, Message("user", said))


def text_or_messages(row: Row, column: str) -> str:
    """`text` or `messages`, for the description of a row."""
    return column_kind(row, column).replace("whole conversation", "messages")


def has(row: Row, *columns: str) -> bool:
    """Whether every one of these columns holds something."""
    return all(given(row, column) for column in columns)


def first_given(row: Row, columns: Sequence[str]) -> str | None:
    """The first of these columns that holds something."""
    return next((column for column in columns if given(row, column)), None)


# What the examples are made of.
ASKED = "Name a river."
QUESTION = {"role": "user", "content": ASKED}
GOOD = {"role": "assistant", "content": "The Danube."}
BAD = {"role": "assistant", "content": "Water."}
