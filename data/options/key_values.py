"""Options that repeat `KEY=VALUE`: arguments for chat templates, engines, other libraries."""

import json
from collections.abc import Sequence
from typing import Any

from data.errors import ConfigurationError

_PYTHON = {"True": True, "False": False, "None": None}


def parse_key_values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Arguments from `KEY=VALUE` pairs; values that are JSON, or Python's True, False and None, become what they say.

    Args:
        pairs: as they were typed.
        option: the option that they came from, for messages.
    Raises:
        ConfigurationError: a pair without a key or without `=`, or a key that is there twice.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key.strip() or not equals:
            raise ConfigurationError(f"{option}: {pair!r} is not KEY=VALUE, such as size=7 or fast=false")
        if key in arguments:
            raise ConfigurationError(f"{option}: {key} is given twice; give one value")
        try:
            arguments[key] = _PYTHON[text] if text in _PYTHON else json.loads(text)
        except json.JSONDecodeError:
            arguments[key] = text
    return arguments
