"""Text of a pair to token ids, once, through the tokenizer's chat template."""

import dataclasses
from typing import Any

import numpy as np

from data.conversations import PreferenceRow
from data.preferences import RowCounts

__all__ = ["EncodedPair", "PairEncoder"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class EncodedPair:
    """Token ids of one row, int32; answers end with the terminator and are None where the row has none."""

    pair_id: str
    prompt_ids: np.ndarray
    chosen_ids: np.ndarray | None
    rejected_ids: np.ndarray | None


class PairEncoder:
    """Turns rows into token ids and counts what it drops.

    Attributes:
        counts: rows seen (`read`), kept, and dropped by reason; `truncated` prompts.
        terminator_id: the end-of-turn token that every answer ends with.
        template_hash: sha256 (hex) of the chat template; None without one.
        tokenizer_hash: sha256 (hex) of the vocabulary and of how text is cut into it.
    """

    counts: RowCounts
    truncated: int
    terminator_id: int
    template_hash: str | None
    tokenizer_hash: str

    def __init__(self, tokenizer: Any, *, max_length: int | None = None, truncate: bool = False) -> None:
        raise NotImplementedError

    def encode(self, row: PreferenceRow) -> EncodedPair | None:
        """Token ids of a row, or None when it is dropped (and counted)."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line for the output: template, terminator, rows kept, cut and dropped."""
        raise NotImplementedError

    def require_rows(self) -> None:
        """Raise a DataError that says why when every row was dropped."""
        raise NotImplementedError
