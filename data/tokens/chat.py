"""Conversations to text: through the tokenizer's chat template, or joined as they stand."""

import datetime
import json
from collections.abc import Mapping
from typing import Any, Protocol

import jinja2

from data.errors import DataError
from data.preferences.messages import Answer, Message, PreferenceRow, as_turns

__all__ = ["ChatTokenizer", "PlainFormat", "TemplateFormat", "TextFormat", "choose_format", "template_text"]


# What templates that print the date are shown, so that ids do not depend on the day of the run. This day is
# the one that Llama 3.1's template falls back to.
_TEMPLATE_DATE = datetime.datetime(2024, 7, 26)

_SENTINEL = "SentinelAnswer"

_QUESTION = Message("user", "question")


class ChatTokenizer(Protocol):
    """What is used of a tokenizer; those of `transformers` have it."""

    chat_template: Any
    bos_token_id: int | None
    eos_token_id: int | None
    all_special_ids: list[int]

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Added tokens by id, each with `special` and `content`."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Id of every token."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        """Token ids of a text."""
        ...

    def convert_ids_to_tokens(self, ids: int) -> Any:
        """The token of an id, as the vocabulary spells it."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """A conversation as the template writes it."""
        ...


class TextFormat(Protocol):
    """How prompts and answers become text.

    Attributes:
        terminator_id: the end-of-turn token that an answer ends with.
        prints_terminator: whether `answer` has it in its text; it is to be appended otherwise.
    """

    terminator_id: int
    prints_terminator: bool

    def prompt(self, row: PreferenceRow) -> str:
        """The text that the model answers."""
        ...

    def answer(self, row: PreferenceRow, prompt_text: str, answer: Answer) -> str:
        """The text that follows the prompt's, up to the terminator and nothing behind it."""
        ...


def choose_format(tokenizer: ChatTokenizer) -> "TextFormat":
    """The chat template's format, or plain joining where the tokenizer has no template."""
    return TemplateFormat(tokenizer) if tokenizer.chat_template else PlainFormat(tokenizer)


def template_text(template: Any) -> str | None:
    """The template that `apply_chat_template` uses; of several named ones that is `default`; None without any."""
    if not template or isinstance(template, str):
        return template or None
    if isinstance(template, list):  # as tokenizer_config.json stores several
        template = {entry["name"]: entry["template"] for entry in template}
    return template.get("default") or json.dumps(template, sort_keys=True)


class PlainFormat:
    """Turns joined without anything between them, for tokenizers without a chat template."""

    prints_terminator = False

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.terminator_id = _eos_id(tokenizer)

    def prompt(self, row: PreferenceRow) -> str:
        """The turns' contents, joined."""
        return "".join(turn.content for turn in as_turns(row.prompt, "user"))

    def answer(self, row: PreferenceRow, prompt_text: str, answer: Answer) -> str:
        """The answer itself."""
        return "".join(turn.content for turn in as_turns(answer, "assistant"))


class TemplateFormat:
    """Text as the tokenizer's chat template writes it.

    The template is asked once what it writes behind an answer. The first special or added token there is the
    terminator; what follows it (ChatML writes a newline) is never generated, so it is cut. A template
    without one has nothing that says the answer is over: the end-of-sequence token is then appended instead.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._options: dict[str, Any] = {"tokenize": False}
        if "strftime_now" in str(tokenizer.chat_template):
            self._options["strftime_now"] = _TEMPLATE_DATE.strftime
        _, found, self._suffix = self._render((_QUESTION, Message("assistant", _SENTINEL))).rpartition(
            _SENTINEL
        )
        if not found:
            raise DataError(
                "the chat template leaves out the text of an assistant turn (templates for images want a list of "
                "parts there); give the tokenizer one that takes messages whose content is text"
            )
        self._kept_suffix, terminator_id = self._find_terminator()
        self.prints_terminator = terminator_id is not None
        self.terminator_id = _eos_id(tokenizer) if terminator_id is None else terminator_id

    def _find_terminator(self) -> tuple[str, int | None]:
        added = self._tokenizer.added_tokens_decoder
        # Many fine-tunes add their end of turn as an ordinary token; whitespace is added by some for its length.
        marks = {id for id, token in added.items() if token.special or token.content.strip()}
        marks |= set(self._tokenizer.all_special_ids)
        for token_id in self._tokenizer.encode(self._suffix, add_special_tokens=False, verbose=False):
            if token_id in marks:
                text = str(self._tokenizer.convert_ids_to_tokens(token_id))
                before, found, _ = self._suffix.partition(text)
                return before + found, token_id
        return "", None

    def prompt(self, row: PreferenceRow) -> str:
        """The conversation with the header of the answer to come."""
        return self._render(as_turns(row.prompt, "user"), add_generation_prompt=True, **_arguments(row))

    def answer(self, row: PreferenceRow, prompt_text: str, answer: Answer) -> str:
        """What the template writes for the answer, without what follows the terminator.

        Raises:
            DataError: when answers do not begin with the generation prompt, or end unlike others.
        """
        turns, arguments = as_turns(answer, "assistant"), _arguments(row)
        text = self._render((*as_turns(row.prompt, "user"), *turns), **arguments)
        if not text.startswith(prompt_text):
            # Some write earlier turns differently once they are answered (Mistral's drop the system turn). The
            # model answers the prompt as it stands, so only the answer's own text is wanted, behind any question.
            prompt_text = self._render((_QUESTION,), add_generation_prompt=True, **arguments)
            text = self._render((_QUESTION, *turns), **arguments)
        if not text.startswith(prompt_text):
            raise DataError(
                f"the chat template's generation prompt is not how it begins an answer: prompts end with "
                f"{prompt_text[-40:]!r}, and an answered conversation does not go on like that; give the "
                "tokenizer a template (its chat_template.jinja) whose generation prompt is how an answer begins"
            )
        if not text.endswith(self._suffix) or len(text) < len(prompt_text) + len(self._suffix):
            raise DataError(
                f"the chat template ends this answer with {text[-40:]!r}, others with {self._suffix!r}; give "
                "the tokenizer a template that ends every answer alike"
            )
        return text[len(prompt_text) : len(text) - len(self._suffix)] + self._kept_suffix

    def _render(self, turns: tuple[Message, ...], **options: Any) -> str:
        conversation = [turn.as_dict() for turn in turns]
        try:
            return self._tokenizer.apply_chat_template(conversation, **self._options, **options)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(
                f"the chat template is not valid Jinja (line {error.lineno}: {error.message}); mend it, or give "
                "the tokenizer another template"
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn.role for turn in turns)
            raise DataError(
                f"the chat template refuses a conversation of {roles}: {error}; remove the turns that "
                "it does not know (many refuse system turns), or give the tokenizer another template"
            ) from error


def _arguments(row: PreferenceRow) -> dict[str, Any]:
    """What a row hands to the template beside its turns."""
    tools = {} if row.tools is None else {"tools": list(row.tools)}
    return {**(row.template_args or {}), **tools}


def _eos_id(tokenizer: ChatTokenizer) -> int:
    if tokenizer.eos_token_id is None:
        raise DataError(
            "the tokenizer has no end-of-sequence token and its chat template writes no end of turn, so that "
            "nothing could tell where an answer ends; set eos_token in its tokenizer_config.json"
        )
    return tokenizer.eos_token_id
