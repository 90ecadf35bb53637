"""The content of a row: prompt and answers, assembled from the columns that a form found.

Both answers are made whole conversations first. They part at the first turn that differs; the prompt is what comes
before the assistant's turn at which, or after which, they part.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data.preferences.forms.columns import RowError, json_value, parsed, text
from data.preferences.forms.turns import TOOL_ROLES, check_order
from data.preferences.messages import Answer, Message, Prompt, as_turns

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")


class Content(NamedTuple):
    """What a row says: a prompt, the answers that it has, and what else goes into the chat template."""

    prompt: Prompt
    chosen: Answer | None
    rejected: Answer | None
    tools: tuple[dict[str, Any], ...] | None = None
    template_args: dict[str, Any] | None = None
    is_conversation: bool = False


class Rating(NamedTuple):
    """One answer to a prompt and how helpful it was found; two rows in succession make a pair."""

    content: Content
    helpfulness: float


class LabelledAnswer(NamedTuple):
    """One answer to a prompt (as `chosen`) and whether it is a good one; rows of one prompt make pairs."""

    content: Content
    is_good: bool


class Dropped(NamedTuple):
    """A valid row that gives no pair, such as a tie."""

    reason: str


Said = Content | Rating | LabelledAnswer | Dropped


def prompt_content(row: Mapping[str, Any], prompt: Prompt) -> Content:
    """A prompt alone."""
    return _content(row, _with_system(row, prompt), None, None)


def conversation_content(row: Mapping[str, Any], turns: tuple[Message, ...], column: str) -> Content:
    """One conversation: its last turn is the answer where it is the assistant's, else all of it is a prompt."""
    check_order(turns, column)
    if not turns or turns[-1].role != "assistant":
        return prompt_content(row, turns)
    prompt = _with_system(row, turns[:-1])
    return _content(row, prompt, _simple(turns[-1:], column), None, is_conversation=True)


def pair_content(
    row: Mapping[str, Any],
    prompt: Prompt | None,
    chosen: Answer,
    rejected: Answer | None,
    *,
    names: tuple[str, str] = ("chosen", "rejected"),
) -> Content:
    """A prompt with one or two answers.

    Args:
        row: for the columns that every form has: system, tools and arguments of the template.
        prompt: None where the answers are whole conversations.
        chosen: text, the turns after the prompt, or a whole conversation.
        rejected: the same; None where there is one answer.
        names: what to call the answers in messages.
    Raises:
        RowError: for an empty prompt or answer, answers that do not end with the assistant's turn, conversations that
            part before the assistant's first turn or do not contain the prompt, turns in an impossible order.
    """
    if isinstance(chosen, str) and prompt is not None and (rejected is None or isinstance(rejected, str)):
        # The plain case, which most rows are.
        answers = [
            _checked_text(chosen, names[0]),
            None if rejected is None else _checked_text(rejected, names[1]),
        ]
        if not isinstance(prompt, str):
            check_order(prompt, "prompt")
        return _content(row, _with_system(row, prompt), *answers)
    conversations = []
    turns: tuple[Message, ...] = ()
    is_contained = True
    for answer, name in zip((chosen, rejected), names, strict=True):
        if answer is None:
            continue
        turns = as_turns(answer, "assistant")
        if not turns or turns[-1].role != "assistant":
            role = repr(turns[-1].role) if turns else "nobody"
            raise RowError(
                "answer of another role",
                f"`{name}` ends with a turn of {role}; it must end with the assistant's",
            )
        if not turns[-1].extra:
            _checked_text(turns[-1].content, name)
        whole = _joined(prompt, turns, name)
        is_contained = is_contained and whole == turns
        check_order(whole, name)
        conversations.append(whole)
    if rejected is None and prompt is not None and conversations[0][-len(turns)].role == "assistant":
        # The answer is all that comes after the prompt; of a whole conversation it is the last turn.
        at = len(conversations[0]) - len(turns)
    else:
        at = _first_answer(conversations, names)
    before: Prompt = conversations[0][:at]
    if not is_contained and before == (Message("user", str(prompt)),):
        before = str(prompt)
    simple = [_simple(turns[at:], name) for turns, name in zip(conversations, names, strict=False)]
    return _content(row, _with_system(row, before), simple[0], simple[1] if len(simple) > 1 else None)


