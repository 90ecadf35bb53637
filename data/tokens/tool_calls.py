"""Tool calls of a message: arguments as values or JSON text, and whether a rendering contains them."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data.preferences.messages import Message


def parsed_arguments(turn: Message) -> Message:
    """The turn with the arguments of its tool calls as values, which most templates write as JSON themselves."""

    def parsed(arguments: Any) -> Any:
        try:
            return json.loads(arguments) if isinstance(arguments, str) else arguments
        except json.JSONDecodeError:
            return arguments

    return _with_arguments(turn, parsed)


def text_arguments(turn: Message) -> Message:
    """The turn with the arguments of its tool calls as JSON text, as OpenAI has them and some templates want them."""
    return _with_arguments(
        turn, lambda given: json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given
    )


def calls_arrive(written: str, turn: Message) -> bool:
    """Whether a text has the name and every argument of each of the turn's calls, written in whatever form."""
    return all(
        str(function.get("name", "")) in written
        and all(_is_in(value, written) for value in _leaves(function.get("arguments")))
        for function in map(_function, turn.extra.get("tool_calls") or ())
    )


def _with_arguments(turn: Message, change: Callable[[Any], Any]) -> Message:
    calls = turn.extra.get("tool_calls")
    if not isinstance(calls, list):
        return turn
    changed = []
    for call in calls:
        function = {**_function(call)}
        if "arguments" in function:
            function["arguments"] = change(function["arguments"])
        if not isinstance(call, Mapping):
            changed.append(call)
        else:
            changed.append({**call, "function": function} if "function" in call else function)
    return dataclasses.replace(turn, extra={**turn.extra, "tool_calls": changed})


def _function(call: Any) -> Mapping[str, Any]:
    """What is called: under `function`, as OpenAI has it, or the call itself."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield value


def _is_in(value: Any, written: str) -> bool:
    # JSON escapes what is no ASCII in some templates and not in others, and whole arguments may be quoted twice.
    texts = [str(value), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]]
    return any(text in written for text in texts) or not isinstance(value, str)
