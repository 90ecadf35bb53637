"""A preview as text for the terminal, with colours or brackets."""

import os
import re
import sys
from collections.abc import Iterator

from data.options.results import Rendered
from data.preview.preview import PERCENTILES, Example, PassageKind, PreviewResult

# Grey what is masked, green what is trained, reversed the end of a turn.
_COLOURS: dict[PassageKind, str] = {
    "prompt": "",
    "masked": "\x1b[90m",
    "trained": "\x1b[32m",
    "terminator": "\x1b[7m",
}

_RESET, _BOLD = "\x1b[0m", "\x1b[1m"

_BRACKETS: dict[PassageKind, tuple[str, str]] = {
    "prompt": ("", ""),
    "masked": ("⟪", "⟫"),
    "trained": ("", ""),
    "terminator": ("⟦", "⟧"),
}

# Characters of a text that are shown; longer ones lose their middle.
_MOST_SHOWN = 1200

# Control characters are left out: they would move the cursor or change the terminal's state.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def rendered_here(result: PreviewResult) -> Rendered:
    """The preview with its text for standard output: in colour where that is a terminal and NO_COLOR is not set."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return Rendered(result, render_preview(result, colour=colour))


def render_preview(result: PreviewResult, *, colour: bool) -> str:
    """The lines that a preview prints.

    Args:
        result: what was found.
        colour: with ANSI colours; else masked text is in ⟪ ⟫ and the end of a turn in ⟦ ⟧.
    """
    return "\n".join(_lines(result, colour))


def _lines(result: PreviewResult, colour: bool) -> Iterator[str]:
    def heading(text: str) -> str:
        return f"{_BOLD}{text}{_RESET}" if colour else text

    yield heading(_clean(f"{result.source}: {result.form}"))
    parts = {lengths.part for lengths in result.lengths}
    answers = "pairs" if "rejected" in parts else "one answer each" if "chosen" in parts else "prompts alone"
    yield f"  form {result.form_name}: {answers}" + (
        "" if result.is_whole else f"; the first {result.counts.read:,} rows"
    )
    if result.unread:
        yield _clean(f"  columns not read: {', '.join(result.unread)}")
    if result.template is not None:
        yield _clean(f"  {result.template}")
    yield f"  {result.counts.read:,} rows, {result.counts.kept:,} kept"
    for reason, count in result.counts.dropped.most_common():
        first = result.problems.get(reason)
        yield _clean(f"  {count:,} dropped: {reason}" + (f" (the first: {first})" if first else ""))
    yield ""
    yield heading(f"lengths, {result.unit}")
    width = max((len(lengths.part) for lengths in result.lengths), default=0)
    names = [f"{percent}%" for percent in PERCENTILES[:-1]] + ["longest"]
    yield "  " + " " * width + "".join(f"{name:>9}" for name in names)
    for lengths in result.lengths:
        yield f"  {lengths.part:<{width}}" + "".join(f"{length:>9,}" for length in lengths.at)
    for number, example in enumerate(result.examples, 1):
        yield ""
        yield heading(_clean(f"example {number}: {example.location}, pair {example.pair_id}"))
        yield from _example_lines(example, colour)
    if legend := _legend(result, colour):
        yield ""
        yield legend


def _example_lines(example: Example, colour: bool) -> Iterator[str]:
    for passage in example.passages:
        yield f"  {_BOLD}{passage.title}{_RESET}" if colour else f"  {passage.title}:"
        shown = "".join(_marked(kind, _shortened(_clean(text)), colour) for kind, text in passage.pieces)
        for line in shown.split("\n"):
            yield f"    {line}"


def _marked(kind: PassageKind, text: str, colour: bool) -> str:
    if not colour:
        before, after = _BRACKETS[kind]
        return f"{before}{text}{after}"
    start = _COLOURS[kind]
    # Every line is coloured by itself, so that what is put in front of it is not.
    return "\n".join(f"{start}{line}{_RESET}" if start and line else line for line in text.split("\n"))


def _legend(result: PreviewResult, colour: bool) -> str:
    """What the colours or brackets in the examples mean; empty where there are none."""
    shown = {
        kind for example in result.examples for passage in example.passages for kind, _ in passage.pieces
    }
    meanings: dict[PassageKind, str] = {
        "trained": "scored and trained",
        "masked": "masked",
        "terminator": "end of a turn, scored and trained",
    }
    marked = [
        _marked(kind, text, colour)
        for kind, text in meanings.items()
        if kind in shown and (colour or any(_BRACKETS[kind]))
    ]
    return "  ".join(marked)


def _shortened(text: str) -> str:
    if len(text) <= _MOST_SHOWN:
        return text
    half = _MOST_SHOWN // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters …\n{text[-half:]}"


def _clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
