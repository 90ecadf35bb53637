"""Conversations to text through the tokenizer's chat template.

Every answer is looked for in what the template wrote, and found there in whole, or its row is not used: a template may
trim an answer, add an empty thought in front of it or write earlier turns anew, and none of this may reach a student
unnoticed. An assistant turn is separated from what is around it by rendering the conversation up to it twice, with and
without it. Where a template writes a turn differently once others follow (it leaves out earlier thoughts, say), each
turn becomes a separate text, as the model saw it when it had to write it.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.errors import AdpaError, ConfigurationError, DataError
from data.preferences.messages import Answer, Message, PreferenceRow, as_turns
from data.tokens.answer_finder import QUESTION, SENTINEL, AnswerFinder
from data.tokens.chat import (
    CONTENT_FIELDS,
    PlainFormat,
    Rendering,
    TextFormat,
    Turn,
    UnusableAnswerError,
)
from data.tokens.template import ChatTemplate, ChatTokenizer
from data.tokens.thoughts import (
    THINKING_ARGUMENTS,
    THOUGHT_FIELDS,
    opens_thought,
    spellings,
    split_thought,
    without_thought,
)
from data.tokens.tool_calls import parsed_arguments

_KNOWN_ROLES = ("system", "user", "assistant")


def choose_format(
    tokenizer: ChatTokenizer, *, arguments: Mapping[str, Any] | None = None, thinking: str = "auto"
) -> TextFormat:
    """The chat template's format, or plain joining where the tokenizer has no template.

    Args:
        tokenizer: the tokenizer.
        arguments: what to hand to the template.
        thinking: `auto`, `keep` or `none`, see `TemplateFormat`.
    Raises:
        DataError: for a template that fails or does not know an argument, or where nothing could end an answer.
    """
    if tokenizer.chat_template:
        return TemplateFormat(tokenizer, arguments=arguments, thinking=thinking)
    if arguments:
        raise ConfigurationError(
            f"template argument {', '.join(sorted(arguments))}: the tokenizer has no chat template to hand it to; "
            "leave it out, or give the tokenizer a template"
        )
    return PlainFormat(tokenizer, thinking=thinking)


class TemplateFormat:
    """Text as the tokenizer's chat template writes it.

    Thoughts: `auto` takes those that the data have, and counts what the template writes in place of one that they do
    not have as the prompt's; `keep` counts it as the answer's, so that closing a thought at once is learnt; `none`
    leaves thoughts out and asks the template for answers without.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        arguments: Mapping[str, Any] | None = None,
        thinking: str = "auto",
    ) -> None:
        self.template = ChatTemplate(tokenizer)
        self.ignored: set[str] = set()
        self._thinking = thinking
        self._given = dict(arguments or {})
        self._check_arguments(self._given, "template argument", ConfigurationError)
        self._arguments = {**self._given, **self._thinking_off(self._given)}
        self._verified_roles: set[str] = set(_KNOWN_ROLES)
        self._tags_are_read: bool | None = None
        self._finder = AnswerFinder(
            self.template, tokenizer, self._arguments, keeps_empty_thoughts=thinking == "keep"
        )
        self.prints_terminator = self._finder.prints_terminator
        self.terminator_id = self._finder.terminator_id
        self.ends_turn = self._finder.ends_turn

    def _check_arguments(self, arguments: Mapping[str, Any], what: str, kind: type[AdpaError]) -> None:
        unknown = sorted(arguments.keys() - self.template.arguments)
        if unknown:
            known = ", ".join(sorted(self.template.arguments)) or "none"
            raise kind(
                f"{what} {unknown[0]!r}: the chat template never reads it; it reads {known}; leave it out, or "
                "give the tokenizer another template"
            )

    def _thinking_off(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that `none` adds, where a template has one for it."""
        if self._thinking != "none":
            return {}
        names = [name for name in THINKING_ARGUMENTS if name in self.template.arguments]
        for name in names:
            if given.get(name):
                raise ConfigurationError(
                    f"thinking is none, but template argument {name} is {given[name]!r}; give one of them"
                )
        return {name: False for name in names if name not in given}

    # --- Prompts

    def prompt(self, row: PreferenceRow) -> str:
        """The conversation with the header of the answer to come."""
        return self._prompt(self._prepared(as_turns(row.prompt, "user")), self._row_arguments(row))

    def _prompt(self, turns: Sequence[Message], arguments: Mapping[str, Any]) -> str:
        text = self._checked_render(turns, add_generation_prompt=True, **arguments)
        if self._thinking == "none" and opens_thought(text):
            # The template has no way to ask for an answer without a thought, but it can write one.
            text, found, _ = self.template.render(
                (*turns, Message("assistant", SENTINEL)), **arguments
            ).rpartition(SENTINEL)
            if not found or opens_thought(text):
                raise DataError(
                    "thinking is none, but the chat template opens a thought and never closes it; give the tokenizer "
                    "another template"
                )
        return text

    def _row_arguments(self, row: PreferenceRow) -> dict[str, Any]:
        """What a row's conversation is rendered with, the row's own arguments before the command's."""
        own = dict(row.template_args or {})
        self._check_arguments(own, "`chat_template_kwargs` has", DataError)
        arguments = {**self._arguments, **own, **self._thinking_off(own)}
        if row.tools is not None:
            if not self.template.takes_tools:
                raise DataError(
                    "the row has `tools`, which the chat template never reads; give the tokenizer a template for tools "
                    "(where it has several, make that one the default), or remove the column"
                )
            arguments["tools"] = list(row.tools)
        return arguments

    def _prepared(self, turns: Sequence[Message]) -> tuple[Message, ...]:
        """Turns that are only read, as the template wants them; of each the first spelling that it reads."""
        return tuple(self._prepare(turn) for turn in turns)

    def _prepare(self, turn: Message) -> Message:
        if not turn.extra and turn.role != "assistant":
            return turn
        if self._thinking == "none" and turn.role == "assistant":
            turn = without_thought(turn)
        for field in turn.extra:
            if field in CONTENT_FIELDS and not self.template.reads(field):
                raise DataError(
                    f"the chat template never reads {field!r}, a field of a turn of role {turn.role!r}, which would be "
                    "lost; give the tokenizer a template that reads it, or remove the row"
                )
            if field not in THOUGHT_FIELDS and not self.template.reads(field):
                self.ignored.add(field)
        turn = parsed_arguments(turn)
        first, *others = spellings(turn, self.template)
        return others[0] if others and first is turn and not self._reads_tags(turn) else first

    def _reads_tags(self, turn: Message) -> bool:
        """Whether a thought in the text of a turn is written as one; a template may want it in a field instead."""
        if any(turn.extra.get(field) for field in THOUGHT_FIELDS):
            return True
        if self._tags_are_read is None:
            thought = Message("assistant", f"<think>\n{SENTINEL}\n</think>\n\nanswer")
            prompt = self.template.render((QUESTION,), add_generation_prompt=True, **self._arguments)
            try:
                self._finder.locate((QUESTION,), thought, self._arguments, prompt)
                self._tags_are_read = True
            except (DataError, UnusableAnswerError):
                self._tags_are_read = False
        return self._tags_are_read

    def _checked_render(self, turns: Sequence[Message], **arguments: Any) -> str:
        """Rendered, and every turn's text found in it.

        Raises:
            DataError: for a turn that the template leaves out.
        """
        text = self._finder.render(turns, **arguments)
        for number, turn in enumerate(turns):
            content = split_thought(turn).answer.strip() if turn.role == "assistant" else turn.content.strip()
            if content and (content not in text or turn.role not in self._verified_roles):
                self._verify_turn(turns, number, **arguments)
        return text

    def _verify_turn(self, turns: Sequence[Message], number: int, **arguments: Any) -> None:
        """Check that the template writes the turn's text, in any form: another text must change what it writes."""
        turn = turns[number]
        replaced = [*turns]
        replaced[number] = Message(turn.role, SENTINEL, turn.extra)
        if SENTINEL not in self._finder.render(replaced, **arguments):
            raise DataError(
                f"the chat template leaves out turn {number + 1}, of role {turn.role!r}; rename the role to one that "
                "the template knows, remove the turn, or give the tokenizer another template"
            )
        self._verified_roles.add(turn.role)

    # --- Answers

    def answer(self, row: PreferenceRow, prompt_text: str, answer: Answer) -> list[Rendering]:
        """What the template writes for the answer, without what follows the last terminator.

        Raises:
            DataError: when answers do not begin with the generation prompt, or end unlike others.
            UnusableAnswerError: when a part of the answer does not arrive.
        """
        turns = as_turns(answer, "assistant")
        if self._thinking == "none":
            turns = tuple(without_thought(turn) if turn.role == "assistant" else turn for turn in turns)
        history, arguments = self._prepared(as_turns(row.prompt, "user")), self._row_arguments(row)
        num_prompt = len(history)
        renderings: list[Rendering] = []
        for turn in turns:
            if turn.role != "assistant":
                history = (*history, self._prepare(turn))
                continue
            known = prompt_text if len(history) == num_prompt else None
            rendering = self._assistant_turn(history, turn, arguments, known)
            renderings.append(rendering)
            history = (*history, rendering.messages[-1])
        renderings = [dataclasses.replace(one, prompt_messages=num_prompt) for one in renderings]
        if len(turns) == 1:
            return renderings
        return self._joined(renderings, history) or renderings

    def _joined(self, renderings: list[Rendering], history: Sequence[Message]) -> list[Rendering] | None:
        """All turns in the text of the last, or None where it does not hold them as they were written."""
        last = renderings[-1]
        if any(one.arguments != last.arguments or not last.text.startswith(one.text) for one in renderings):
            return None
        turns = tuple(turn for one in renderings for turn in one.turns)
        if self.template.has_marks:
            turns = self._marked(last, turns)
        # What follows the last assistant turn (a tool's result, say) is not learnt, and is left out.
        return [dataclasses.replace(last, turns=turns, is_trimmed=any(one.is_trimmed for one in renderings))]

    def _marked(self, rendering: Rendering, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """The turns narrowed to what the template marks as generated, terminators included."""
        text, spans = self.template.render_marked(rendering.messages, **rendering.arguments)
        if not text.startswith(rendering.text):
            return tuple(turns)
        narrowed = []
        for turn in turns:
            inside = [span for span in spans if span[0] < turn.end and span[1] > turn.start]
            if not inside:
                continue  # marked as none of the assistant's
            end = min(max(end for _, end in inside), turn.end)
            if not text[end : turn.end].removesuffix(self._finder.kept_suffix).strip():
                end = turn.end
            narrowed.append(Turn(turn.start, max(turn.first, inside[0][0]), end))
        return tuple(narrowed)

    def _assistant_turn(
        self,
        history: Sequence[Message],
        turn: Message,
        arguments: Mapping[str, Any],
        prompt_text: str | None,
    ) -> Rendering:
        """One turn after all that precedes it."""
        self._prepare(turn)
        reason: UnusableAnswerError | None = None
        usable: Rendering | None = None
        for spelled, changed in self._attempts(turn, arguments):
            prompt = prompt_text if prompt_text is not None and not changed else None
            if prompt is None:
                prompt = self._prompt(history, {**arguments, **changed})
            try:
                rendering = self._finder.locate(history, spelled, {**arguments, **changed}, prompt)
            except UnusableAnswerError as error:
                reason = reason or error
                continue
            # With thinking turned on, a prompt may begin the thought that it closes otherwise.
            if rendering.text.startswith(prompt):
                return rendering
            usable = usable or rendering
        if usable is not None:
            return usable
        assert reason is not None, "there is one attempt at least"
        raise reason

    def _attempts(
        self, turn: Message, arguments: Mapping[str, Any]
    ) -> Iterator[tuple[Message, dict[str, Any]]]:
        """Ways to render a turn: the spellings of its thought, then with thinking turned on where it has one."""
        spelled = list(spellings(parsed_arguments(turn), self.template))
        yield from ((one, {}) for one in spelled)
        if split_thought(turn).thought is not None:
            for name in THINKING_ARGUMENTS:
                if name in self.template.arguments and name not in arguments:
                    yield from ((one, {name: True}) for one in spelled)
