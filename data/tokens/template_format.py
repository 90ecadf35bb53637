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
from data.tokens.chat import (
    CONTENT_FIELDS,
    LEFT_OUT,
    PlainFormat,
    Rendering,
    TextFormat,
    Turn,
    UnusableAnswerError,
    end_of_sequence,
)
from data.tokens.template import ChatTemplate, ChatTokenizer
from data.tokens.thoughts import (
    THINKING_ARGUMENTS,
    THOUGHT_FIELDS,
    closes_thought,
    count_openings,
    empty_thought,
    opens_thought,
    spellings,
    split_thought,
    thought_tail,
    without_thought,
)
from data.tokens.tool_calls import calls_arrive, parsed_arguments, text_arguments

_SENTINEL = "SentinelAnswer"

_QUESTION = Message("user", "question")

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

    The template is asked once what it writes after an answer. The first special or added token there is the
    terminator; what follows it (ChatML writes a newline) is never generated, so it is cut. A template
    without one has nothing that says the answer is over: the end-of-sequence token is then appended instead.

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
        self._tokenizer = tokenizer
        self._thinking = thinking
        self._given = dict(arguments or {})
        self._check_arguments(self._given, "template argument", ConfigurationError)
        self._arguments = {**self._given, **self._thinking_off(self._given)}
        self._verified_roles: set[str] = set(_KNOWN_ROLES)
        self._tags_are_read: bool | None = None
        self._suffix = self._find_suffix()
        self._ends = self._turn_ends()
        self._kept_suffix, terminator_id = self._find_terminator()
        self.prints_terminator = terminator_id is not None
        self.terminator_id = end_of_sequence(tokenizer) if terminator_id is None else terminator_id

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

    def _find_suffix(self) -> str:
        probe = (_QUESTION, Message("assistant", _SENTINEL))
        refusal: DataError | None = None
        # Templates for images may want a list of parts where others want text.
        for self.template.wants_parts in (False, True):
            try:
                _, found, suffix = self.template.render(probe, **self._arguments).rpartition(_SENTINEL)
            except DataError as error:
                refusal = refusal or error
                continue
            if found:
                return suffix
        raise refusal or DataError(
            "the chat template leaves out the text of an assistant turn; give the tokenizer one that writes it"
        )

    def _turn_ends(self) -> dict[int, str]:
        """Tokens that may end a turn, by id."""
        added = self._tokenizer.added_tokens_decoder
        # Many fine-tunes add their end of turn as an ordinary token; whitespace is added by some for its length.
        ids = {id for id, token in added.items() if token.special or token.content.strip()}
        ids |= set(self._tokenizer.all_special_ids)
        return {id: str(self._tokenizer.convert_ids_to_tokens(id)) for id in ids}

    def _find_terminator(self) -> tuple[str, int | None]:
        for token_id in self._tokenizer.encode(self._suffix, add_special_tokens=False, verbose=False):
            if token_id in self._ends:
                before, found, _ = self._suffix.partition(self._ends[token_id])
                return before + found, token_id
        return "", None

    def ends_turn(self, token_id: int) -> bool:
        """Whether a turn may end with a token."""
        return token_id == self.terminator_id or token_id in self._ends

    # --- Prompts

    def prompt(self, row: PreferenceRow) -> str:
        """The conversation with the header of the answer to come."""
        return self._prompt(self._prepared(as_turns(row.prompt, "user")), self._row_arguments(row))

    def _prompt(self, turns: Sequence[Message], arguments: Mapping[str, Any]) -> str:
        text = self._checked_render(turns, add_generation_prompt=True, **arguments)
        if self._thinking == "none" and opens_thought(text):
            # The template has no way to ask for an answer without a thought, but it can write one.
            text, found, _ = self.template.render(
                (*turns, Message("assistant", _SENTINEL)), **arguments
            ).rpartition(_SENTINEL)
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
            thought = Message("assistant", f"<think>\n{_SENTINEL}\n</think>\n\nanswer")
            prompt = self.template.render((_QUESTION,), add_generation_prompt=True, **self._arguments)
            try:
                self._located((_QUESTION,), thought, self._arguments, prompt)
                self._tags_are_read = True
            except (DataError, UnusableAnswerError):
                self._tags_are_read = False
        return self._tags_are_read

    def _checked_render(self, turns: Sequence[Message], **arguments: Any) -> str:
        """Rendered, and every turn's text found in it.

        Raises:
            DataError: for a turn that the template leaves out.
        """
        text = self._render(turns, **arguments)
        for number, turn in enumerate(turns):
            content = split_thought(turn).answer.strip() if turn.role == "assistant" else turn.content.strip()
            if content and (content not in text or turn.role not in self._verified_roles):
                self._verify_turn(turns, number, **arguments)
        return text

    def _verify_turn(self, turns: Sequence[Message], number: int, **arguments: Any) -> None:
        """Check that the template writes the turn's text, in any form: another text must change what it writes."""
        turn = turns[number]
        replaced = [*turns]
        replaced[number] = Message(turn.role, _SENTINEL, turn.extra)
        if _SENTINEL not in self._render(replaced, **arguments):
            raise DataError(
                f"the chat template leaves out turn {number + 1}, of role {turn.role!r}; rename the role to one that "
                "the template knows, remove the turn, or give the tokenizer another template"
            )
        self._verified_roles.add(turn.role)

    def _render(self, turns: Sequence[Message], **arguments: Any) -> str:
        try:
            return self.template.render(turns, **arguments)
        except DataError:
            # Some want the arguments of a tool call as JSON text, which most would quote again.
            as_text = [text_arguments(turn) for turn in turns]
            if as_text == list(turns):
                raise
            return self.template.render(as_text, **arguments)

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
            if not text[end : turn.end].removesuffix(self._kept_suffix).strip():
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
                rendering = self._located(history, spelled, {**arguments, **changed}, prompt)
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

    def _located(
        self, history: Sequence[Message], turn: Message, arguments: Mapping[str, Any], prompt: str
    ) -> Rendering:
        """Find a turn in what the template writes for the conversation that ends with it."""
        text = self._render((*history, turn), **arguments)
        start = self._start(text, prompt)
        if start is None:
            # Some write earlier turns differently once they are answered (Mistral's drop the system turn). The
            # model answers the prompt as it is, so only the answer's own text is wanted, after any question.
            asked = self.template.render((_QUESTION,), add_generation_prompt=True, **arguments)
            answered = self._render((_QUESTION, turn), **arguments)
            begin = self._start(answered, asked)
            if begin is None or not prompt.endswith(asked[begin:]):
                raise DataError(
                    f"the chat template's generation prompt is not how it begins an answer: prompts end with "
                    f"{prompt[-40:]!r}, and an answered conversation does not go on like that; give the "
                    "tokenizer a template (its chat_template.jinja) whose generation prompt is how an answer begins"
                )
            start = len(prompt) - (len(asked) - begin)
            text = prompt[:start] + answered[begin:]
        end = self._end(text, start, turn)
        first, is_trimmed = self._find_said(text[:start], text[start:end], turn)
        kept = self._thinking == "keep"
        return Rendering(
            text[:end],
            (Turn(start, start if kept else start + first, end),),
            (*history, turn),
            arguments=arguments,
            is_trimmed=is_trimmed,
        )

    def _start(self, text: str, prompt: str) -> int | None:
        """Where an answer begins: after the generation prompt, or before the thought that this begins with."""
        if text.startswith(prompt):
            return len(prompt)
        header = prompt.removesuffix(thought_tail(prompt))
        return len(header) if header != prompt and text.startswith(header) else None

    def _end(self, text: str, start: int, turn: Message) -> int:
        """Where a turn ends, after its terminator."""
        if text.endswith(self._suffix) and len(text) >= start + len(self._suffix):
            return len(text) - len(self._suffix) + len(self._kept_suffix)
        if turn.extra.get("tool_calls"):
            # A call may end with a different token than an answer (Llama's <|eom_id|>, gpt-oss's <|call|>).
            ends = [
                text.rfind(mark, start) + len(mark) for mark in self._ends.values() if mark in text[start:]
            ]
            if ends and not text[max(ends) :].strip():
                return max(ends)
        raise DataError(
            f"the chat template ends this answer with {text[-40:]!r}, others with {self._suffix!r}; give "
            "the tokenizer a template that ends every answer alike"
        )

    def _find_said(self, before: str, written: str, turn: Message) -> tuple[int, bool]:
        """Find thought and answer in what the template wrote for a turn.

        Returns:
            Characters before what is the turn's own (an empty thought), and whether whitespace was left out.
        Raises:
            UnusableAnswerError: when they are not there in whole, or a thought is there twice.
        """
        said = split_thought(turn)
        thought, answer = (said.thought or "").strip(), said.answer.strip()
        begin = written.find(thought) if thought else 0
        after_thought = begin + len(thought) if thought else empty_thought(written)
        if turn.extra.get("tool_calls"):
            place = written.find(answer, after_thought)
        else:
            # The answer is the last thing before the terminator.
            body = written.removesuffix(self._kept_suffix).rstrip()
            place = len(body) - len(answer) if body.endswith(answer) else -1
        if begin < 0 or place < after_thought or not calls_arrive(written, turn):
            raise UnusableAnswerError(LEFT_OUT)
        markup = written[:begin] + written[begin + len(thought) : place]
        opened = opens_thought(before)
        if count_openings(markup) + opened > 1:
            raise UnusableAnswerError("answer that the chat template writes two thoughts for")
        if opened and not closes_thought(markup):
            raise UnusableAnswerError(
                "answer without a thought, which the chat template opens and does not close"
            )
        whole = said.answer.lstrip() if thought else said.answer
        is_trimmed = whole not in written
        if thought or not closes_thought(markup):
            return 0, is_trimmed
        # Whitespace at the answer's beginning belongs to the answer.
        blank = said.answer[: len(said.answer) - len(said.answer.lstrip())]
        return place - (len(blank) if markup.endswith(blank) else 0), is_trimmed
