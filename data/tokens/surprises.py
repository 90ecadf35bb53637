"""Warnings: end tokens at which generation does not stop, and chat templates that differ."""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from data.errors import DataError
from data.preferences.messages import Message
from data.tokens.template import ChatTemplate, ChatTokenizer, template_text

_GENERATION_CONFIG = "generation_config.json"

_CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Ulm"}}}

#: Conversations that templates treat differently, by what is in them.
_PROBES: Mapping[str, tuple[Message, ...]] = {
    "one question": (Message("user", "Question."), Message("assistant", "Answer.")),
    "a system turn": (
        Message("system", "Instruction."),
        Message("user", "Question."),
        Message("assistant", "Answer."),
    ),
    "two questions": (
        Message("user", "Question."),
        Message("assistant", "Answer."),
        Message("user", "Another."),
        Message("assistant", "Another answer."),
    ),
    "a thought": (
        Message("user", "Question."),
        Message("assistant", "Answer.", {"reasoning_content": "Thought."}),
    ),
    "a tool call": (
        Message("user", "Question."),
        Message("assistant", "", {"tool_calls": [_CALL]}),
        Message("tool", "Result."),
        Message("assistant", "Answer."),
    ),
}


def unheeded_terminator(folder: Path, terminator_id: int, terminator: str) -> str | None:
    """A line on a model whose generation does not stop where answers end; None where it does, or names no end.

    Args:
        folder: the model's.
        terminator_id: the token that answers end with.
        terminator: its text.
    """
    for name in (_GENERATION_CONFIG, "config.json"):
        try:
            named = json.loads((folder / name).read_text()).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        ends = named if isinstance(named, list) else [named]
        if named is None:
            continue
        if terminator_id in ends:
            return None
        return (
            f"{folder}: answers end with {terminator!r} (id {terminator_id}), but {name} stops generation at "
            f"{', '.join(map(str, ends))} alone, so that it would talk on elsewhere; add the id to eos_token_id there"
        )
    return None


def stored_template(folder: Path) -> str | None:
    """The chat template among a tokenizer's files; None without one."""
    try:
        return (folder / "chat_template.jinja").read_text()
    except OSError:
        pass
    try:
        return template_text(json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return None


def differing_templates(
    tokenizer: ChatTokenizer, other: str | None, *, name: str, other_name: str
) -> Iterator[str]:
    """Lines on how a tokenizer's template and another write the same conversation differently; none where they do not.

    Args:
        tokenizer: the tokenizer, which renders with both.
        other: the other template; None for a tokenizer without one.
        name: what to call the tokenizer.
        other_name: what to call where the other template is from.
    """
    own = template_text(tokenizer.chat_template)
    if own == other:
        return
    if own is None or other is None:
        without, has = (name, other_name) if own is None else (other_name, name)
        yield f"{has} has a chat template and {without} has none, so that conversations are written differently"
        return
    templates = ChatTemplate(tokenizer), ChatTemplate(tokenizer, text=other)
    for probe, turns in _PROBES.items():
        theirs, ours = (_rendered(template, turns) for template in reversed(templates))
        if theirs != ours:
            yield f"{other_name} and {name} write a conversation with {probe} differently:"
            lines = difflib.unified_diff(
                theirs.splitlines(), ours.splitlines(), other_name, name, lineterm="", n=1
            )
            yield from (f"  {line}" for line in lines)
            return


def _rendered(template: ChatTemplate, turns: tuple[Message, ...]) -> str:
    try:
        return template.render(turns) + "\n" + template.render(turns[:-1], add_generation_prompt=True)
    except DataError as error:
        return f"(refused: {error})"
