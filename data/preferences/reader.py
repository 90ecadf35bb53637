"""The rows of a preference source: form detected, bad rows refused, unusable ones dropped and counted."""

import collections
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from data.errors import DataError
from data.id_index import IdIndex
from data.preferences.forms.columns import RowError, text
from data.preferences.forms.content import Content, Dropped, LabelledAnswer, Rating, Said
from data.preferences.forms.detection import ColumnMap, DetectedForm, detect_form, find_form
from data.preferences.labelled import LabelledPairs
from data.preferences.messages import Answer, PreferenceRow, Prompt
from data.preferences.options import Reading
from data.preferences.sources import RowSource, open_source
from data.progress import Progress

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


def read_preferences(
    source: str, reading: Reading | None = None, *, need: Need = "pair"
) -> "PreferenceReader":
    """Open a source of preference rows; the source is checked now, its rows while they are read.

    Rows carry all that the source has, whatever `need` says, and the same ones are dropped: a row has one and
    the same `pair_id` under every command, so that rollouts meet their pairs.

    Args:
        source: a file, folder or hub name, see `data.preferences.sources.open_source`.
        reading: which split of it, and how its rows are to be understood.
        need: the least that every row must have.
    Raises:
        DataError: for a source or split that is not there.
        ConfigurationError: for a form or a mapping that there is not.
    """
    reading = reading or Reading()
    return PreferenceReader(
        open_source(source, split=reading.split, config=reading.data_config), reading, need=need
    )


