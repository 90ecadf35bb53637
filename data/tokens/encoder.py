"""Text of a pair to token ids, once, with the prompt and the answers told apart."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.preferences.messages import Answer, PreferenceRow, as_turns
from data.preferences.reader import RowCounts
from data.signals.schema import ResponseSignals
from data.tokens.chat import LEFT_OUT, Rendering, UnusableAnswerError
from data.tokens.surprises import unheeded_terminator
from data.tokens.template import ChatTokenizer, template_text
from data.tokens.template_format import TemplateFormat, choose_format
from data.tokens.templated_text import TemplatedText
from data.tokens.vocabulary import tokenizer_hash

__all__ = ["TRAIN_ON", "EncodedPair", "EncodedResponse", "PairEncoder"]


TRAIN_ON = ("turns", "last", "all")

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

    @property
    def rejected_ids(self) -> np.ndarray | None:
        """The same of the rejected answer."""
        return self.rejected[-1].ids if self.rejected else None

    def rows(self) -> list[ResponseSignals]:
        """The responses as rows with ids only: chosen, then rejected, each in the order of its turns."""
        return [
            ResponseSignals(
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


class PairEncoder:
    """Turns rows into token ids; drops and counts what cannot be used.

    Dropped are rows whose prompt and longest answer exceed `max_length`, rows with an answer that holds the
    terminator (two ends would be taught), that has no tokens, or of which the template leaves out a part, and pairs
    whose answers are the same ids.

    Attributes:
        counts: rows seen (`read`), kept, and dropped by reason.
        last_dropped: why the last row that was dropped was; None before any.
        num_truncated: kept rows whose prompt was cut.
        num_trimmed: kept rows with an answer that the template trims.
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
        template_args: Mapping[str, Any] | None = None,
        thinking: str = "auto",
        train_on: str = "turns",
        store_conversations: bool = False,
        bad_rows: str = "refuse",
    ) -> None:
        """Ask the tokenizer how it writes conversations.

        Args:
            tokenizer: one of `transformers`, or anything that looks like `ChatTokenizer`.
            max_length: most tokens of a prompt with its longest answer; None for no limit.
            limited_by: who has no room for more than `max_length`, for messages; None where only an option says so.
            truncate: cut prompts from the left, after a BOS, instead of dropping their rows.
            template_args: arguments for the chat template; a row's own take precedence.
            thinking: what becomes of thoughts: `auto`, `keep` or `none`, see `TemplateFormat`.
            train_on: what of an answer of several turns is scored: the assistant's `turns`, the `last` of them, or
                `all` (what tools and users say, too).
            store_conversations: keep the conversation of every response, also where the data are plain text.
            bad_rows: whether a row that the template refuses is an error (`refuse`) or counted by reason (`drop`).
        Raises:
            DataError: for a template that fails or does not know an argument, or where nothing could end an answer.
        """
        self.counts = RowCounts()
        self.last_dropped: str | None = None
        self.num_truncated = self.num_trimmed = 0
        template = template_text(tokenizer.chat_template)
        self.template_hash = None if template is None else hashlib.sha256(template.encode()).hexdigest()
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._limited_by = limited_by
        self._truncate = truncate
        self._train_on = train_on
        self._store_conversations = store_conversations
        self._bad_rows = bad_rows
        self._shortest_dropped: int | None = None
        self._last_texts: dict[str, tuple[int, ...]] = {}
        self._templated_text = TemplatedText(tokenizer)
        self._format = choose_format(tokenizer, arguments=template_args, thinking=thinking)
        self.terminator_id = self._format.terminator_id
        # A template writes its own BOS or wants none; plain text gets what the tokenizer puts in front of it.
        self._leading_ids = [] if isinstance(self._format, TemplateFormat) else _leading_ids(tokenizer)

    def encode(self, row: PreferenceRow) -> EncodedPair | None:
        """Token ids of a row, or None when it is dropped (and counted).

        Raises:
            DataError: naming the row, for a conversation that the chat template refuses, unless these are dropped.
        """
        self.counts.read += 1
        row = self._split_conversation(row)
        try:
            if self.template_hash is not None and (mark := self._templated_text.find(row)):
                return self._drop(f"prompt holds {mark!r}")
            prompt_text = self._format.prompt(row)
            prompt_ids = self._ids(prompt_text)
            self._check_prompt(prompt_ids)
            answers = [
                [] if answer is None else self._format.answer(row, prompt_text, answer)
                for answer in (row.chosen, row.rejected)
            ]
            chosen, rejected = self._responses(row, answers)
        except UnusableAnswerError as reason:
            return self._drop(str(reason))
        except DataError as error:
            if self._bad_rows == "drop":
                return self._drop(str(error).partition("; ")[0])
            raise DataError(f"{row.location}: {error}") from error
        if _same_ids(chosen, rejected):
            return self._drop("answers equal once rendered")
        return self._fitted(EncodedPair(row.pair_id, _int32(prompt_ids), chosen, rejected), answers)

    def _split_conversation(self, row: PreferenceRow) -> PreferenceRow:
        """A conversation that is learnt as a whole is split before its first assistant turn."""
        if not row.is_conversation or row.chosen is None or self._train_on == "last":
            return row
        turns = (*as_turns(row.prompt, "user"), *as_turns(row.chosen, "assistant"))
        first = next(place for place, turn in enumerate(turns) if turn.role == "assistant")
        if first == len(turns) - 1 or first == 0:
            return row
        return row._replace(prompt=turns[:first], chosen=turns[first:])

    def _check_prompt(self, ids: Sequence[int]) -> None:
        bos = self._tokenizer.bos_token_id
        if not ids:
            raise DataError("the prompt has no tokens in this tokenizer's vocabulary")
        if bos is not None and list(ids[:2]) == [bos, bos]:
            raise DataError(
                f"the prompt begins with {self._tokenizer.convert_ids_to_tokens(bos)!r} twice; remove it from the "
                "text, which has been through a chat template already, or from the template"
            )

    # --- From text to ids

    def _responses(
        self, row: PreferenceRow, answers: Sequence[Sequence[Rendering]]
    ) -> tuple[tuple[EncodedResponse, ...], ...]:
        """The ids of both answers; those that are one text each follow the same prompt."""
        single = [renderings[0] for renderings in answers if len(renderings) == 1]
        if len(single) < sum(bool(renderings) for renderings in answers):
            if self._train_on == "all":
                raise DataError(
                    "the chat template writes earlier turns of the answer differently once others follow, so that "
                    "no single text holds them all; train on `turns` or `last`, or give the tokenizer another template"
                )
            # Each turn has a separate prompt.
            single = []
        shared = _shared_prompt(single)
        stores = self._store_conversations or any(
            _is_beyond_text(row, side) for side in (row.chosen, row.rejected)
        )
        encoded = []
        for renderings in answers:
            responses = []
            for rendering in renderings[-1:] if self._train_on == "last" else renderings:
                cut = rendering.turns[0].first if shared is None else shared
                prompt_ids, ids, mask = self._encode_text(rendering, cut)
                if not mask.any():
                    raise UnusableAnswerError("answer with nothing to train on")
                conversation = _conversation(row, rendering) if stores or not mask.all() else None
                responses.append(
                    EncodedResponse(
                        _int32(prompt_ids), _int32(ids), None if mask.all() else mask, conversation
                    )
                )
            encoded.append(tuple(responses))
        return tuple(encoded)

    def _encode_text(self, rendering: Rendering, cut: int) -> tuple[list[int], list[int], np.ndarray]:
        """Ids before `cut` and after it, and which of the latter count.

        Ids never span the beginning or the end of what a model writes: at generation, what is there is fixed. Where
        the whole text's ids would, the rest is cut into tokens on its own.
        """
        text = rendering.text
        last = rendering.turns[-1]
        borders = {cut, len(text)}
        for turn in rendering.turns:
            borders |= {place for place in (turn.first, turn.end) if cut < place < len(text)}
        ids: list[int] = self._ids(text[:cut])
        num_prompt, masks = len(ids), []
        begin = cut
        for end in sorted(borders - {cut}):
            joint = self._ids(text[:end])
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
                raise UnusableAnswerError(f"answer holds {self._terminator!r}")
            if not ids:
                raise UnusableAnswerError("answer has no tokens")
            return [*ids, self.terminator_id] if is_last else ids
        assert isinstance(self._format, TemplateFormat), "plain text prints no terminator"
        if not ids or not self._format.ends_turn(ids[-1]):
            raise DataError(
                f"an answer's text ends with {text[-20:]!r}, yet its last token is not {self._terminator!r}; "
                "make that token a special one of the tokenizer"
            )
        if self.terminator_id in ids[:-1]:
            raise UnusableAnswerError(f"answer holds {self._terminator!r}")
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

    def _ids(self, text: str) -> list[int]:
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

    # --- Lengths and counts

    def _fitted(self, pair: EncodedPair, answers: Sequence[Sequence[Rendering]]) -> EncodedPair | None:
        """The pair, prompts cut where that is asked for; None, and counted, where it cannot fit."""
        responses = (*pair.chosen, *pair.rejected)
        lengths = [len(response.prompt_ids) + len(response.ids) for response in responses]
        longest = max([len(pair.prompt_ids), *lengths])
        if self._max_length is not None and longest > self._max_length:
            # All answers are cut by as much as the longest asks for.
            reserved = max((len(response.ids) for response in responses), default=0)
            cut = {
                len(ids): self._cut(ids, reserved)
                for ids in (pair.prompt_ids, *(response.prompt_ids for response in responses))
            }
            if not self._truncate or any(ids is None for ids in cut.values()):
                self._shortest_dropped = min(longest, self._shortest_dropped or longest)
                limit = "" if self._limited_by is None else f" ({self._limited_by} has no room for more)"
                return self._drop(f"longer than {self._max_length:,} tokens{limit}")
            self.num_truncated += 1
            pair = _with_prompts(pair, cut)
        self.counts.kept += 1
        self.num_trimmed += any(one.is_trimmed for renderings in answers for one in renderings)
        return pair

    def _cut(self, prompt_ids: np.ndarray, reserved: int) -> np.ndarray | None:
        """A prompt that leaves room for an answer; None where nothing of it would be left."""
        assert self._max_length is not None, "without a limit nothing is cut"
        if len(prompt_ids) + reserved <= self._max_length:
            return prompt_ids
        bos = prompt_ids[:1] if prompt_ids[0] == self._tokenizer.bos_token_id else prompt_ids[:0]
        room = self._max_length - reserved - len(bos)
        return np.concatenate([bos, prompt_ids[-room:]]) if room >= 1 else None

    def _drop(self, reason: str) -> None:
        self.counts.dropped[reason] += 1
        self.last_dropped = reason

    @property
    def _terminator(self) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(self.terminator_id))

    def unheeded_terminator(self, folder: Path) -> str | None:
        """A line on a model whose generation does not stop where answers end; see `data.tokens.surprises`."""
        return unheeded_terminator(folder, self.terminator_id, self._terminator)

    def describe(self) -> str:
        """One line for the output: template, terminator, rows kept, cut and dropped."""
        template = "no chat template, turns are joined as they are"
        if self.template_hash is not None:
            template = f"chat template {self.template_hash[:12]}"
        source = "" if self._format.prints_terminator else ", appended"
        notes = f", {self.num_truncated:,} prompts cut from the left" if self.num_truncated else ""
        if self.num_trimmed:
            notes += f"; the template trims answers of {self.num_trimmed:,} rows"
        if self._format.ignored:
            notes += f"; fields of messages that nothing reads: {', '.join(sorted(self._format.ignored))}"
        return f"{template}; answers end with {self._terminator!r}{source}; {self.counts}{notes}"

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
        if LEFT_OUT in self.counts.dropped:
            advice += (
                "; a template that cuts thoughts off its answers is no use for data with thoughts: give the tokenizer "
                "one that writes them, or leave them out (thinking `none`)"
            )
        raise DataError(f"no row is left: {self.counts}{advice}")


