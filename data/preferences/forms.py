"""The accepted forms of a row: which one it has, and its prompt and answers.

Errors raised here do not say where the row stands; the reader that calls puts the location in front.
"""

import enum
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from data.errors import DataError
from data.preferences.messages import Answer, Message, Prompt

__all__ = ["Content", "Layout", "Rating", "RowForm", "detect_form", "parse_content", "parse_rating", "row_id"]


_ACCEPTED = (
    "accepted are: prompt/chosen/rejected as text or messages; chosen/rejected as whole conversations; "
    "HelpSteer2 ratings (prompt, response, helpfulness); for sft also rows without rejected, or messages; "
    "for sample-student also a prompt alone"
)

# HelpSteer2 writes the turns of a conversation into one text, each after the first under such a line.
_HELPSTEER_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")

# What a field or column holds that is there for the sake of other rows.
_NOTHING = (None, "", [], {})


class Layout(enum.Enum):
    """Where a row keeps its prompt and its answers."""

    PROMPT_AND_ANSWERS = enum.auto()
    WHOLE_CONVERSATIONS = enum.auto()
    MESSAGES = enum.auto()
    PROMPT_ALONE = enum.auto()
    RATED_ANSWER = enum.auto()


class RowForm(NamedTuple):
    """What a row looks like; `name` says it to people, with text and messages told apart."""

    layout: Layout
    name: str


class Content(NamedTuple):
    """What a row says: a prompt, the answers that it has, and what else goes into the chat template."""

    prompt: Prompt
    chosen: Answer | None
    rejected: Answer | None
    tools: tuple[dict[str, Any], ...] | None = None
    template_args: dict[str, Any] | None = None
    is_conversation: bool = False


class Rating(NamedTuple):
    """One answer to a prompt and how helpful it was found."""

    prompt: Prompt
    response: str
    helpfulness: float


def detect_form(row: Mapping[str, Any]) -> RowForm:
    """Tell which form a row has from the columns that hold something (null and empty lists are nothing).

    Raises:
        DataError: for a row of no accepted form.
    """
    # Of text only the columns' names matter, so that most rows are looked at once for all.
    return _form_of_texts(*row) if all(type(value) is str for value in row.values()) else _form(row)


@functools.lru_cache(maxsize=64)
def _form_of_texts(*columns: str) -> RowForm:
    return _form(dict.fromkeys(columns, ""))


def _form(row: Mapping[str, Any]) -> RowForm:
    has = {name for name in row if _given(row, name)}
    if {"chosen", "rejected"} & has:
        return _answers_form(row, has)
    if {"prompt", "response", "helpfulness"} <= has:
        return RowForm(Layout.RATED_ANSWER, "rated answers (prompt, response, helpfulness)")
    if "messages" in has:
        return RowForm(Layout.MESSAGES, "conversations in messages")
    if "prompt" in has:
        return RowForm(Layout.PROMPT_ALONE, f"prompt alone as {_kind(row, 'prompt')}")
    raise DataError(f"no known form; columns with content: {_listed(has)}; {_ACCEPTED}")


def _answers_form(row: Mapping[str, Any], has: set[str]) -> RowForm:
    if "chosen" not in has:
        raise DataError(f"no `chosen`; columns with content: {_listed(has)}; {_ACCEPTED}")
    kind = _kind(row, "chosen")
    answers = "chosen"
    if "rejected" in has:
        answers = "chosen and rejected"
        if _kind(row, "rejected") != kind:
            raise DataError(
                f"`chosen` is {kind} and `rejected` is {_kind(row, 'rejected')}; write both alike"
            )
    if kind == "whole conversation":
        return RowForm(Layout.WHOLE_CONVERSATIONS, f"{answers} as whole conversations")
    if "prompt" not in has:
        raise DataError(
            f"`chosen` is {kind} and there is no `prompt`; columns with content: {_listed(has)}; {_ACCEPTED}"
        )
    return RowForm(Layout.PROMPT_AND_ANSWERS, f"prompt as {_kind(row, 'prompt')}, {answers} as {kind}")


