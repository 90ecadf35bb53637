"""Conversations of every known format, as messages.

Messages come with `role` and `content` or with `from` and `value`, their content as text or as a list of text parts, in
lists or alone, as JSON text, or as lists of roles and contents side by side (an old habit of `datasets`). Conversations
in one text come with the role marks of HH-RLHF or of HelpSteer2.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.preferences.forms.columns import (
    NOTHING,
    RowError,
    check_unicode,
    listed,
    looks_like_json,
    parsed,
    text,
)
from data.preferences.messages import Message, Prompt

_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "observation": "tool",
    "function_response": "tool",
}

# A message of these holds a call as JSON text (LLaMA-Factory's ShareGPT).
_CALLS = ("function_call", "tool_call")

#: Roles of turns that hold what a tool returned.
TOOL_ROLES = ("tool", "function", "ipython")

_TRANSCRIPT_TURN = re.compile(r"(?:\A|\n)\n*(Human|Assistant):(?=[ \n]|\Z)")

# HelpSteer2 writes the turns of a conversation into one text, each after the first under such a line.
_HELPSTEER_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")

# Marks without which no text is a tool call.
_CALL_MARKS = re.compile(r"[<{\[(`|]")


def column_kind(row: Mapping[str, Any], column: str) -> str:
    """What a column holds: `text`, `messages` (of an answer: turns that the assistant begins), or `whole conversation`.

    Raises:
        RowError: for what is neither text nor messages.
    """
    value = row[column]
    if isinstance(value, str) and not is_messages_text(value):
        return "text"
    turns = _items(value, column)
    first = turns[0] if turns else None
    role = (first.get("role") or first.get("from")) if isinstance(first, dict) else None
    is_answer = isinstance(role, str) and (_ROLES.get(role, role) == "assistant" or role in _CALLS)
    return "messages" if column == "prompt" or is_answer else "whole conversation"


def read_column(row: Mapping[str, Any], column: str) -> Prompt:
    """A column's text, or its turns where it holds messages or a transcript with a question at its end."""
    value = row[column]
    if isinstance(value, str) and not is_messages_text(value):
        return text(value, column)
    return read_turns(value, column)


def read_turns(value: Any, column: str) -> tuple[Message, ...]:
    """Turns of any spelling as messages, every further field kept.

    Args:
        value: a list of messages, one message, or JSON text of these.
        column: what to call it in messages.
    Raises:
        RowError: for what is no message, images, JSON that is broken.
    """
    return tuple(_message(turn, number, column) for number, turn in enumerate(_items(value, column), 1))


def is_messages_text(value: Any) -> bool:
    """Whether text is JSON of messages, or messages as Python prints them."""
    if not looks_like_json(value):
        return False
    start = value.lstrip("[ \r\n\t{")[:12]
    return start.startswith(
        ('"role"', '"content"', '"from"', '"value"', "'role'", "'content'", "'from'", "'value'")
    )


def _items(value: Any, column: str) -> list[Any]:
    if isinstance(value, str) and is_messages_text(value):
        value = _decoded(value, column)
    if isinstance(value, dict):
        return _items_of_dict(value, column)
    if not isinstance(value, list | tuple):
        raise RowError(
            "neither text nor messages",
            f"`{column}` is of type {type(value).__name__}; it must be text or a list of messages",
        )
    return list(value)


def _decoded(value: str, column: str) -> Any:
    """Messages from JSON text, or from what Python prints for them (pandas writes that into CSV files)."""
    if value.lstrip("[ \r\n\t{").startswith('"'):
        return parsed(value, column)
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise RowError(
            "broken JSON", f"`{column}` looks like messages printed by Python and cannot be read; write JSON"
        ) from error


def _items_of_dict(value: dict[str, Any], column: str) -> list[Any]:
    lists = {name: items for name, items in value.items() if isinstance(items, list | tuple)}
    for role, content in (("role", "content"), ("from", "value")):
        if role in lists and content in lists:
            if len({len(items) for items in lists.values()}) > 1:
                raise RowError("neither text nor messages", f"`{column}` has lists of different lengths")
            return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]
        if role in value:
            return [value]
    raise RowError(
        "neither text nor messages",
        f"`{column}` is an object with {listed(value)}; it must be text or a list of messages (map NAME={column}.FIELD "
        "takes a field of it)",
    )


