"""Conversations to text: through the tokenizer's chat template, or joined as they are.

What is common to both is here; `template_format` has the work of the former.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from data.errors import DataError
from data.preferences.messages import Answer, Message, PreferenceRow, as_turns
from data.tokens.template import ChatTokenizer
from data.tokens.thoughts import THOUGHT_FIELDS, without_thought

#: Fields with content beside the text: a template that does not read them loses it.
CONTENT_FIELDS = ("tool_calls", "function_call", "images", "image", "audio", "video", "videos")

#: Why a row is dropped whose template does not write all of an answer.
LEFT_OUT = "answer that the chat template leaves out a part of"


class UnusableAnswerError(Exception):
    """A row that cannot be used, for a reason that others share; rows are dropped and counted by it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Where an assistant turn is in a text, in characters.

    Attributes:
        start: where the model begins to write it, after the generation prompt.
        first: the first character that is its own: an empty thought that the template wrote is before it.
        end: after its terminator.
    """

    start: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendering:
    """A prompt with an answer as one text.

    Attributes:
        text: up to the last turn's terminator and nothing after it.
        turns: the answer's assistant turns, in order.
        messages: the conversation as it went into the template.
        prompt_messages: how many of them are the prompt's.
        arguments: what else went into the template.
        is_trimmed: whether the template left out whitespace around an answer.
    """

    text: str
    turns: tuple[Turn, ...]
    messages: tuple[Message, ...] = ()
    prompt_messages: int = 0
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_trimmed: bool = False


class TextFormat(Protocol):
    """How prompts and answers become text.

    Attributes:
        terminator_id: the end-of-turn token that an answer ends with.
        prints_terminator: whether an answer's text has it; it is to be appended otherwise.
        ignored: fields of messages that the template does not read, as far as rows had them.
    """

    terminator_id: int
    prints_terminator: bool
    ignored: set[str]

    def prompt(self, row: PreferenceRow) -> str:
        """The text that the model answers."""
        ...

    def answer(self, row: PreferenceRow, prompt_text: str, answer: Answer) -> list[Rendering]:
        """The answer after its prompt: one text, or one for each of its turns where no single text has them all."""
        ...


class PlainFormat:
    """Turns joined without anything between them, for tokenizers without a chat template."""

    prints_terminator = False

    def __init__(self, tokenizer: ChatTokenizer, *, thinking: str = "auto") -> None:
        self.terminator_id = end_of_sequence(tokenizer)
        self.ignored: set[str] = set()
        self._thinking = thinking

    def prompt(self, row: PreferenceRow) -> str:
        """The turns' contents, joined."""
        if row.tools is not None or row.template_args is not None:
            column = "tools" if row.tools is not None else "chat_template_kwargs"
            raise DataError(
                f"`{column}` needs a chat template, and the tokenizer has none; give it one, or remove the column"
            )
        return "".join(turn.content for turn in self._checked(as_turns(row.prompt, "user")))

    def answer(self, row: PreferenceRow, prompt_text: str, answer: Answer) -> list[Rendering]:
        """The answer's turns, joined."""
        text, turns = prompt_text, []
        said = self._checked(as_turns(answer, "assistant"))
        for turn in said:
            start, text = len(text), text + turn.content
            if turn.role == "assistant":
                turns.append(Turn(start, start, len(text)))
        prompt = as_turns(row.prompt, "user")
        return [Rendering(text, tuple(turns), (*prompt, *said), len(prompt))]

    def _checked(self, turns: Sequence[Message]) -> list[Message]:
        checked = []
        for given in turns:
            turn = without_thought(given) if self._thinking == "none" and given.role == "assistant" else given
            for field in (*THOUGHT_FIELDS, *CONTENT_FIELDS):
                if turn.extra.get(field):
                    raise DataError(
                        f"the field {field!r} of a message needs a chat template, and the tokenizer has none; give it "
                        "one, or write what the field holds into the content"
                    )
            self.ignored |= turn.extra.keys()
            checked.append(turn)
        return checked


def end_of_sequence(tokenizer: ChatTokenizer) -> int:
    """The token that ends a sequence.

    Raises:
        DataError: where there is none.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            "the tokenizer has no end-of-sequence token and its chat template writes no end of turn, so that "
            "nothing could tell where an answer ends; set eos_token in its tokenizer_config.json"
        )
    return tokenizer.eos_token_id
