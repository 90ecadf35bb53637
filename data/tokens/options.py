"""The options that say how rows become token ids."""

from collections.abc import Sequence
from typing import Any

from data.options.fields import option
from data.options.key_values import parse_key_values
from data.tokens.encoder import TRAIN_ON
from data.tokens.thoughts import THINKING


def template_arg_option() -> Any:
    """The field `template_arg`."""
    return option(
        (),
        help="KEY=VALUE for the chat template, such as enable_thinking=false; values are read as JSON where they are",
        check=parse_template_args,
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


def parse_template_args(pairs: Sequence[str]) -> dict[str, Any]:
    """Arguments for the chat template; see `parse_key_values`."""
    return parse_key_values(pairs, "--template-arg")
