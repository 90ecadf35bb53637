"""Checks that a command's inputs exist, before libraries that take seconds are imported.

The commands check all of this themselves, and more. A path with a typing error should not have to wait for them.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError, DataError
from data.files import nearest_existing
from data.model_identity import (
    CONFIG_NAMES,
    check_model_folder,
    hub_folder,
    is_local_name,
    missing_folder,
    refuse_adapter,
    refuse_other_models,
)
from data.options.addresses import check_address
from data.options.fields import flag_name
from data.preferences.sources import refuse_missing_source
from data.signals.manifest import read_manifest
from data.storage.remote import is_address
from data.storage.store import local_folder

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

#: Of those, the ones that are asked from the hub where they are no folder here, and the option with their revision.
_HUB_MODELS = {"teacher": "teacher_revision", "reference": "reference_revision", "student": "revision"}

#: Models that need not be causal language models.
_JUDGES = ("judge_reward_model", "judge_teacher", "judge_reference")

_DATASETS = ("signals", "eval_signals", "rollouts")

#: Options that name a user's code by its address; `method` does where it is not one of `METHODS`.
_ADDRESSES = ("judge_function", "method")

#: Files of other tools.
_FILES = (
    "annotations",
    "answers",
    "baseline_outputs",
    "difficulty",
    "gamed",
    "judgments",
    "outputs",
    "questions",
    "reference_answers",
)


def check_inputs(options: Any, *, complete: bool = True) -> None:
    """Look for all that an options object names: models, datasets, files, a user's code, the place for the output.

    Of a hub model the configuration is fetched.

    Args:
        options: of any command; fields that it does not have are not asked for.
        complete: whether datasets have to be complete.
    Raises:
        ConfigurationError: a model that is neither here nor on the hub, or no causal language model; an output
            folder where a file is; code that Python does not find.
        DataError: a file that is not there.
        ShardError: a dataset that is not there, or not complete.
    """
    for name in (*_MODELS, *_JUDGES):
        for value in _values(options, name):
            if is_local_name(value) and not Path(value).exists():
                raise missing_folder(value, flag_name(name))
            if Path(value).exists():
                check_model_folder(Path(value), flag_name(name), value)
                _refuse_adapter(options, name, Path(value))
            if name in _MODELS:
                refuse_other_models(Path(value), flag_name(name))
    for name in _DATASETS:
        for value in _values(options, name):
            if not is_address(value):
                folder = local_folder(value)
                if complete:
                    read_manifest(folder)
    for name in _FILES:
        for value in _values(options, name):
            if not Path(value).exists():
                raise DataError(
                    f"{flag_name(name)}: {value}: no such file; paths are relative to where the command runs"
                )
    if data := getattr(options, "data", None):
        refuse_missing_source(data)
    for name in _ADDRESSES:
        for value in _values(options, name):
            if ":" in value or name != "method":
                check_address(value, flag_name(name))
    _check_folders_to_write(options)
    for name, revision in _HUB_MODELS.items():
        for value in _values(options, name):
            if not Path(value).exists():
                folder = hub_folder(
                    value,
                    revision=getattr(options, revision, None),
                    option=flag_name(name),
                    allow_patterns=list(CONFIG_NAMES),
                )
                _refuse_adapter(options, name, folder)


def _refuse_adapter(options: Any, name: str, folder: Path) -> None:
    if name.endswith("adapter"):
        return
    field = "adapter" if name == "student" else f"{name}_adapter"
    refuse_adapter(folder, flag_name(name), flag_name(field) if hasattr(options, field) else None)


def _check_folders_to_write(options: Any) -> None:
    for field in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        if not field.metadata.get("folder"):
            continue
        for value in _values(options, field.name):
            if (found := nearest_existing(value)).is_file():
                raise ConfigurationError(
                    f"{flag_name(field.name)}: {value}: no folder can be made there, {found} is a file; "
                    "choose another place"
                )


def _values(options: Any, name: str) -> Iterator[str]:
    value = getattr(options, name, None)
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str):
            yield item
