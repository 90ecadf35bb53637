"""Preference rows of a source: form detected, bad rows refused, useless ones dropped and counted."""

import collections
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from data.errors import DataError
from data.id_index import IdIndex
from data.preferences.forms import (
    Content,
    Layout,
    Rating,
    RowForm,
    detect_form,
    parse_content,
    parse_rating,
    row_id,
)
from data.preferences.messages import Answer, PreferenceRow, Prompt
from data.preferences.sources import RowSource, open_source

__all__ = ["Need", "PreferenceReader", "RowCounts", "read_preferences"]


Need = Literal["pair", "chosen", "prompt"]

"""The least that every row must have: both answers, the preferred one, or just the prompt."""

# Text as JSON, what is not ASCII left as it is; json.dumps would build an encoder for each row.
_quoted = json.JSONEncoder(ensure_ascii=False).encode

_sorted = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=str).encode

_PAIR_ID_DIGITS = 24  # 96 bits: among 10^9 rows a collision has a chance of 1 in 10^11


@dataclasses.dataclass(slots=True)
class RowCounts:
    """What became of the rows.

    Attributes:
        read: rows of the source.
        kept: rows (of rated answers: pairs) that were passed on.
        dropped: how many were not, by reason; of rated answers a tie counts once for its two rows.
    """

    read: int = 0
    kept: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common())
        return f"{self.read:,} rows, {self.kept:,} kept" + (f", dropped: {reasons}" if reasons else "")


def read_preferences(source: str, *, split: str = "train", need: Need = "pair") -> "PreferenceReader":
    """Open a source of preference rows; what is there is checked now, the rows while they are read.

    Rows carry all that the source has, whatever `need` says, and the same ones are dropped: a row has one and
    the same `pair_id` under every command, so that rollouts meet their pairs.

    Args:
        source: a file, folder or hub name, see `data.preferences.sources.open_source`.
        split: which split of it.
        need: the least that every row must have.
    Raises:
        DataError: for a source or split that is not there.
    """
    return PreferenceReader(open_source(source, split=split), need=need)


