"""The words of a preference pair: messages, prompts and one row as both stages read it."""

from typing import NamedTuple

__all__ = ["Message", "PreferenceRow", "Prompt"]


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]

"""A prompt is plain text (one user turn, where there is a chat template) or the turns of a conversation."""


class PreferenceRow(NamedTuple):
    """One prompt with what is known of its answers.

    Attributes:
        pair_id: the row's own `id`, or a hash of its content; unique within a source.
        prompt: text, or the turns before the answer.
        chosen: the preferred answer; None where the source has prompts alone.
        rejected: the other answer; None where the source has none.
        location: where it was read, for messages: `pairs.jsonl line 17`.
    """

    pair_id: str
    prompt: Prompt
    chosen: str | None
    rejected: str | None
    location: str
