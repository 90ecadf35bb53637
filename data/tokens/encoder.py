"""Preference rows as token ids: encodes rows, and drops and counts what cannot be used."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.preferences.messages import Answer, PreferenceRow, as_turns
from data.preferences.reader import RowCounts
from data.tokens.chat import LEFT_OUT, Rendering, UnusableAnswerError
from data.tokens.surprises import unheeded_terminator
from data.tokens.template import ChatTokenizer, template_text
from data.tokens.template_format import choose_format
from data.tokens.templated_text import TemplatedText
from data.tokens.text_ids import EncodedPair, EncodedResponse, TextIds
from data.tokens.vocabulary import tokenizer_hash

TRAIN_ON = ("turns", "last", "all")


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
        self._templated_text = TemplatedText(tokenizer)
        self._format = choose_format(tokenizer, arguments=template_args, thinking=thinking)
        self._texts = TextIds(tokenizer, self._format, train_on)
        self.terminator_id = self._texts.terminator_id

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
            prompt_ids = self._texts.ids(prompt_text)
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
        return self._fitted(
            EncodedPair(row.pair_id, np.array(prompt_ids, np.int32), chosen, rejected), answers
        )

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
                prompt_ids, ids, mask = self._texts.encode_rendering(rendering, cut)
                if not mask.any():
                    raise UnusableAnswerError("answer with nothing to train on")
                conversation = _conversation(row, rendering) if stores or not mask.all() else None
                kept = None if mask.all() else mask
                arrays = np.array(prompt_ids, np.int32), np.array(ids, np.int32)
                responses.append(EncodedResponse(*arrays, kept, conversation))
            encoded.append(tuple(responses))
        return tuple(encoded)

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

    def unheeded_terminator(self, folder: Path) -> str | None:
        """A line on a model whose generation does not stop where answers end; see `data.tokens.surprises`."""
        return unheeded_terminator(folder, self.terminator_id, self._texts.terminator)

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
        return f"{template}; answers end with {self._texts.terminator!r}{source}; {self.counts}{notes}"

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
