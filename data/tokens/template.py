"""A chat template: its source, the variables and fields that it reads, and rendering with it."""

import datetime
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jinja2
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox

from data.errors import DataError
from data.preferences.messages import Message

# The date for templates that print one, fixed so that ids do not depend on the day of the run. This day is
# the one that Llama 3.1's template falls back to.
_TEMPLATE_DATE = datetime.datetime(2024, 7, 26)

# What `apply_chat_template` fills in itself.
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "strftime_now"})

# Private-use characters that no text has, put where a template marks what the assistant generates.
_BEGIN, _END = "\ue0d0", "\ue0d1"

_GENERATION_TAG = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


class ChatTokenizer(Protocol):
    """The methods of a `transformers` tokenizer that are used here."""

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


def template_text(template: Any) -> str | None:
    """The template that `apply_chat_template` uses; of several named ones that is `default`; None without any."""
    if not template or isinstance(template, str):
        return template or None
    if isinstance(template, list):  # as tokenizer_config.json stores several
        template = {entry["name"]: entry["template"] for entry in template}
    return template.get("default") or json.dumps(template, sort_keys=True)


class ChatTemplate:
    """A tokenizer's chat template.

    What it reads is taken from its syntax tree: the names that it expects from outside, and every name that it looks
    up in something (a message's fields are among them, and a field that is not is certainly not read).

    Attributes:
        text: the Jinja source.
        arguments: names of the variables that a caller can set, without what `apply_chat_template` sets itself.
        takes_tools: whether it reads `tools`.
        has_marks: whether it marks what the assistant generates, with `{% generation %}`.
        wants_parts: whether content is handed over as a list of parts, as templates for images want it.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, text: str | None = None) -> None:
        """Read a template.

        Args:
            tokenizer: renders it, with its own special tokens.
            text: the template, where it is not the tokenizer's own.
        Raises:
            DataError: for a template that is not valid Jinja.
        """
        text = template_text(tokenizer.chat_template) if text is None else text
        assert text is not None, "a tokenizer without a template has no ChatTemplate"
        self.text = text
        self._tokenizer = tokenizer
        self._options: dict[str, Any] = {"tokenize": False, "chat_template": text}
        if "strftime_now" in text:
            self._options["strftime_now"] = _TEMPLATE_DATE.strftime
        self.has_marks = _GENERATION_TAG.search(text) is not None
        self._marked = _GENERATION_TAG.sub(_mark, text)
        undeclared, stored, asked_for, self._looked_up = _names(self._marked)
        # What is set in one branch and read in another counts as undeclared, too.
        outside = (undeclared - stored) | asked_for
        self.takes_tools = "tools" in undeclared | asked_for
        self.arguments = frozenset(
            name
            for name in outside - _RESERVED - _environment().globals.keys()
            if not name.endswith("_token")
        )
        self.wants_parts = False

    def reads(self, field: str) -> bool:
        """Whether a message's field of that name can have any effect."""
        return field in self._looked_up

    def mentions(self, text: str) -> bool:
        """Whether a text, such as a tag, occurs in the template."""
        return text in self.text

    def render(self, turns: Sequence[Message], **options: Any) -> str:
        """A conversation as text.

        Args:
            turns: the messages.
            options: `add_generation_prompt`, `tools` and the template's own arguments.
        Raises:
            DataError: for a conversation that the template refuses.
        """
        return self._apply(turns, **{**self._options, **options})

    def render_marked(self, turns: Sequence[Message], **options: Any) -> tuple[str, list[tuple[int, int]]]:
        """A conversation as text, and the character spans that the template marks as the assistant's."""
        marked = self._apply(turns, **{**self._options, **options, "chat_template": self._marked})
        pieces, spans, begun, length = re.split(f"([{_BEGIN}{_END}])", marked), [], 0, 0
        for piece in pieces:
            if piece == _BEGIN:
                begun = length
            elif piece == _END:
                spans.append((begun, length))
            else:
                length += len(piece)
        return re.sub(f"[{_BEGIN}{_END}]", "", marked), spans

    def _apply(self, turns: Sequence[Message], **options: Any) -> str:
        try:
            return self._tokenizer.apply_chat_template([self._as_dict(turn) for turn in turns], **options)
        except jinja2.TemplateSyntaxError as error:
            raise _syntax_error(error) from error
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(turn.role for turn in turns)
            raise DataError(
                f"the chat template refuses a conversation of {roles}: {error}; remove the turns that "
                "it does not know (many refuse system turns), or give the tokenizer another template"
            ) from error

    def _as_dict(self, turn: Message) -> dict[str, Any]:
        content = turn.as_dict()
        if self.wants_parts:
            content["content"] = [{"type": "text", "text": turn.content}] if turn.content else []
        return content


def _syntax_error(error: jinja2.TemplateSyntaxError) -> DataError:
    return DataError(
        f"the chat template is not valid Jinja (line {error.lineno}: {error.message}); fix it, or give "
        "the tokenizer another template"
    )


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )


def _mark(tag: re.Match[str]) -> str:
    """A tag of `{% generation %}` as one that prints a mark and treats the whitespace around it alike."""
    before, ends, after = tag.groups()
    return f"{{%{before} if true %}}{_END if ends else _BEGIN}{{% endif {after}%}}"


@functools.lru_cache(maxsize=32)
def _names(source: str) -> tuple[frozenset[str], ...]:
    """Names in a template: undeclared ones, those it sets, those it has a default for, those that it looks up.

    Raises:
        DataError: for a template that is not valid Jinja.
    """
    try:
        tree = _environment().parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise _syntax_error(error) from error
    undeclared = jinja2.meta.find_undeclared_variables(tree)
    return tuple(map(frozenset, (undeclared, _stored(tree), _asked_for(tree), _looked_up(tree))))


def _stored(tree: jinja2.nodes.Template) -> Iterator[str]:
    """Names that the template sets itself somewhere."""
    return (node.name for node in tree.find_all(jinja2.nodes.Name) if node.ctx == "store")


def _asked_for(tree: jinja2.nodes.Template) -> Iterator[str]:
    """Names that the template has a default for, used when the caller gives none."""
    for node in tree.find_all((jinja2.nodes.Test, jinja2.nodes.Filter)):
        assert isinstance(node, jinja2.nodes.Test | jinja2.nodes.Filter)
        if node.name in ("defined", "undefined", "default", "d") and isinstance(node.node, jinja2.nodes.Name):
            yield node.node.name


def _looked_up(tree: jinja2.nodes.Template) -> Iterator[str]:
    """Every name that is looked up in something: `m.name`, `m['name']`, `m.get('name')`, `'name' in m`."""
    yield from (node.attr for node in tree.find_all(jinja2.nodes.Getattr))
    yield from (node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str))