def _shared_prompt(renderings: Sequence[Rendering]) -> int | None:
    """Where the answers of a pair may differ first, in characters; None where there are none.

    That is where the first of them begins, an empty thought in front of it excluded if all have the same.
    """
    if not renderings:
        return None
    cut = min(rendering.turns[0].first for rendering in renderings)
    if len({rendering.text[:cut] for rendering in renderings}) > 1:
        cut = min(rendering.turns[0].start for rendering in renderings)
    return cut


def _is_beyond_text(row: PreferenceRow, answer: Answer | None) -> bool:
    """Whether a response is more than a text after texts, so that its conversation is worth keeping."""
    if answer is None:
        return False
    turns = as_turns(answer, "assistant")
    return (
        row.tools is not None
        or row.template_args is not None
        or len(turns) > 1
        or any(turn.extra for turn in (*as_turns(row.prompt, "user"), *turns))
    )


def _conversation(row: PreferenceRow, rendering: Rendering) -> str:
    """What a response was rendered from, as JSON."""
    arguments = {name: value for name, value in rendering.arguments.items() if name != "tools"}
    content = {
        "messages": [turn.as_dict() for turn in rendering.messages],
        "num_prompt_messages": rendering.prompt_messages,
        "tools": None if row.tools is None else list(row.tools),
        "template_args": arguments,
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=str)


def _same_ids(chosen: Sequence[EncodedResponse], rejected: Sequence[EncodedResponse]) -> bool:
    return len(chosen) == len(rejected) > 0 and all(
        np.array_equal(left.prompt_ids, right.prompt_ids) and np.array_equal(left.ids, right.ids)
        for left, right in zip(chosen, rejected, strict=True)
    )


def _with_prompts(pair: EncodedPair, cut: Mapping[int, np.ndarray | None]) -> EncodedPair:
    """The pair with each prompt replaced by the one that was cut from its length."""

    def replaced(responses: Sequence[EncodedResponse]) -> tuple[EncodedResponse, ...]:
        return tuple(
            dataclasses.replace(response, prompt_ids=cut[len(response.prompt_ids)]) for response in responses
        )

    prompt_ids = cut[len(pair.prompt_ids)]
    assert prompt_ids is not None, "pairs that cannot be cut are dropped"
    return EncodedPair(pair.pair_id, prompt_ids, replaced(pair.chosen), replaced(pair.rejected))


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


def _int32(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int32)
