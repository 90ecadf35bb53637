"""Loads and saves a model's tokenizer."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from data.files import make_folder, write_atomic
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


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer's files, chat template included; the same ones wherever it was loaded from.

    Raises:
        ShardError: when they cannot be written.
    """
    # transformers keeps how a tokenizer was loaded, and would save it: offline or not, from a folder or the hub.
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    make_folder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir()):
            write_atomic(folder / file.name, file.read_bytes())