def _message(turn: Any, number: int, column: str) -> Message:
    if isinstance(turn, dict) and "from" in turn and "role" not in turn:
        turn = {**{name: value for name, value in turn.items() if name not in ("from", "value")}} | {
            "role": turn["from"],
            "content": turn.get("value"),
        }
    if not isinstance(turn, dict) or "role" not in turn or not {"content", "tool_calls"} & turn.keys():
        seen = listed(turn) if isinstance(turn, dict) else type(turn).__name__
        raise RowError(
            "no message",
            f"turn {number} of `{column}` has {seen}; it must have role and content (or from and value)",
        )
    role = text(turn["role"], "turn %d of %s: role", number, column)
    content = turn.get("content")
    extra = {
        name: value
        for name, value in turn.items()
        if name not in ("role", "content") and value not in NOTHING
    }
    if role in _CALLS:
        role, content, extra = "assistant", "", {"tool_calls": _calls(content, number, column), **extra}
    role = _ROLES.get(role, role)
    if content is None and extra.get("tool_calls"):
        content = ""
    elif isinstance(content, list | tuple):
        content = _joined_parts(content, number, column)
    check_unicode(extra, "turn %d of %s", number, column)
    return Message(role, text(content, "turn %d of %s: content", number, column), extra)


def _joined_parts(parts: Sequence[Any], number: int, column: str) -> str:
    """The text of a content that is a list of parts."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if not isinstance(part, dict) or kind not in ("text", "input_text", "output_text"):
            raise RowError(
                "images or other parts that are not text",
                f"turn {number} of `{column}` has a part of type {kind!r}; only text can be read, remove the row",
            )
        # Arrow fills in the fields of other parts with null.
        texts.append(text(part.get("text"), "turn %d of %s: text part", number, column))
    return "".join(texts)


def _calls(content: Any, number: int, column: str) -> list[dict[str, Any]]:
    what = f"turn {number} of {column}"
    calls = parsed(content, what) if isinstance(content, str) else content
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not all(isinstance(call, dict) and call.get("name") for call in calls):
        raise RowError("broken tool call", f"`{what}` must be a tool call: an object with name and arguments")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]


# --- Conversations in one text


def is_transcript(value: Any) -> bool:
    """Whether text is a conversation with HH-RLHF's role marks, from its first turn on."""
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\nAssistant:" in value


def transcript_turns(value: str, column: str) -> tuple[Message, ...]:
    """The turns of an HH-RLHF text; one that ends in `Assistant:` ends before the answer.

    Raises:
        RowError: when turns come in an order that no conversation has.
    """
    _, *rest = _TRANSCRIPT_TURN.split("\n\n" + text(value, column).strip())
    roles = ["user" if mark == "Human" else "assistant" for mark in rest[0::2]]
    contents = [content.strip() for content in rest[1::2]]
    return tuple(Message(role, content) for role, content in zip(roles, contents, strict=True))


def helpsteer_prompt(value: Any) -> Prompt:
    """A HelpSteer2 prompt; a conversation that was written into it becomes messages again."""
    said = text(value, "prompt")
    first, *rest = _HELPSTEER_TURN.split(said)
    if not rest:
        return said
    opening = (Message("user", first),) if first.strip() else ()
    later = zip(rest[0::2], rest[1::2], strict=True)
    return (*opening, *(Message(role.lower(), content) for role, content in later))


# --- Order


def check_order(turns: Sequence[Message], column: str) -> None:
    """Refuse conversations that cannot have happened.

    Args:
        turns: a whole conversation.
        column: what to call it in messages.
    Raises:
        RowError: for a system turn that is not at the beginning, two turns of the user or the assistant in
            succession, an empty turn of theirs, a tool result without a call.
    """
    before: Message | None = None
    calling: Message | None = None
    for number, turn in enumerate(turns, 1):
        where = f"turn {number} of `{column}`"
        if turn.role in ("user", "assistant") and not turn.extra and not turn.content.strip():
            raise RowError("empty turn", f"{where} ({turn.role}) is empty; remove the row or fill it in")
        if (
            turn.role in ("system", "developer")
            and before is not None
            and before.role not in ("system", "developer")
        ):
            raise RowError(
                "roles out of order",
                f"{where} is a {turn.role} turn after the {before.role}'s; it must come first",
            )
        if turn.role in ("user", "assistant") and before is not None and before.role == turn.role:
            raise RowError(
                "roles out of order",
                f"{where} is the {turn.role}'s, like the one before it; join them or remove one",
            )
        if turn.role in TOOL_ROLES:
            _check_call(turn, calling, where)
        elif turn.role == "assistant":
            calling = turn
        else:
            calling = None
        before = turn


def _check_call(result: Message, calling: Message | None, where: str) -> None:
    calls = calling.extra.get("tool_calls") if calling is not None else None
    if calling is None or not (calls or calling.extra or _CALL_MARKS.search(calling.content)):
        raise RowError(
            "tool result without a call",
            f"{where} is a tool's result, and no call of the assistant comes before it; add the call or remove the row",
        )
    wanted = result.extra.get("tool_call_id")
    known = [call.get("id") for call in calls or () if isinstance(call, dict) and call.get("id")]
    if wanted and known and wanted not in known:
        raise RowError(
            "tool result without a call",
            f"{where} answers the call {json.dumps(wanted)}, and the calls before it are {json.dumps(known)}; "
            "correct the id",
        )
