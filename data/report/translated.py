"""The section of the HTML report on signals that were put on another tokenizer's ids, with a drawing of both."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

# Pixels: width of a column (one byte of text), height of a box, between the two rows, between lines.
_COLUMN, _BOX, _GAP, _LINE = 8.4, 22, 10, 24

_LABEL_WIDTH = 62

_COLUMNS = 112

_MOST_TOKENS = 12

# Blanks as marks, and control characters, which no XML may hold, as the pictures that Unicode has for them.
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20)}
_VISIBLE |= {0x20: "·", 0x0A: "⏎", 0x09: "⇥", 0x7F: "␡"}


def translation_section(translation: Mapping[str, Any]) -> str:
    """What a translation kept, as HTML.

    Args:
        translation: `created.translation` of a dataset's manifest.
    """
    facts = [
        (f"{translation['aligned_share']:.1%}", "of the student's positions carry a distribution"),
        (f"{translation['placed_mass']:.2%}", "of the teacher's probability there has a place"),
        (f"{translation['exact_mass']:.1%}", "of it exactly, by the rule's own bound"),
        (
            f"{translation['source_positions']:,}",
            f"teacher tokens for {translation['positions']:,} of the student",
        ),
    ]
    cards = "".join(f"<div><b>{value}</b>{escape(label)}</div>" for value, label in facts)
    dropped = "".join(
        f"<tr><td>{escape(reason)}</td><td class=number>{count:,}</td></tr>"
        for reason, count in translation["dropped"].items()
    )
    tables = [
        _table("Teacher tokens without a place", "probability lost", _unplaced_rows(translation)),
        _table("Responses that were left out", "responses", dropped),
    ]
    columns = "".join(tables)
    example = translation.get("example")
    drawing = "" if example is None else _drawing(example)
    return f"<h2>On another tokenizer's ids</h2><div class=facts>{cards}</div>{drawing}" + (
        f"<div class=columns>{columns}</div>" if columns else ""
    )


def _unplaced_rows(translation: Mapping[str, Any]) -> str:
    tokens = translation["unplaced_tokens"][:_MOST_TOKENS]
    return "".join(
        f"<tr><td><code>{escape(json.dumps(text, ensure_ascii=False))}</code></td>"
        f"<td class=number>{mass:.3g}</td></tr>"
        for text, mass in tokens
    )


def _table(title: str, unit: str, rows: str) -> str:
    if not rows:
        return ""
    head = f"<tr><th></th><th class=number>{unit}</th></tr>"
    return f"<div class=panel><h3>{title}</h3><table>{head}{rows}</table></div>"


def _drawing(example: Mapping[str, Any]) -> str:
    return (
        "<div class='panel scroll'><h3>One response in both tokenizations</h3>"
        f"<p class=muted>Pair {escape(str(example['pair_id']))}, {escape(example['role'])}. Where a token of the "
        "student begins with one of the teacher (filled), it has the teacher's distribution; the others have none. "
        "What this page says of tokens, it says of a span of several at the first of them.</p>"
        f"{tokenizations_svg(example)}</div>"
    )


def tokenizations_svg(example: Mapping[str, Any], *, is_file: bool = False) -> str:
    """Both tokenizations of a text over each other, to the scale of its bytes.

    Args:
        example: `teacher` and `student`, each a list of (text of the token, its number of bytes), and `aligned`: for
            each of the student's tokens whether it begins with one of the teacher.
        is_file: for a separate file, which needs its own background and text colours.
    """
    teacher, student = _placed(example["teacher"]), _placed(example["student"])
    common = sorted({start for start, _, _ in teacher} & {start for start, _, _ in student})
    end = max(stop for _, stop, _ in (*teacher, *student))
    lines = list(_lines([*common, end]))
    widest = max(stop - start for start, stop in lines)
    height = len(lines) * (2 * _BOX + _GAP + _LINE)
    width = _LABEL_WIDTH + widest * _COLUMN + 2
    marks = dict(zip((start for start, _, _ in student), example["aligned"], strict=True))
    drawn = ['<rect width="100%" height="100%" fill="#fcfcfa"/>'] if is_file else []
    for number, (start, stop) in enumerate(lines):
        top = number * (2 * _BOX + _GAP + _LINE) + 2
        low = top + _BOX + _GAP
        drawn += [_label("teacher", top), _label("student", low)]
        drawn += [
            _box(token, start, top, "var(--chosen, #266edc)", 0.16) for token in _within(teacher, start, stop)
        ]
        for token in _within(student, start, stop):
            drawn.append(_box(token, start, low, "var(--student, #1f7d4b)", 0.22 if marks[token[0]] else 0))
        for place in common:
            if start <= place < stop:
                x = _x(place, start)
                drawn.append(
                    f'<path d="M{x:.1f} {top + _BOX}V{low}" stroke="currentColor" stroke-width="1"/>'
                )
    ink = ";color:#1d1f23" if is_file else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'style="max-width:{width:.0f}px{ink}" aria-label="one text cut by two tokenizers">'
        f"{''.join(drawn)}</svg>"
    )


_Token = tuple[int, int, str]
"""First byte, byte after the last, text."""


def _placed(tokens: Sequence[Sequence[Any]]) -> list[_Token]:
    placed, start = [], 0
    for text, size in tokens:
        placed.append((start, start + size, text))
        start += size
    return placed


def _within(tokens: Sequence[_Token], start: int, stop: int) -> Iterator[_Token]:
    return (token for token in tokens if start <= token[0] < stop)


def _lines(common: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Bytes of each line of the drawing, broken where both tokenizations have a boundary."""
    start = 0
    for place, after in itertools.pairwise(common):
        if after - start > _COLUMNS and place > start:
            yield start, place
            start = place
    yield start, common[-1]


def _x(place: int, start: int) -> float:
    return _LABEL_WIDTH + (place - start) * _COLUMN


def _label(text: str, top: float) -> str:
    return f'<text x="0" y="{top + 15}" font-size="12" font-family="system-ui, sans-serif" fill="#666b74">{text}</text>'


def _box(token: _Token, line_start: int, top: float, colour: str, opacity: float) -> str:
    start, stop, text = token
    x, width = _x(start, line_start), (stop - start) * _COLUMN
    shown = escape(text.translate(_VISIBLE))
    dashes = "" if opacity else ' stroke-dasharray="3 2"'
    return (
        f'<rect x="{x + 0.5:.1f}" y="{top}" width="{width - 1:.1f}" height="{_BOX}" rx="3" '
        f'style="fill:{colour};fill-opacity:{opacity};stroke:{colour}"{dashes}/>'
        f'<text x="{x + width / 2:.1f}" y="{top + 15}" text-anchor="middle" font-size="12" '
        f'font-family="ui-monospace, monospace" style="fill:currentColor">{shown}</text>'
    )
