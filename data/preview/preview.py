"""`adpa data preview`: the form of the rows, examples as a model would see them, lengths, dropped rows.

Nothing is loaded but, where one is named, a tokenizer. Without it rows are shown as messages and measured in
characters.
"""

import array
import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from data.options.fields import option
from data.preferences.messages import Message, PreferenceRow, as_turns
from data.preferences.options import Reading, data_option
from data.preferences.reader import RowCounts, read_preferences
from data.tokens.encoder import EncodedPair, EncodedResponse, PairEncoder
from data.tokens.options import (
    encoder_settings,
    template_arg_option,
    thinking_option,
    train_on_option,
)

LoadTokenizer = Callable[[str, bool], Any]

"""Loads the tokenizer of a folder or hub name, perhaps with its code; this package has no library that could."""

PassageKind = Literal["prompt", "masked", "trained", "terminator"]

"""What becomes of a text: the model is shown it; it is part of an answer and not scored; scored; the end of a turn."""

_LONGEST = "prompt and longest answer"

#: Shares of the rows that are at most as long, per cent; the last is the longest row.
PERCENTILES = (5, 25, 50, 75, 95, 100)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreviewOptions(Reading):
    """Show what a preference file is taken for: its form, three examples, lengths, and what would be dropped."""

    data: str = data_option(positional=True)
    tokenizer: str | None = option(
        None,
        help="folder or hub name of a model: show its chat template's text, and lengths in tokens",
        group="model",
    )
    template_arg: tuple[str, ...] = template_arg_option()
    thinking: str = thinking_option()
    train_on: str = train_on_option()
    max_length: int = option(
        2048, help="longest prompt plus response, tokens; longer rows are dropped", minimum=2, group="data"
    )
    truncate: bool = option(
        False, help="cut prompts from the left instead of dropping long rows", group="data", expert=True
    )
    trust_remote_code: bool = option(
        False, help="run code that comes with the tokenizer", group="model", expert=True
    )
    examples: int = option(3, help="rows to show", minimum=0)
    max_rows: int = option(10_000, help="rows to look at; 0 takes all", minimum=0)
    # Not an option here: a preview is there to show which rows cannot be used.
    bad_rows: str = "drop"


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """Text of an example.

    Attributes:
        title: `prompt`, `chosen` or `rejected`, or, without a tokenizer, the role of a turn after it.
        pieces: the text, each piece with what becomes of it.
    """

    title: str
    pieces: tuple[tuple[PassageKind, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One row as it would be used."""

    pair_id: str
    location: str
    passages: tuple[Passage, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of one part of the rows at `PERCENTILES`, the last of which is the longest."""

    part: str
    at: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class PreviewResult:
    """What a source was found to hold.

    Attributes:
        source: its name.
        form: what its rows look like, in words.
        form_name: the name of that form.
        unread: columns that hold something and are not read.
        counts: rows read, kept and dropped by reason; rows that only the tokenizer's side drops among them.
        problems: for reasons of which single rows are to blame, the first such row.
        is_whole: whether all rows were read.
        template: how text becomes ids; None without a tokenizer.
        unit: what lengths are measured in.
        lengths: of prompts, chosen and rejected answers, and of a prompt with its longest answer.
        examples: the first rows that are kept.
    """

    source: str
    form: str
    form_name: str
    unread: tuple[str, ...]
    counts: RowCounts
    problems: Mapping[str, str]
    is_whole: bool
    template: str | None
    unit: str
    lengths: tuple[Lengths, ...]
    examples: tuple[Example, ...]


def preview_data(options: PreviewOptions, *, load_tokenizer: LoadTokenizer) -> PreviewResult:
    """Read the rows of a source and tell what they are.

    Args:
        options: the command's.
        load_tokenizer: asked only where the options name a tokenizer.
    Raises:
        AdpaError: for a source that is not there or of no known form, or a tokenizer that cannot be used.
    """
    reader = read_preferences(options.data, options, need="prompt")
    view = _TextView()
    if options.tokenizer is not None:
        view = _TokenView(options, load_tokenizer(options.tokenizer, options.trust_remote_code))
    measured: dict[str, array.array[int]] = {}
    examples: list[Example] = []
    rows = iter(reader)
    wanted = itertools.islice(rows, options.max_rows or None)
    for row in tqdm(wanted, desc="reading", unit="rows", disable=None, leave=False):
        seen = view.see(row)
        if seen is None:
            continue
        for part, length in seen.lengths().items():
            measured.setdefault(part, array.array("Q")).append(length)
        if len(examples) < options.examples:
            examples.append(Example(row.pair_id, row.location, tuple(seen.passages())))
    # Asking for the next row shows whether there is one, and counts it.
    counts = dataclasses.replace(reader.counts, dropped=collections.Counter(reader.counts.dropped))
    is_whole = not options.max_rows or next(rows, None) is None
    return PreviewResult(
        source=options.data,
        form=reader.form or "",
        form_name=reader.form_name or "",
        unread=reader.unread,
        counts=counts if view.encoder is None else _combined(counts, view.encoder.counts),
        problems=dict(reader.problems),
        is_whole=is_whole,
        template=None if view.encoder is None else view.encoder.describe(),
        unit=view.unit,
        lengths=tuple(_percentiles(part, numbers) for part, numbers in measured.items()),
        examples=tuple(examples),
    )


def _combined(read: RowCounts, encoded: RowCounts) -> RowCounts:
    """Counts of rows that go through the reader first and the encoder then."""
    return RowCounts(read.read, encoded.kept, read.dropped + encoded.dropped)


def _percentiles(part: str, numbers: Sequence[int]) -> Lengths:
    found = np.percentile(np.asarray(numbers), PERCENTILES, method="closest_observation")
    return Lengths(part, tuple(int(value) for value in found))


# --- Without a tokenizer


class _TextView:
    """Rows as their messages, measured in characters."""

    unit = "characters"
    encoder = None

    def see(self, row: PreferenceRow) -> "_SeenText":
        return _SeenText(row)


@dataclasses.dataclass(frozen=True, slots=True)
class _SeenText:
    row: PreferenceRow

    def lengths(self) -> dict[str, int]:
        """Characters of the row's parts."""
        parts = {"prompt": self.row.prompt, "chosen": self.row.chosen, "rejected": self.row.rejected}
        return _with_longest(
            {
                part: sum(len(turn.content) for turn in as_turns(said, "user"))
                for part, said in parts.items()
                if said is not None
            }
        )

    def passages(self) -> Iterator[Passage]:
        """Every turn as a passage; what is not said by the assistant in an answer is masked."""
        if self.row.tools:
            yield Passage("tools", (("prompt", _as_json(list(self.row.tools))),))
        for turn in as_turns(self.row.prompt, "user"):
            yield Passage(f"prompt: {turn.role}", (("prompt", _said(turn)),))
        for name, answer in (("chosen", self.row.chosen), ("rejected", self.row.rejected)):
            for turn in () if answer is None else as_turns(answer, "assistant"):
                kind: PassageKind = "trained" if turn.role == "assistant" else "masked"
                yield Passage(f"{name}: {turn.role}", ((kind, _said(turn)),))


def _said(turn: Message) -> str:
    """A turn's text and further fields."""
    further = _as_json(dict(turn.extra)) if turn.extra else ""
    return "\n".join(part for part in (turn.content, further) if part)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


# --- With a tokenizer


class _TokenView:
    """Rows as the model would see them, measured in tokens."""

    unit = "tokens"

    def __init__(self, options: PreviewOptions, tokenizer: Any) -> None:
        self.encoder = PairEncoder(
            tokenizer,
            max_length=options.max_length,
            truncate=options.truncate,
            **encoder_settings(options),
        )
        self._tokenizer = tokenizer

    def see(self, row: PreferenceRow) -> "_SeenTokens | None":
        encoded = self.encoder.encode(row)
        return None if encoded is None else _SeenTokens(encoded, self._decode, self.encoder.terminator_id)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


@dataclasses.dataclass(frozen=True, slots=True)
class _SeenTokens:
    pair: EncodedPair
    decode: Callable[[Sequence[int]], str]
    terminator_id: int

    def lengths(self) -> dict[str, int]:
        """Tokens of the row's parts; of an answer whose turns are separate, all of them together."""
        lengths = {"prompt": len(self.pair.prompt_ids)}
        for name, responses in (("chosen", self.pair.chosen), ("rejected", self.pair.rejected)):
            if responses:
                lengths[name] = sum(len(response.ids) for response in responses)
        together = [len(one.prompt_ids) + len(one.ids) for one in (*self.pair.chosen, *self.pair.rejected)]
        return {**lengths, _LONGEST: max([lengths["prompt"], *together])}

    def passages(self) -> Iterator[Passage]:
        """The prompt, and both answers with what is masked and where they end."""
        shown: list[int] | None = None
        if not self.pair.chosen:
            yield Passage("prompt", (("prompt", self.decode(self.pair.prompt_ids.tolist())),))
        for name, responses in (("chosen", self.pair.chosen), ("rejected", self.pair.rejected)):
            for response in responses:
                if (prompt := response.prompt_ids.tolist()) != shown:
                    yield Passage("prompt", (("prompt", self.decode(prompt)),))
                    shown = prompt
                yield Passage(name, tuple(self._pieces(response)))

    def _pieces(self, response: EncodedResponse) -> Iterator[tuple[PassageKind, str]]:
        mask = np.ones(len(response.ids), bool) if response.mask is None else response.mask
        places = zip(response.ids.tolist(), mask.tolist(), strict=True)
        for kind, run in itertools.groupby(places, self._kind):
            yield kind, self.decode([token for token, _ in run])

    def _kind(self, place: tuple[int, bool]) -> PassageKind:
        token, counts = place
        if not counts:
            return "masked"
        return "terminator" if token == self.terminator_id else "trained"


def _with_longest(lengths: dict[str, int]) -> dict[str, int]:
    longest = max(lengths.get("chosen", 0), lengths.get("rejected", 0))
    return {**lengths, _LONGEST: lengths["prompt"] + longest}
