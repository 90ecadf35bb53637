"""The options that say how rows become token ids."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data.errors import ConfigurationError
from data.options.fields import option
from data.tokens.encoder import TRAIN_ON
from data.tokens.thoughts import THINKING

_PYTHON = {"True": True, "False": False, "None": None}


def template_arg_option() -> Any:
    """The field `template_arg`."""
    return option(
        (),
        help="KEY=VALUE for the chat template, such as enable_thinking=false; values are read as JSON where they are",
        group="data",
        expert=True,
    )


def thinking_option() -> Any:
    """The field `thinking`."""
    return option(
        "auto",
        help="thoughts: auto takes those of the data and learns no empty ones, keep learns empty ones too, none "
        "leaves thoughts out",
        choices=THINKING,
        group="data",
        expert=True,
    )


def train_on_option() -> Any:
    """The field `train_on`."""
    return option(
        "turns",
        help="what counts of an answer of several turns: the assistant's turns, the last of them, or all (what "
        "tools and users say, too)",
        choices=TRAIN_ON,
        group="data",
        expert=True,
    )


def store_conversations_option() -> Any:
    """The field `store_conversations`."""
    return option(
        False,
        help="store the conversation of every response, also of plain text; needed to render it again elsewhere",
        group="data",
        expert=True,
    )


def encoder_settings(options: Any) -> dict[str, Any]:
    """The keyword arguments of `PairEncoder` that a command's options give.

    Args:
        options: with all or some of the fields that this file makes.
    Raises:
        ConfigurationError: for a template argument that is not KEY=VALUE.
    """
    settings = {
        name: getattr(options, name)
        for name in ("thinking", "train_on", "store_conversations", "bad_rows")
        if hasattr(options, name)
    }
    return {**settings, "template_args": parse_template_args(options.template_arg)}


def encoding_request(options: Any) -> dict[str, Any]:
    """What of these options determines a dataset; empty where all have their defaults.

    Options at their defaults are left out, so that what was made before they were there is found again.
    """
    defaults = {"thinking": "auto", "train_on": "turns", "store_conversations": False, "template_args": {}}
    settings = encoder_settings(options)
    return {name: settings[name] for name in defaults if settings.get(name, defaults[name]) != defaults[name]}


def parse_template_args(pairs: Sequence[str]) -> Mapping[str, Any]:
    """Arguments for the chat template from `KEY=VALUE` pairs; values that are JSON become what they say.

    Raises:
        ConfigurationError: a pair without a key or without `=`, or a key that is there twice.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not key.strip() or not separator:
            raise ConfigurationError(
                f"--template-arg: {pair!r} is not KEY=VALUE, such as enable_thinking=false"
            )
        if key in arguments:
            raise ConfigurationError(f"--template-arg: {key} is given twice; give one value")
        try:
            arguments[key] = _PYTHON[text] if text in _PYTHON else json.loads(text)
        except json.JSONDecodeError:
            arguments[key] = text
    return arguments
