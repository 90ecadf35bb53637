"""Text that has been through a chat template already, told by the special tokens in it."""

import re

from data.errors import DataError
from data.preferences.messages import PreferenceRow, as_turns
from data.tokens.template import ChatTokenizer

__all__ = ["TemplatedText"]

# Shorter ones (some tokenizers have single characters) are found in any text.
_SHORTEST = 3


class TemplatedText:
    """Finds a tokenizer's special tokens in prompts of text, which would be put into a template a second time.

    Conversations are not looked at: who writes roles apart does not write their marks, and people ask what they mean.
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
            DataError: when the text begins with one, as only a template's output does.
        """
        turns = [turn for turn in as_turns(row.prompt, "user") if turn.role != "system"]
        if self._marks is None or len(turns) != 1:
            return None
        found = self._marks.search(turns[0].content)
        if found is None:
            return None
        if not turns[0].content[: found.start()].strip():
            raise DataError(
                f"the prompt's text begins with {found[0]!r}, a special token of the tokenizer, so it is in a chat "
                "template's form already and would be put into the template once more; give messages, or the bare "
                "text of the question"
            )
        return found[0]