def _kind(row: Mapping[str, Any], column: str) -> str:
    if isinstance(row[column], str):
        return "text"
    turns = _turns(row, column)
    is_answer = len(turns) == 1 and isinstance(turns[0], dict) and turns[0].get("role") == "assistant"
    return "messages" if column == "prompt" or is_answer else "whole conversation"


def parse_content(row: Mapping[str, Any], layout: Layout) -> Content:
    """Take a row apart that is not a rating.

    Raises:
        DataError: for an empty prompt or answer, conversations that differ before the last turn, turns that
            are not messages, a last turn that is not the assistant's.
    """
    tools, template_args = _tools(row), _template_args(row)
    if layout is Layout.PROMPT_ALONE:
        prompt = _prompt(row, _text_or_messages(row, "prompt"))
        return Content(prompt, None, None, tools, template_args)
    if layout is Layout.MESSAGES:
        turns = _messages(row, "messages")
        if turns[-1].role != "assistant":
            return Content(_prompt(row, turns), None, None, tools, template_args)
        prompt, answer = _prompt(row, turns[:-1]), _answer(turns, "messages")
        return Content(prompt, answer, None, tools, template_args, is_conversation=True)
    chosen = _text_or_messages(row, "chosen")
    rejected = _text_or_messages(row, "rejected") if _given(row, "rejected") else None
    if layout is not Layout.WHOLE_CONVERSATIONS:
        before = _text_or_messages(row, "prompt")
    else:
        before = chosen[:-1]
        if rejected is not None and rejected[:-1] != before:
            raise DataError(
                "`chosen` and `rejected` differ before the last turn; they must share all but the last"
            )
        # UltraFeedback repeats the first question as text, which is harmless; a conversation that only
        # `prompt` holds would be lost.
        if isinstance(row.get("prompt"), list) and _messages(row, "prompt") != before:
            raise DataError(
                "`prompt` is not the beginning of `chosen`; write only the last turn there, or all"
            )
    return Content(
        _prompt(row, before),
        _answer(chosen, "chosen"),
        None if rejected is None else _answer(rejected, "rejected"),
        tools,
        template_args,
    )


def parse_rating(row: Mapping[str, Any]) -> Rating:
    """Take a HelpSteer2 row apart; a conversation written into its prompt becomes messages again."""
    text, helpfulness = _text(row["prompt"], "prompt"), row["helpfulness"]
    if isinstance(helpfulness, bool) or not isinstance(helpfulness, int | float) or math.isnan(helpfulness):
        raise DataError(f"`helpfulness` is {helpfulness!r}; it must be a number")
    prompt: Prompt = text
    first, *rest = _HELPSTEER_TURN.split(text)
    if rest:
        opening = (Message("user", first),) if first.strip() else ()
        later = zip(rest[0::2], rest[1::2], strict=True)
        prompt = (*opening, *(Message(role.lower(), content) for role, content in later))
    return Rating(
        _prompt(row, prompt), _answer_text(_text(row["response"], "response"), "response"), float(helpfulness)
    )


def row_id(row: Mapping[str, Any]) -> str | None:
    """The row's own `id` as text; None where it has none."""
    value = row.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(f"`id` is {value!r}; an id must be text or a whole number")
    return _text(str(value), "id")


def _given(row: Mapping[str, Any], column: str) -> bool:
    return row.get(column) is not None and row[column] != []


def _text_or_messages(row: Mapping[str, Any], column: str) -> Prompt:
    value = row[column]
    return _text(value, column) if isinstance(value, str) else _messages(row, column)


