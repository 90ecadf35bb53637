"""Loads a model's tokenizer."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from data.model_identity import unusable_tokenizer


def load_tokenizer(folder: Path, *, option: str, trust_remote_code: bool) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises:
        ConfigurationError: when the folder has none.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        # A damaged file can raise anything, and `tokenizers` nothing narrower than Exception.
        raise unusable_tokenizer(folder, option, error) from error
