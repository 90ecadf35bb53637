"""Whether two tokenizers give the same token the same id."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Vocabulary", "check_agreement"]


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token of a tokenizer with its id, special and added tokens included."""

    tokens: Mapping[str, int]
    special_tokens: Mapping[str, str]
    chat_template: str | None

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> "Vocabulary":
        """Vocabulary of a loaded tokenizer."""
        raise NotImplementedError

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Vocabulary":
        """Vocabulary of a folder with a `tokenizer.json`."""
        raise NotImplementedError

    @property
    def hash(self) -> str:
        """sha256 (hex) over tokens and ids."""
        raise NotImplementedError


def check_agreement(
    teacher: Vocabulary, student: Vocabulary, *, teacher_name: str, student_name: str
) -> list[str]:
    """Check that a student can be trained on a teacher's token ids.

    Returns:
        Notes worth a warning (chat templates or end-of-sequence tokens that differ, tokens only one has).
    Raises:
        DataError: naming the first few tokens whose ids differ.
    """
    raise NotImplementedError