def _messages(row: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    turns = []
    for number, turn in enumerate(_turns(row, column), 1):
        if not isinstance(turn, dict) or "role" not in turn or not {"content", "tool_calls"} & turn.keys():
            seen = _listed(turn) if isinstance(turn, dict) else type(turn).__name__
            raise DataError(f"turn {number} of `{column}` has {seen}; it must have role and content")
        role = _text(turn["role"], "turn %d of %s: role", number, column)
        extra = {
            name: value
            for name, value in turn.items()
            if name not in ("role", "content") and value not in _NOTHING
        }
        content = turn.get("content")
        if content is None and extra.get("tool_calls"):
            content = ""
        _check_unicode(extra, "turn %d of %s", number, column)
        turns.append(Message(role, _text(content, "turn %d of %s: content", number, column), extra))
    return tuple(turns)


def _tools(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...] | None:
    """The column `tools`: a list of JSON schemas, as values or as JSON text."""
    tools = _json_column(row, "tools")
    if tools is None:
        return None
    # Each of them may be JSON text, too: Arrow has no column of schemas that differ.
    if isinstance(tools, list):
        tools = [_parsed(tool, "tools") if isinstance(tool, str) else tool for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("`tools` must be a list of JSON schemas, one for each tool")
    return tuple(tools)


def _template_args(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The column `chat_template_kwargs`: an object, as a value or as JSON text."""
    arguments = _json_column(row, "chat_template_kwargs")
    if arguments is not None and not isinstance(arguments, dict):
        raise DataError(
            f"`chat_template_kwargs` is of type {type(arguments).__name__}; it must be an object of names and values"
        )
    return {name: value for name, value in (arguments or {}).items() if value is not None} or None


def _json_column(row: Mapping[str, Any], column: str) -> Any:
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        value = _parsed(value, column)
    if value in _NOTHING:
        return None
    _check_unicode(value, column)
    return value


def _check_unicode(value: Any, what: str, *names: object) -> None:
    """Refuse halves of surrogate pairs anywhere in a value."""
    if value:
        _text(json.dumps(value, ensure_ascii=False, default=str), what, *names)


def _parsed(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"`{column}` is text that is not JSON ({error}); write it as JSON") from error


def _turns(row: Mapping[str, Any], column: str) -> list[Any]:
    """A column's list, whatever is in it."""
    value = row[column]
    if not isinstance(value, list):
        raise DataError(
            f"`{column}` is of type {type(value).__name__}; it must be text or a list of messages"
        )
    return value


def _text(value: Any, what: str, *names: object) -> str:
    """A value that has to be text; what it is called is put together (`what % names`) only for a message."""
    if not isinstance(value, str):
        raise DataError(f"`{what % names}` is of type {type(value).__name__}; it must be text")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"`{what % names}` has half of a surrogate pair at character {error.start}; that is no text, remove it"
            ) from error
    return value


def _answer(value: Prompt, column: str) -> Answer:
    """The last turn: its text, or the turn as a message where it has further fields."""
    if not isinstance(value, str):
        last = value[-1]
        if last.role != "assistant":
            raise DataError(f"`{column}` ends with a turn of {last.role!r}; it must end with the assistant's")
        if last.extra:
            return (last,)
        value = last.content
    return _answer_text(value, column)


def _answer_text(text: str, column: str) -> str:
    if not text or text.isspace():
        raise DataError(f"`{column}` has an empty response; remove the row or give it an answer")
    return text


def _prompt(row: Mapping[str, Any], prompt: Any) -> Prompt:
    """The prompt with the row's `system` column in front, checked to leave something to answer."""
    if not prompt or not (prompt if isinstance(prompt, str) else prompt[-1].content).strip():
        raise DataError("empty prompt; there is nothing to answer")
    if not isinstance(prompt, str) and prompt[-1].role == "assistant":
        raise DataError("the prompt ends with an assistant turn; it must end with the user's")
    system = row.get("system")
    if system is None or not _text(system, "system").strip():
        return prompt
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if turns[0] == Message("system", system):
        return turns
    if turns[0].role == "system":
        raise DataError("the column `system` and the conversation's own system turn differ; keep one")
    return (Message("system", system), *turns)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
