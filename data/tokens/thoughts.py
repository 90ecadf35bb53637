"""Thoughts of reasoning models: separated from answers, and passed to templates in the form that they read."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from data.errors import DataError
from data.preferences.messages import Message
from data.tokens.template import ChatTemplate

THINKING = ("auto", "keep", "none")

#: Arguments by which templates turn thinking on and off.
THINKING_ARGUMENTS = ("enable_thinking", "thinking")

#: Fields of a message in which data keep a thought; the first is the most usual.
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")

# How templates of public models begin and end a thought.
_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
)

_OPEN = "|".join(re.escape(begin) for begin, _ in _TAGS)
_CLOSE = "|".join(re.escape(end) for _, end in _TAGS)
_TAIL = re.compile(rf"(?:(?:{_OPEN})\s*(?:(?:{_CLOSE})\s*)?|(?:{_CLOSE})\s*)\Z")
_OPEN_TAIL = re.compile(rf"(?:{_OPEN})\s*\Z")
_EMPTY = re.compile(rf"\s*(?:{_OPEN})?\s*(?:{_CLOSE})\s*")
_OPEN_TAG, _CLOSE_TAG = re.compile(_OPEN), re.compile(_CLOSE)


class Said(NamedTuple):
    """What an assistant turn says: its thought, None where it has none, and its answer."""

    thought: str | None
    answer: str


def split_thought(turn: Message) -> Said:
    """The thought of a turn, from its fields or from tags at the beginning of its text."""
    for field in THOUGHT_FIELDS:
        if isinstance(turn.extra.get(field), str) and turn.extra[field].strip():
            return Said(turn.extra[field], turn.content)
    for begin, end in _TAGS:
        before, found, after = turn.content.partition(end)
        # Data of models whose prompt opens the thought begin after the tag.
        if found and (before.lstrip().startswith(begin) or begin not in turn.content):
            thought = before.lstrip().removeprefix(begin)
            if thought.strip():
                return Said(thought, after)
            # An empty thought, or a closing tag without an opening one, which is ordinary text.
            return Said(None, after if begin in turn.content else turn.content)
    return Said(None, turn.content)


def without_thought(turn: Message) -> Message:
    """The turn without its thought."""
    said = split_thought(turn)
    extra = {name: value for name, value in turn.extra.items() if name not in THOUGHT_FIELDS}
    answer = said.answer if said.answer == turn.content else said.answer.lstrip("\n")
    return Message(turn.role, answer, extra)


def spellings(turn: Message, template: ChatTemplate) -> Iterator[Message]:
    """The ways to hand a turn with a thought to a template, the data's own first.

    Raises:
        DataError: when the first is asked for and there is none: a field that the template never reads.
    """
    said = split_thought(turn)
    own = [field for field in THOUGHT_FIELDS if turn.extra.get(field)]
    if said.thought is None:
        yield turn
        return
    extra = {name: value for name, value in turn.extra.items() if name not in THOUGHT_FIELDS}
    read = [field for field in THOUGHT_FIELDS if template.reads(field)]
    tags = [(begin, end) for begin, end in _TAGS if template.mentions(end)]
    # A template that reads thoughts from a field takes other templates' tags as text, not as a thought.
    foreign = not own and read and not any(end in turn.content for _, end in tags)
    if not foreign and (not own or own[0] in read):
        yield turn
    elif own and not read and not tags:
        raise DataError(
            f"the chat template never reads {own[0]!r}, a field with a thought of the data, which would be lost; give "
            "the tokenizer a template that reads it, or leave thoughts out (thinking `none`)"
        )
    for field in read:
        if own[:1] != [field]:
            yield Message(turn.role, said.answer.lstrip("\n"), {**extra, field: said.thought.strip()})
    for begin, end in tags:
        text = f"{begin}\n{said.thought.strip()}\n{end}\n\n{said.answer.lstrip()}"
        if text != turn.content or own:
            yield Message(turn.role, text, extra)
    if foreign:
        yield turn


def thought_tail(prompt: str) -> str:
    """The thought that a generation prompt opens (and perhaps closes) at its end; empty where it has none."""
    found = _TAIL.search(prompt)
    return found[0] if found else ""


def opens_thought(prompt: str) -> bool:
    """Whether a text ends inside a thought that has just begun."""
    return _OPEN_TAIL.search(prompt) is not None


def closes_thought(text: str) -> bool:
    """Whether a text ends a thought."""
    return _CLOSE_TAG.search(text) is not None


def empty_thought(text: str) -> int:
    """How many characters of an empty thought, or of the end of one, a text begins with; 0 where it has none."""
    found = _EMPTY.match(text)
    return found.end() if found else 0


def count_openings(text: str) -> int:
    """How many thoughts begin in a text."""
    return len(_OPEN_TAG.findall(text))
