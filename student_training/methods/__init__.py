"""The methods by name, and how a name and its settings become a loss."""

import dataclasses
import importlib
import os
import sys
from typing import Any

from data.errors import ConfigurationError
from student_training.methods.abd import ABD
from student_training.methods.adpa import ADPA
from student_training.methods.base import (
    Method,
    MethodSpec,
    Needs,
    Positions,
    Responses,
    SequenceTerm,
    Settings,
    Term,
)
from student_training.methods.dckd import DCKD
from student_training.methods.dpkd import DPKD
from student_training.methods.dpo import DPO
from student_training.methods.dppo import DPPO_SEQUENCE, DPPO_TOKEN
from student_training.methods.presets import preset_settings
from student_training.methods.sft import SFT
from student_training.methods.simpo import SIMPO
from student_training.methods.vanilla_kd import VANILLA_KD

__all__ = [
    "METHODS",
    "Method",
    "MethodSpec",
    "Needs",
    "Positions",
    "Responses",
    "SequenceTerm",
    "Settings",
    "Term",
    "build_method",
    "find_method",
    "parse_clip",
    "preset_settings",
]

METHODS = {
    spec.name: spec
    for spec in (SFT, DPO, SIMPO, VANILLA_KD, DCKD, ADPA, ABD, DPKD, DPPO_TOKEN, DPPO_SEQUENCE)
}


def find_method(name: str) -> MethodSpec:
    """Look a method up: one of `METHODS`, or `module:ATTRIBUTE` for a user's own `MethodSpec`.

    Raises:
        ConfigurationError: for an unknown name or a module that does not hold such a method.
    """
    if name in METHODS:
        return METHODS[name]
    module_name, separator, attribute = name.partition(":")
    if not separator:
        known = ", ".join(METHODS)
        raise ConfigurationError(
            f"--method: {name!r} is not one of {known}; module:ATTRIBUTE names a method of your own"
        )
    if os.getcwd() not in sys.path:
        # As `python -m` does it; the console script's own folder is no place for a user's method.
        sys.path.append(os.getcwd())
    try:
        spec = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"--method: cannot load {name!r}: {error}") from error
    if not isinstance(spec, MethodSpec):
        raise ConfigurationError(f"--method: {name!r} is a {type(spec).__name__}, not a MethodSpec")
    return spec


def build_method(spec: MethodSpec, given: dict[str, Any]) -> tuple[Method, dict[str, Any]]:
    """Fill in a method's defaults and build it.

    Args:
        spec: the method.
        given: settings by name; None means not given.
    Returns:
        The method and its resolved settings as they go into run.toml.
    Raises:
        ConfigurationError: for a setting that the method does not read.
    """
    stray = sorted(name for name, value in given.items() if value is not None and name not in spec.defaults)
    if stray:
        flags = ", ".join("--" + name.replace("_", "-") for name in stray)
        reads = ", ".join("--" + name.replace("_", "-") for name in spec.defaults) or "none"
        raise ConfigurationError(
            f"{flags}: method {spec.name} does not read it; its own settings are: {reads}"
        )
    resolved = {
        name: default if given.get(name) is None else given[name] for name, default in spec.defaults.items()
    }
    arguments = dict(resolved)
    if "clip" in arguments:
        arguments["clip"] = parse_clip(arguments["clip"])
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := sorted(set(arguments) - known):
        raise ConfigurationError(
            f"method {spec.name}: declares {', '.join(unknown)}, which no option sets; "
            f"known are {', '.join(sorted(known))}"
        )
    return spec.build(Settings(**arguments)), resolved


def parse_clip(text: str) -> tuple[float, float] | None:
    """Read a clip range: `low:high`, `c` for −c:c, or `none`.

    Raises:
        ConfigurationError: for anything else.
    """
    if text == "none":
        return None
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] > 0:
        return -numbers[0], numbers[0]
    if len(numbers) == 2 and numbers[0] < numbers[1]:
        return numbers[0], numbers[1]
    raise ConfigurationError(
        f"--clip: {text!r} is not low:high with low < high, one positive number, or none"
    )
