"""Text of a pair to token ids, once, with the prompt and the answers told apart."""

import dataclasses
import hashlib

import numpy as np

from data.errors import DataError
from data.preferences.messages import Answer, PreferenceRow
from data.preferences.reader import RowCounts
from data.tokens.chat import ChatTokenizer, TemplateFormat, choose_format, template_text
from data.tokens.vocabulary import tokenizer_hash

__all__ = ["EncodedPair", "PairEncoder"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class EncodedPair:
    """Token ids of one row, int32, shape (length,); answers end with the terminator.

    Attributes:
        pair_id: the row's.
        prompt_ids: never empty.
        chosen_ids: None where the row has no chosen answer.
        rejected_ids: None where the row has no rejected answer.
    """

    pair_id: str
    prompt_ids: np.ndarray
    chosen_ids: np.ndarray | None
    rejected_ids: np.ndarray | None


class PairEncoder:
    """Turns rows into token ids; drops and counts what cannot be used.

    Dropped are rows whose prompt and longest answer exceed `max_length`, rows with an answer that holds the
    terminator (two ends would be taught), and rows with an answer that has no tokens.

    Attributes:
        counts: rows seen (`read`), kept, and dropped by reason.
        num_truncated: kept rows whose prompt was cut.
        terminator_id: the end-of-turn token that every answer ends with.
        template_hash: sha256 (hex) of the chat template; None without one.
        tokenizer_hash: sha256 (hex) of the vocabulary and of how text is cut into it.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        max_length: int | None = None,
        limited_by: str | None = None,
        truncate: bool = False,
    ) -> None:
        """Ask the tokenizer how it writes conversations.

        Args:
            tokenizer: one of `transformers`, or anything that looks like `ChatTokenizer`.
            max_length: most tokens of a prompt with its longest answer; None for no limit.
            limited_by: who has no room for more than `max_length`, for messages; None where only an option says so.
            truncate: cut prompts from the left, behind a BOS, instead of dropping their rows.
        Raises:
            DataError: for a template that fails, or where nothing could end an answer.
        """
        self.counts = RowCounts()
        self.num_truncated = 0
        template = template_text(tokenizer.chat_template)
        self.template_hash = None if template is None else hashlib.sha256(template.encode()).hexdigest()
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._limited_by = limited_by
        self._truncate = truncate
        self._shortest_dropped: int | None = None
        self._format = choose_format(tokenizer)
        self.terminator_id = self._format.terminator_id
        # A template writes its own BOS or wants none; plain text gets what the tokenizer puts in front of it.
        self._leading_ids = [] if isinstance(self._format, TemplateFormat) else _leading_ids(tokenizer)

    def encode(self, row: PreferenceRow) -> EncodedPair | None:
        """Token ids of a row, or None when it is dropped (and counted).

        Raises:
            DataError: naming the row, for a conversation that the chat template refuses.
        """
        self.counts.read += 1
        try:
            prompt_text = self._format.prompt(row)
            prompt_ids = self._ids(prompt_text)
            if not prompt_ids:
                raise DataError("the prompt has no tokens in this tokenizer's vocabulary")
            chosen, rejected = (
                None if answer is None else self._answer_ids(row, answer, prompt_text, prompt_ids)
                for answer in (row.chosen, row.rejected)
            )
        except DataError as error:
            raise DataError(f"{row.location}: {error}") from error
        answers = [ids for ids in (chosen, rejected) if ids is not None]
        if any(self.terminator_id in ids[:-1] for ids in answers):
            return self._drop(f"answer holds {self._terminator!r}")
        if any(len(ids) == 1 for ids in answers):
            return self._drop("answer has no tokens")
        longest = max(map(len, answers), default=0)
        prompt_ids = self._fit(prompt_ids, longest)
        if prompt_ids is None:
            limit = "" if self._limited_by is None else f" ({self._limited_by} has no room for more)"
            return self._drop(f"longer than {self._max_length:,} tokens{limit}")
        self.counts.kept += 1
        return EncodedPair(row.pair_id, np.array(prompt_ids, np.int32), _int32(chosen), _int32(rejected))

    def _fit(self, prompt_ids: list[int], answer_length: int) -> list[int] | None:
        """The prompt, cut where that is asked for and makes it fit; None where it cannot fit."""
        length = len(prompt_ids) + answer_length
        if self._max_length is None or length <= self._max_length:
            return prompt_ids
        bos = prompt_ids[:1] if prompt_ids[0] == self._tokenizer.bos_token_id else []
        room = self._max_length - answer_length - len(bos)
        if not self._truncate or room < 1:
            self._shortest_dropped = min(length, self._shortest_dropped or length)
            return None
        self.num_truncated += 1
        return bos + prompt_ids[-room:]

    def _answer_ids(
        self, row: PreferenceRow, answer: Answer, prompt_text: str, prompt_ids: list[int]
    ) -> list[int]:
        text = self._format.answer(row, prompt_text, answer)
        joint = self._ids(prompt_text + text)
        # Where a token would span the boundary, the answer stands alone: at generation the prompt is fixed.
        spanned = joint[: len(prompt_ids)] != prompt_ids
        ids = self._ids_after_text(text) if spanned else joint[len(prompt_ids) :]
        if not self._format.prints_terminator:
            ids = [*ids, self.terminator_id]
        elif not ids or ids[-1] != self.terminator_id:
            raise DataError(
                f"an answer's text ends with {text[-20:]!r}, yet its last token is not {self._terminator!r}; "
                "make that token a special one of the tokenizer"
            )
        return ids

    def _ids_after_text(self, text: str) -> list[int]:
        """Ids of a text as they are in the middle of others: no space that is put before a first word."""
        for anchor in ("\n", "a"):
            before, whole = self._plain_ids(anchor), self._plain_ids(anchor + text)
            if whole[: len(before)] == before:
                return whole[len(before) :]
        return self._plain_ids(text)

    def _ids(self, text: str) -> list[int]:
        ids = self._plain_ids(text)
        # Text that brings its own BOS gets no second one.
        return ids if ids[:1] == self._leading_ids[:1] else self._leading_ids + ids

    def _plain_ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def _drop(self, reason: str) -> None:
        self.counts.dropped[reason] += 1

    @property
    def _terminator(self) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(self.terminator_id))

    def describe(self) -> str:
        """One line for the output: template, terminator, rows kept, cut and dropped."""
        template = "no chat template, turns are joined as they stand"
        if self.template_hash is not None:
            template = f"chat template {self.template_hash[:12]}"
        source = "" if self._format.prints_terminator else ", appended"
        cut = f", {self.num_truncated:,} prompts cut from the left" if self.num_truncated else ""
        return f"{template}; answers end with {self._terminator!r}{source}; {self.counts}{cut}"

    def require_rows(self) -> None:
        """Check that something is left to work with.

        Raises:
            DataError: when rows came and all were dropped; it says why and what would help.
        """
        if self.counts.kept or not self.counts.read:
            return
        advice = ""
        if self._shortest_dropped is not None:
            ways = [] if self._limited_by is not None else ["raise --max-length"]
            ways += [] if self._truncate else ["--truncate prompts"]
            advice = f"; the shortest of the long ones has {self._shortest_dropped:,}"
            advice += f": {', or '.join(ways)}" if ways else ""
        raise DataError(f"no row is left: {self.counts}{advice}")


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


def _int32(ids: list[int] | None) -> np.ndarray | None:
    return None if ids is None else np.array(ids, np.int32)
