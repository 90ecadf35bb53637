"""What a form is: the columns that it reads, how a row shows it, and how a row is taken apart."""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data.preferences.forms.columns import given, json_value, text
from data.preferences.forms.content import Said
from data.preferences.forms.turns import column_kind, is_transcript, read_column, transcript_turns
from data.preferences.messages import Message, Prompt

__all__ = ["PAIRINGS", "Form", "Kind", "Pairing", "prompt_of"]


Pairing = str

"""Which pairs a list of scored answers gives: one of `PAIRINGS`."""

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One way to keep preferences in rows.

    Attributes:
        name: what `form` options call it.
        kind: what its rows hold.
        columns: every column that it reads, beside those that all forms have.
        describe: what a row of this form looks like, in words; None for a row of another form.
        parse: what a row says; several pairs for a list of scored answers.
        used_by: public data sets of this form, for the documentation.
        examples: rows, for the documentation.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    describe: Callable[[Mapping[str, Any]], str | None]
    parse: Callable[[Mapping[str, Any], Pairing], Iterable[Said]]
    used_by: str
    examples: tuple[dict[str, Any], ...]


def prompt_of(row: Mapping[str, Any], column: str) -> Prompt:
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


def text_or_messages(row: Mapping[str, Any], column: str) -> str:
    """`text` or `messages`, for the description of a form."""
    return column_kind(row, column).replace("whole conversation", "messages")


def has(row: Mapping[str, Any], *columns: str) -> bool:
    """Whether every one of these columns holds something."""
    return all(given(row, column) for column in columns)
