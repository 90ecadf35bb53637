"""Finds answers in what a chat template writes: where each begins, its thought, its text, its terminator.

The template is asked once what it writes after an answer. The first special or added token there is the terminator;
what follows it (ChatML writes a newline) is never generated, so it is cut. A template without one has nothing that says
the answer is over: the end-of-sequence token is then appended instead.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from data.errors import DataError
from data.preferences.messages import Message
from data.tokens.chat import LEFT_OUT, Rendering, Turn, UnusableAnswerError, end_of_sequence
from data.tokens.template import ChatTemplate, ChatTokenizer
from data.tokens.thoughts import (
    closes_thought,
    count_openings,
    empty_thought,
    opens_thought,
    split_thought,
    thought_tail,
)
from data.tokens.tool_calls import calls_arrive, text_arguments

#: Takes the place of a turn's text where a template is asked what it writes around it.
SENTINEL = "SentinelAnswer"

#: What a template is asked in such probes.
QUESTION = Message("user", "question")


class AnswerFinder:
    """Renders conversations and finds the last turn's answer in the text.

    Attributes:
        kept_suffix: what the template writes after an answer, up to the terminator's end.
        prints_terminator: whether the template writes the terminator.
        terminator_id: the token that ends an answer.
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: ChatTokenizer,
        arguments: Mapping[str, Any],
        *,
        keeps_empty_thoughts: bool,
    ) -> None:
        """Ask the template what it writes after an answer.

        Args:
            template: the tokenizer's.
            tokenizer: for the tokens that may end a turn.
            arguments: what the template is rendered with.
            keeps_empty_thoughts: whether what the template writes in place of a missing thought is the answer's.
        Raises:
            DataError: for a template that leaves out answers, or where nothing could end one.
        """
        self._template = template
        self._tokenizer = tokenizer
        self._keeps_empty_thoughts = keeps_empty_thoughts
        self._suffix = self._find_suffix(arguments)
        self._ends = self._turn_ends()
        self.kept_suffix, terminator_id = self._find_terminator()
        self.prints_terminator = terminator_id is not None
        self.terminator_id = end_of_sequence(tokenizer) if terminator_id is None else terminator_id

    def ends_turn(self, token_id: int) -> bool:
        """Whether a turn may end with a token."""
        return token_id == self.terminator_id or token_id in self._ends

    def render(self, turns: Sequence[Message], **arguments: Any) -> str:
        """A conversation as text; tool calls in the form that the template accepts.

        Raises:
            DataError: for a template that fails.
        """
        try:
            return self._template.render(turns, **arguments)
        except DataError:
            # Some want the arguments of a tool call as JSON text, which most would quote again.
            as_text = [text_arguments(turn) for turn in turns]
            if as_text == list(turns):
                raise
            return self._template.render(as_text, **arguments)

    def locate(
        self, history: Sequence[Message], turn: Message, arguments: Mapping[str, Any], prompt: str
    ) -> Rendering:
        """Find a turn in what the template writes for the conversation that ends with it.

        Args:
            history: the turns before it.
            turn: the assistant's.
            arguments: for the template.
            prompt: the text that the model answers.
        Raises:
            DataError: when answers do not begin with the generation prompt, or end unlike others.
            UnusableAnswerError: when a part of the answer is missing.
        """
        text = self.render((*history, turn), **arguments)
        start = self._start(text, prompt)
        if start is None:
            # Some write earlier turns differently once they are answered (Mistral's drop the system turn). The
            # model answers the prompt as it is, so only the answer's own text is wanted, after any question.
            asked = self._template.render((QUESTION,), add_generation_prompt=True, **arguments)
            answered = self.render((QUESTION, turn), **arguments)
            begin = self._start(answered, asked)
            if begin is None or not prompt.endswith(asked[begin:]):
                raise DataError(
                    f"the chat template's generation prompt is not how it begins an answer; prompts end with "
                    f"{prompt[-40:]!r}, and an answered conversation does not go on like that; give the "
                    "tokenizer a template (its chat_template.jinja) whose generation prompt is how an answer begins"
                )
            start = len(prompt) - (len(asked) - begin)
            text = prompt[:start] + answered[begin:]
        end = self._end(text, start, turn)
        first, is_trimmed = self._find_said(text[:start], text[start:end], turn)
        return Rendering(
            text[:end],
            (Turn(start, start if self._keeps_empty_thoughts else start + first, end),),
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
            return len(text) - len(self._suffix) + len(self.kept_suffix)
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
            body = written.removesuffix(self.kept_suffix).rstrip()
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

    def _find_suffix(self, arguments: Mapping[str, Any]) -> str:
        probe = (QUESTION, Message("assistant", SENTINEL))
        refusal: DataError | None = None
        # Templates for images may want a list of parts where others want text.
        for self._template.wants_parts in (False, True):
            try:
                _, found, suffix = self._template.render(probe, **arguments).rpartition(SENTINEL)
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
