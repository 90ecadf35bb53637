"""What a command was told to read, looked for before libraries that take seconds are imported.

The commands check all of this themselves, and more. A path with a typing error should not have to wait for them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError
from data.options.fields import flag_name
from data.preferences.sources import refuse_missing_source
from data.storage.remote import is_address
from data.storage.store import local_folder

__all__ = ["check_inputs", "is_local_name", "missing_folder"]

_MODELS = (
    "teacher",
    "reference",
    "teacher_adapter",
    "reference_adapter",
    "student",
    "adapter",
    "model",
    "baseline",
)

_DATASETS = ("signals", "eval_signals", "rollouts")


def check_inputs(options: Any) -> None:
    """Look for the local models, datasets and files that an options object names.

    Args:
        options: of any command; fields that it does not have are not asked for.
    Raises:
        ConfigurationError: a model's folder that is not there.
        DataError: a data file that is not there.
        ShardError: a dataset that is not there.
    """
    for name in _MODELS:
        for value in _values(options, name):
            if is_local_name(value) and not Path(value).exists():
                raise missing_folder(value, flag_name(name))
    for name in _DATASETS:
        for value in _values(options, name):
            if not is_address(value):
                local_folder(value)
    if data := getattr(options, "data", None):
        refuse_missing_source(data)


def is_local_name(name: str) -> bool:
    """Whether a model's name can only be a folder here: a hub name is `owner/name`."""
    is_nested = os.sep in name.rstrip(os.sep)
    return is_nested and (name.startswith((".", "/", "~")) or name.count("/") != 1)


def missing_folder(name: str, option: str) -> ConfigurationError:
    """What to raise where a model's folder is not there."""
    return ConfigurationError(f"{option}: {name}: no such folder")


def _values(options: Any, name: str) -> Iterator[str]:
    value = getattr(options, name, None)
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str):
            yield item