def _first_answer(conversations: Sequence[tuple[Message, ...]], names: tuple[str, str]) -> int:
    """The turn at which the answers begin: the assistant's turn at which, or after which, conversations part.

    Of one conversation that is its last turn.
    """
    chosen, *others = conversations
    if not others or chosen == others[0]:
        return len(chosen) - 1
    (rejected,) = others
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    at = shared
    both_answer = all(len(turns) > shared and turns[shared].role == "assistant" for turns in conversations)
    if not both_answer:
        # They part at a turn that the assistant did not write, or one ends here: at the latest turn it did write.
        earlier = [index for index in range(shared) if chosen[index].role == "assistant"]
        if not earlier:
            raise RowError(
                "conversations part before the first answer",
                f"`{names[0]}` and `{names[1]}` part at turn {shared + 1}, before the assistant's first turn; "
                "they must answer the same prompt",
            )
        at = earlier[-1]
    return at


def _joined(prompt: Prompt | None, turns: tuple[Message, ...], name: str) -> tuple[Message, ...]:
    """A whole conversation: turns that begin with the prompt already, or the prompt and the turns after it."""
    if prompt is None:
        return turns
    opening = next((index for index, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    asked = [turn for turn in turns[:opening] if turn.role != "system"]
    if not isinstance(prompt, str):
        if turns[: len(prompt)] == prompt:
            return turns
        if opening == 0:
            return (*prompt, *turns)
        raise RowError(
            "prompt and conversation differ",
            f"`prompt` is not the beginning of `{name}`; write only the turns after it there, or all",
        )
    wanted = " ".join(prompt.split())
    said = [" ".join(turn.content.split()) for turn in turns[:-1]]
    # A question may have been put together out of the prompt and more; a later turn has to be the prompt itself.
    if any(wanted in question for question in said[:opening]) or wanted in said[opening:]:
        return turns
    if not asked:
        # The question is only in `prompt`: it comes after a system turn, before the answer.
        return (*turns[:opening], Message("user", prompt), *turns[opening:])
    raise RowError(
        "prompt and conversation differ",
        f"`prompt` is {prompt[:40]!r}, which is in no turn of `{name}`; it would be lost: put it into "
        "the conversation, or leave the column out",
    )


def _simple(turns: tuple[Message, ...], name: str) -> Answer:
    """An answer of one plain turn as its text."""
    first, *further = turns
    if further or first.extra:
        return turns
    return _checked_text(first.content, name)


def _checked_text(answer: str, name: str) -> str:
    if not answer or answer.isspace():
        raise RowError(
            "empty response", f"`{name}` has an empty response; remove the row or give it an answer"
        )
    return answer


def _with_system(row: Mapping[str, Any], prompt: Prompt) -> Prompt:
    """The prompt with the row's system column in front, checked to leave something to answer."""
    last = as_turns(prompt, "user")[-1] if prompt else None
    if last is None or not (last.content.strip() or last.role in TOOL_ROLES):
        raise RowError("empty prompt", "empty prompt; there is nothing to answer")
    if last.role == "assistant":
        raise RowError(
            "prompt ends with an answer",
            "the prompt ends with an assistant turn; it must end with the user's",
        )
    for column in SYSTEM_COLUMNS:
        if (system := row.get(column)) is None or not text(system, column).strip():
            continue
        turns = as_turns(prompt, "user")
        first = next(iter(turns))
        if first == Message("system", system):
            continue
        if first.role == "system":
            raise RowError(
                "two system turns",
                f"the column `{column}` and the conversation's own system turn differ; keep one",
            )
        prompt = (Message("system", system), *turns)
    return prompt


def _content(
    row: Mapping[str, Any],
    prompt: Prompt,
    chosen: Answer | None,
    rejected: Answer | None,
    *,
    is_conversation: bool = False,
) -> Content:
    return Content(prompt, chosen, rejected, _tools(row), _template_args(row), is_conversation)


def _tools(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...] | None:
    """The column `tools`: a list of JSON schemas, as values or as JSON text."""
    tools = json_value(row, "tools")
    if tools is None:
        return None
    # Each of them may be JSON text, too: Arrow has no column of schemas that differ.
    if isinstance(tools, list):
        tools = [parsed(tool, "tools") if isinstance(tool, str) else tool for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("broken tools", "`tools` must be a list of JSON schemas, one for each tool")
    return tuple(tools)


def _template_args(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The column `chat_template_kwargs`: an object, as a value or as JSON text."""
    arguments = json_value(row, "chat_template_kwargs")
    if arguments is not None and not isinstance(arguments, dict):
        raise RowError(
            "broken template arguments",
            f"`chat_template_kwargs` is of type {type(arguments).__name__}; it must be an object of names and values",
        )
    return {name: value for name, value in (arguments or {}).items() if value is not None} or None