class PreferenceReader:
    """The rows of one source, streamed in order; every iteration starts from the first row.

    A row of no accepted form, one of another form than the first, one that lacks what is needed, an empty
    prompt or answer, an `id` that returns with other content: DataError, naming the row. Dropped and counted:
    `chosen equals rejected`; `duplicate` (same id and content as an earlier row); of rated answers `tie` and
    `unpaired answer`. A source that ends with nothing kept: DataError.

    Attributes:
        form: what the rows look like, in words; None before the first row.
        counts: of the iteration under way or finished.
    """

    def __init__(self, source: RowSource, *, need: Need = "pair") -> None:
        self.form: str | None = None
        self.counts = RowCounts()
        self._source = source
        self._need = need
        self._data_hash: str | None = None

    @property
    def data_hash(self) -> str:
        """sha256 (hex) over the kept rows in order, ids included; known once an iteration has ended."""
        if self._data_hash is None:
            raise RuntimeError("data_hash is known only after the last row was read")
        return self._data_hash

    def read_data_hash(self) -> str:
        """`data_hash`, for which all rows are read unless they have been before."""
        if self._data_hash is None:
            for _ in self:
                pass
        return self.data_hash

    def describe(self) -> str:
        """One line for the output: the form, and how many rows were read, kept and dropped, and why."""
        return f"{self._source.name}: {self.form or 'no rows read yet'}; {self.counts}"

    def __iter__(self) -> Iterator[PreferenceRow]:
        """Yield the rows that are kept, in the source's order."""
        self.form, self.counts, self._data_hash = None, RowCounts(), None
        running = hashlib.sha256()
        with contextlib.closing(IdIndex()) as seen:
            for content, given_id, location in self._contents():
                self._check_need(content, location)
                if content.chosen is not None and content.chosen == content.rejected:
                    self.counts.dropped["chosen equals rejected"] += 1
                    continue
                canonical = _canonical(content).encode()
                digest = hashlib.sha256(canonical).hexdigest()
                pair_id = digest[:_PAIR_ID_DIGITS] if given_id is None else given_id
                earlier = seen.add(pair_id, f"{digest[:_PAIR_ID_DIGITS]} {location}")
                if earlier is None:
                    self.counts.kept += 1
                    running.update(json.dumps(pair_id).encode() + canonical + b"\n")
                    yield PreferenceRow(pair_id, *content[:3], location, *content[3:])
                elif earlier.startswith(digest[:_PAIR_ID_DIGITS]):
                    self.counts.dropped["duplicate"] += 1
                else:
                    raise DataError(
                        f"{location}: id {pair_id!r} already names another row ({earlier.partition(' ')[2]}); make "
                        "ids unique, or leave the column out"
                    )
        if not self.counts.kept:
            raise DataError(f"{self._source.name}: nothing to use ({self.counts})")
        self._data_hash = running.hexdigest()

    def _contents(self) -> Iterator[tuple[Content, str | None, str]]:
        """What the rows say, their own id if they have one, and where; rated answers come out as pairs."""
        first: tuple[RowForm, str] | None = None
        waiting: tuple[Rating, str] | None = None
        for location, row in self._source:
            self.counts.read += 1
            try:
                form = detect_form(row)
                if first is None:
                    first, self.form = (form, location), form.name
                elif form != first[0]:
                    raise DataError(
                        f"{form.name}, unlike {first[1]} ({first[0].name}); all rows must have one form"
                    )
                said, given_id = _parse(row, form.layout)
            except DataError as error:
                raise DataError(f"{location}: {error}") from error
            if isinstance(said, Content):
                yield said, given_id, location
                continue
            if waiting is None or waiting[0].prompt != said.prompt:
                self._drop_unpaired(waiting)
                waiting = said, location
                continue
            (earlier, earlier_location), waiting = waiting, None
            if earlier.helpfulness == said.helpfulness:
                self.counts.dropped["tie"] += 1
            else:
                yield _prefer(earlier, said), None, f"{earlier_location} and {location}"
        self._drop_unpaired(waiting)

    def _drop_unpaired(self, waiting: tuple[Rating, str] | None) -> None:
        if waiting is not None:
            self.counts.dropped["unpaired answer"] += 1

    def _check_need(self, content: Content, location: str) -> None:
        missing = None
        if self._need != "prompt" and content.chosen is None:
            missing = "chosen"
        elif self._need == "pair" and content.rejected is None:
            missing = "rejected"
        if missing is not None:
            wanted = "both answers" if self._need == "pair" else "an answer"
            raise DataError(f"{location}: no `{missing}` ({self.form}); every row must have {wanted} here")


def _parse(row: Mapping[str, Any], layout: Layout) -> tuple[Content | Rating, str | None]:
    """What a row says, and its own id; that of a rated answer names the answer, not the pair."""
    if layout is Layout.RATED_ANSWER:
        return parse_rating(row), None
    return parse_content(row, layout), row_id(row)


def _prefer(first: Rating, second: Rating) -> Content:
    better, worse = (first, second) if first.helpfulness > second.helpfulness else (second, first)
    return Content(first.prompt, better.response, worse.response)


def _canonical(content: Content) -> str:
    """What a row says, as JSON: the data hash is made of it.

    Text alone is written as `json.dumps(content, ensure_ascii=False)` would, at a fraction of the time. What plain
    rows do not have is left out, so that their ids stay what they were before it was known.
    """
    said = ", ".join(_canonical_turns(said) for said in (content.prompt, content.chosen, content.rejected))
    further = {"tools": content.tools, "template_args": content.template_args}
    known = {name: value for name, value in further.items() if value is not None}
    return f"[{said}, {_sorted(known)}]" if known else f"[{said}]"


def _canonical_turns(said: Prompt | Answer | None) -> str:
    if said is None:
        return "null"
    if isinstance(said, str):
        return _quoted(said)
    turns = (
        f"[{_quoted(turn.role)}, {_quoted(turn.content)}{f', {_sorted(turn.extra)}' if turn.extra else ''}]"
        for turn in said
    )
    return f"[{', '.join(turns)}]"
