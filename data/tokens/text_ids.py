"""Token ids of rendered texts: prompts, answers with their terminators, and which positions count."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import DataError
from data.signals.schema import ResponseIds
from data.tokens.chat import Rendering, TextFormat, UnusableAnswerError
from data.tokens.template import ChatTokenizer
from data.tokens.template_format import TemplateFormat

_REMEMBERED_TEXTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class EncodedResponse:
    """Token ids of one answer, or of one of its turns where no single text has them all.

    Attributes:
        prompt_ids: what precedes it, int32, shape (P,); never empty.
        ids: from the first position at which the answers of a pair may differ, int32, shape (T,).
        mask: which of them are scored and trained, bool, shape (T,), at least one of them; None for all.
        conversation: JSON of the messages, tools and template arguments that it was rendered from; None where the
            data were plain text.
    """

    prompt_ids: np.ndarray
    ids: np.ndarray
    mask: np.ndarray | None = None
    conversation: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPair:
    """Token ids of one row.

    Attributes:
        pair_id: the row's.
        prompt_ids: what a model is asked to go on with, int32, shape (P,); never empty. Answers may follow a longer
            one: where a template writes an empty thought in front of both, the prompt of the answers has it.
        chosen: the preferred answer; empty where the row has none.
        rejected: the other one.
    """

    pair_id: str
    prompt_ids: np.ndarray
    chosen: tuple[EncodedResponse, ...] = ()
    rejected: tuple[EncodedResponse, ...] = ()

    @property
    def chosen_ids(self) -> np.ndarray | None:
        """Ids of the chosen answer, of its last turn where they are separate; None without one."""
        return self.chosen[-1].ids if self.chosen else None

    def rows(self) -> list[ResponseIds]:
        """The responses as rows of a dataset: chosen, then rejected, each in the order of its turns."""
        return [
            ResponseIds(
                self.pair_id,
                role,
                number,
                response.prompt_ids,
                response.ids,
                response_mask=response.mask,
                conversation=response.conversation,
            )
            for role, responses in (("chosen", self.chosen), ("rejected", self.rejected))
            for number, response in enumerate(responses)
        ]


class TextIds:
    """Encodes the texts that a format writes.

    Attributes:
        terminator_id: the end-of-turn token that every answer ends with.
        terminator: its text.
    """

    def __init__(self, tokenizer: ChatTokenizer, text_format: TextFormat, train_on: str) -> None:
        self.terminator_id = text_format.terminator_id
        self.terminator = str(tokenizer.convert_ids_to_tokens(self.terminator_id))
        self._tokenizer = tokenizer
        self._format = text_format
        self._train_on = train_on
        self._last_texts: dict[str, tuple[int, ...]] = {}
        # A template writes its own BOS or wants none; plain text gets what the tokenizer puts in front of it.
        self._leading_ids = [] if isinstance(text_format, TemplateFormat) else _leading_ids(tokenizer)

    def encode_rendering(self, rendering: Rendering, cut: int) -> tuple[list[int], list[int], np.ndarray]:
        """Ids before `cut` and after it, and which of the latter count.

        Ids never span the beginning or the end of what a model writes: at generation, what is there is fixed. Where
        the whole text's ids would, the rest is cut into tokens on its own.
        """
        text = rendering.text
        last = rendering.turns[-1]
        borders = {cut, len(text)}
        for turn in rendering.turns:
            borders |= {place for place in (turn.first, turn.end) if cut < place < len(text)}
        ids: list[int] = self.ids(text[:cut])
        num_prompt, masks = len(ids), []
        begin = cut
        for end in sorted(borders - {cut}):
            joint = self.ids(text[:end])
            spanned = joint[: len(ids)] != ids
            new = self._ids_after_text(text[begin:end]) if spanned else joint[len(ids) :]
            turn = next((turn for turn in rendering.turns if turn.first <= begin < turn.end), None)
            if turn is not None and end == turn.end:
                new = self._ended(new, text[begin:end], is_last=turn is last)
            masks.append(np.full(len(new), self._counts(rendering, turn, begin)))
            ids += new
            begin = end
        if begin == cut:  # an answer without any text
            raise UnusableAnswerError("answer has no tokens")
        return ids[:num_prompt], ids[num_prompt:], np.concatenate(masks)

    def _counts(self, rendering: Rendering, turn: Any, begin: int) -> bool:
        """Whether a stretch of text is scored and trained."""
        if turn is not None:
            return self._train_on != "last" or turn is rendering.turns[-1]
        # What a template writes in place of a missing thought is between a turn's start and its first character.
        is_head = any(one.start <= begin < one.first for one in rendering.turns)
        return self._train_on == "all" and not is_head and begin >= rendering.turns[0].start

    def _ended(self, ids: list[int], text: str, *, is_last: bool) -> list[int]:
        """A turn's ids with its terminator, the only one that it has."""
        if not self._format.prints_terminator:
            if self.terminator_id in ids:
                raise UnusableAnswerError(f"answer holds {self.terminator!r}")
            if not ids:
                raise UnusableAnswerError("answer has no tokens")
            return [*ids, self.terminator_id] if is_last else ids
        assert isinstance(self._format, TemplateFormat), "plain text prints no terminator"
        if not ids or not self._format.ends_turn(ids[-1]):
            raise DataError(
                f"an answer's text ends with {text[-20:]!r}, yet its last token is not {self.terminator!r}; "
                "make that token a special one of the tokenizer"
            )
        if self.terminator_id in ids[:-1]:
            raise UnusableAnswerError(f"answer holds {self.terminator!r}")
        if len(ids) == 1:
            raise UnusableAnswerError("answer has no tokens")
        return ids

    def _ids_after_text(self, text: str) -> list[int]:
        """Ids of a text as they are in the middle of others: no space that is put before a first word."""
        for anchor in ("\n", "a"):
            before, whole = self._plain_ids(anchor), self._plain_ids(anchor + text)
            if whole[: len(before)] == before:
                return whole[len(before) :]
        return self._plain_ids(text)

    def ids(self, text: str) -> list[int]:
        """Ids of a text from its beginning, with what the tokenizer puts in front of plain text."""
        ids = self._plain_ids(text)
        # Text that brings its own BOS gets no second one.
        return ids if ids[:1] == self._leading_ids[:1] else self._leading_ids + ids

    def _plain_ids(self, text: str) -> list[int]:
        # A prompt is asked for once by itself and once with each of its answers.
        if text not in self._last_texts:
            if len(self._last_texts) >= _REMEMBERED_TEXTS:
                del self._last_texts[next(iter(self._last_texts))]
            self._last_texts[text] = tuple(
                self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
            )
        return list(self._last_texts[text])


def _leading_ids(tokenizer: ChatTokenizer) -> list[int]:
    """What the tokenizer puts in front of plain text: BOS, or nothing. What it appends is left out."""
    special = set(tokenizer.all_special_ids)
    text = min((id, token) for token, id in tokenizer.get_vocab().items() if id not in special)[1]
    with_special = tokenizer.encode(text, add_special_tokens=True, verbose=False)
    without = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without:
            return with_special[:start]
    raise DataError("the tokenizer changes a text's own tokens when it adds special ones; it cannot be used")
