"""Messages, prompts, answers, and a preference row as both stages read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: `system`, `user`, `assistant`, `tool`, or whatever else the data say.
        content: the text; empty where the turn has none (a tool call alone).
        extra: every further field of the message that holds something (`reasoning_content`, `tool_calls`,
            `tool_call_id`, `name` and so on), as JSON values.
    """

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates take it: role, content and every further field."""
        return {"role": self.role, "content": self.content, **self.extra}


Prompt = str | tuple[Message, ...]

"""A prompt is plain text (one user turn, where there is a chat template) or the turns of a conversation."""

Answer = str | tuple[Message, ...]

"""An answer is the text of one assistant turn, or the turns after the prompt: several of them, or one with
further fields. It may hold tool results and user turns between the assistant's."""


class PreferenceRow(NamedTuple):
    """One prompt with what is known of its answers.

    Attributes:
        pair_id: the row's own `id`, or a hash of its content; unique within a source.
        prompt: text, or the turns before the answers part.
        chosen: the preferred answer; None where the source has prompts alone.
        rejected: the other answer; None where the source has none.
        location: where it was read, for messages: `pairs.jsonl line 17`.
        tools: JSON schemas of the tools that the prompt offers; None where it offers none.
        template_args: the row's own arguments for the chat template (`chat_template_kwargs`).
        is_conversation: whether prompt and chosen answer were given as one conversation (`messages`), so that
            earlier assistant turns, which are in the prompt, are answers just as well as the last.
    """

    pair_id: str
    prompt: Prompt
    chosen: Answer | None
    rejected: Answer | None
    location: str
    tools: tuple[dict[str, Any], ...] | None = None
    template_args: dict[str, Any] | None = None
    is_conversation: bool = False


def as_turns(said: Prompt | Answer, role: str) -> tuple[Message, ...]:
    """Plain text as one turn of that role; turns as they are."""
    return (Message(role, said),) if isinstance(said, str) else said