class PreferenceReader:
    """The rows of one source, streamed in order; every iteration starts from the first row.

    A row of no known form, one of another form than the first, one that lacks what is needed or cannot be used (an
    empty prompt, say): DataError, naming the row, or with `bad_rows` as `drop` a count by reason. An `id` that returns
    with other content: DataError. Dropped and counted in any case: `chosen equals rejected`; `duplicate` (same id and
    content as an earlier row); `tie`, `no preference given` and `fewer than two scored answers`; of single answers
    `unpaired answer`. A source that ends with nothing kept: DataError.

    Attributes:
        form: what the rows look like, in words; None before the first row.
        form_name: the name of that form; None before the first row.
        unread: columns of the first row that hold something and are not read.
        counts: of the iteration under way or finished.
        problems: with `bad_rows` as `drop`, the first error of every reason.
    """

    def __init__(self, source: RowSource, reading: Reading | None = None, *, need: Need = "pair") -> None:
        self.form: str | None = None
        self.form_name: str | None = None
        self.unread: tuple[str, ...] = ()
        self.counts = RowCounts()
        self.problems: dict[str, str] = {}
        self._source = source
        self._reading = reading or Reading()
        self._map = ColumnMap.parse(self._reading.map)
        if self._reading.form is not None:
            find_form(self._reading.form)
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
            for _ in self.iterate_with_progress("reading"):
                pass
        return self.data_hash

    def describe(self) -> str:
        """One line for the output: the form, how many rows were read, kept and dropped and why, columns not read."""
        unread = f"; columns not read: {', '.join(self.unread)}" if self.unread else ""
        return f"{self._source.name}: {self.form or 'no rows read yet'}; {self.counts}{unread}"

    def iterate_with_progress(self, doing: str) -> Iterator[PreferenceRow]:
        """The same rows, while a bar or lines say how many of the source's were read.

        Args:
            doing: what is done with them, first word of every line.
        """
        with Progress(doing, unit="rows", total=self._source.count()) as progress:
            counted = 0
            for row in self:
                yield row
                progress.update(self.counts.read - counted)
                counted = self.counts.read

    def __iter__(self) -> Iterator[PreferenceRow]:
        """Yield the rows that are kept, in the source's order."""
        self.form, self.counts, self._data_hash, self.problems = None, RowCounts(), None, {}
        running = hashlib.sha256()
        with contextlib.closing(IdIndex()) as seen:
            for content, given_id, location in self._contents():
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
            raise DataError(f"{self._source.name}: nothing to use ({self.counts}){self._why_nothing()}")
        self._data_hash = running.hexdigest()

    def _why_nothing(self) -> str:
        if self.problems:
            return f"; the first: {next(iter(self.problems.values()))}"
        if self.form_name == "labels":
            return (
                "; the answers are labelled one by one, and no prompt has both a good and a bad one: two answers to "
                "one prompt are compared here"
            )
        return ""

    def _contents(self) -> Iterator[tuple[Content, str | None, str]]:
        """What the rows say, their own id if they have one, and where; single answers come out as pairs."""
        waiting: tuple[Rating, str] | None = None
        with contextlib.closing(LabelledPairs()) as labelled:
            for said, given_id, location in self._said():
                if isinstance(said, Content):
                    yield said, given_id, location
                elif isinstance(said, Dropped):
                    self.counts.dropped[said.reason] += 1
                elif isinstance(said, LabelledAnswer):
                    prompt = _canonical(said.content._replace(chosen=None))
                    if pair := labelled.match(said.content, said.is_good, prompt, location):
                        yield pair[0], None, pair[1]
                elif waiting is None or waiting[0].content.prompt != said.content.prompt:
                    self._drop_unpaired(waiting is not None)
                    waiting = said, location
                else:
                    (earlier, earlier_location), waiting = waiting, None
                    if earlier.helpfulness == said.helpfulness:
                        self.counts.dropped["tie"] += 1
                    else:
                        yield _prefer(earlier, said), None, f"{earlier_location} and {location}"
            self._drop_unpaired(waiting is not None)
            self._drop_unpaired(labelled.num_waiting)

    def _said(self) -> Iterator[tuple[Said, str | None, str]]:
        """What every row says; rows that cannot be used are refused or counted."""
        detected: DetectedForm | None = None
        for location, row in self._source:
            self.counts.read += 1
            try:
                if detected is None:
                    self._map.check(row)
                mapped = self._map.apply(row)
                if detected is None:
                    detected = detect_form(
                        mapped, location=location, mapped=self._map.names, name=self._reading.form
                    )
                    self.form, self.form_name = detected.description, detected.form.name
                    self.unread = detected.unread
                # All of a row's pairs before the first is handed on: a row is used whole or not at all.
                said = list(detected.read(mapped, self._reading.pairs))
                given_id = _row_id(mapped)
                for one in said:
                    self._check_need(one)
            except RowError as error:
                # Without a form nothing can be read, whatever the rows after it look like.
                if self._reading.bad_rows == "refuse" or detected is None:
                    raise DataError(f"{location}: {error}{_way_out(detected)}") from error
                self.counts.dropped[error.reason] += 1
                self.problems.setdefault(error.reason, f"{location}: {error}")
                continue
            for number, one in enumerate(said, 1):
                yield (
                    one,
                    given_id if given_id is None or len(said) == 1 else f"{given_id}/{number}",
                    location,
                )

    def _drop_unpaired(self, number: int) -> None:
        if number:
            self.counts.dropped["unpaired answer"] += number

    def _check_need(self, said: Said) -> None:
        if not isinstance(said, Content):
            return
        missing = None
        if self._need != "prompt" and said.chosen is None:
            missing = "chosen"
        elif self._need == "pair" and said.rejected is None:
            missing = "rejected"
        if missing is not None:
            wanted = "both answers" if self._need == "pair" else "an answer"
            raise RowError(
                f"no {missing}", f"no `{missing}` ({self.form}); every row must have {wanted} here"
            )


def _way_out(detected: DetectedForm | None) -> str:
    return "" if detected is None else "; or drop such rows (--bad-rows drop)"


def _row_id(row: Mapping[str, Any]) -> str | None:
    """The row's own `id` as text; None where it has none."""
    value = row.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise RowError("no valid id", f"`id` is {value!r}; an id must be text or a whole number")
    return text(str(value), "id")


def _prefer(first: Rating, second: Rating) -> Content:
    better, worse = (first, second) if first.helpfulness > second.helpfulness else (second, first)
    return better.content._replace(rejected=worse.content.chosen)


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
