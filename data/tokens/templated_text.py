"""Detects prompts that have been through a chat template already, by their special tokens."""

import re

from data.errors import DataError
from data.preferences.messages import PreferenceRow, as_turns
from data.tokens.template import ChatTokenizer

# Shorter ones (some tokenizers have single characters) are found in any text.
_SHORTEST = 3

# How the texts of public chat templates begin. A text that begins like this has been through one of some model.
_BEGINNINGS = (
    *(
        "<|im_start|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<start_of_turn>",
        "<bos>",
        "<|startoftext|>",
    ),
    *("<|user|>", "<|system|>", "<|assistant|>", "<|start_of_role|>", "<|START_OF_TURN_TOKEN|>", "<|start|>"),
    *("<s>", "[INST]", "[SYSTEM_PROMPT]", "<｜begin▁of▁sentence｜>", "<｜User｜>", "[gMASK]", "<|im_user|>"),
)


class TemplatedText:
    """Finds a tokenizer's special tokens in prompts of text, which would be put into a template a second time.

    Conversations are not looked at: data with separate roles contain no marks of a template, except where people ask
    about such marks.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        marks = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        marks = {mark for mark in marks if len(mark) >= _SHORTEST}
        # The longest first, so that what is named is the whole token.
        ordered = sorted(marks, key=lambda mark: (-len(mark), mark))
        self._marks = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def find(self, row: PreferenceRow) -> str | None:
        """The first special token in the only question of a prompt; None where there is none.

        Raises:
            DataError: when the text begins with one, or as public chat templates begin.
        """
        turns = [turn for turn in as_turns(row.prompt, "user") if turn.role != "system"]
        if len(turns) != 1:
            return None
        said = turns[0].content
        found = self._marks.search(said) if self._marks is not None else None
        if found is not None and not said[: found.start()].strip():
            raise _refusal(found[0], "a special token of the tokenizer")
        start = said.lstrip()[:_LONGEST]
        if start.startswith(_BEGINNINGS):
            mark = next(mark for mark in _BEGINNINGS if start.startswith(mark))
            raise _refusal(mark, "the beginning of another model's chat template")
        return found[0] if found is not None else None


_LONGEST = max(map(len, _BEGINNINGS))


def _refusal(mark: str, what: str) -> DataError:
    return DataError(
        f"the prompt's text begins with {mark!r}, {what}, so it is in a chat template's form already and would be put "
        "into the template once more; give messages, or the bare text of the question"
    )
