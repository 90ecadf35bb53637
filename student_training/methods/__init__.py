"""The methods by name, and how a name and its settings become a loss. Imports no torch: help reads this, too."""

from collections.abc import Mapping
from typing import Any

from data.errors import ConfigurationError
from data.options.addresses import load_address
from student_training.methods.advantage.abd import ABD, ABDSettings
from student_training.methods.advantage.adpa import ADPA, ADPASettings
from student_training.methods.advantage.anchored import DIRECT, W2S, DirectSettings, W2SSettings
from student_training.methods.advantage.hybrid import HYBRID, HybridSettings
from student_training.methods.advantage.relatives import (
    ALIGNDISTIL,
    EXOPD,
    OPD,
    AlignDistilSettings,
    ExOPDSettings,
    OPDSettings,
)
from student_training.methods.base import (
    Method,
    MethodSpec,
    Needs,
    Positions,
    Responses,
    SequenceTerm,
    Term,
)
from student_training.methods.dckd import DCKD, VANILLA_KD, KDSettings
from student_training.methods.dpkd import DPKD, DPKDSettings
from student_training.methods.dpo import DPO, DPOSettings
from student_training.methods.dppo import DPPO_SEQUENCE, DPPO_TOKEN, DPPOSettings
from student_training.methods.settings import (
    MethodSettings,
    fill_settings,
    setting,
)
from student_training.methods.sft import SFT, nll_term
from student_training.methods.simpo import SIMPO, SimPOSettings

__all__ = [
    "METHODS",
    "ABDSettings",
    "ADPASettings",
    "AlignDistilSettings",
    "DPKDSettings",
    "DPOSettings",
    "DPPOSettings",
    "DirectSettings",
    "ExOPDSettings",
    "HybridSettings",
    "KDSettings",
    "Method",
    "MethodSettings",
    "MethodSpec",
    "Needs",
    "OPDSettings",
    "Positions",
    "Responses",
    "SequenceTerm",
    "SimPOSettings",
    "Term",
    "W2SSettings",
    "build_method",
    "find_method",
    "nll_term",
    "setting",
]

METHODS: dict[str, MethodSpec[Any]] = {
    spec.name: spec
    for spec in (
        SFT,
        DPO,
        SIMPO,
        VANILLA_KD,
        DCKD,
        ADPA,
        ABD,
        HYBRID,
        OPD,
        EXOPD,
        ALIGNDISTIL,
        DIRECT,
        W2S,
        DPKD,
        DPPO_TOKEN,
        DPPO_SEQUENCE,
    )
}


def find_method(name: str) -> MethodSpec[Any]:
    """Look a method up: one of `METHODS`, or `module:ATTRIBUTE` for a user's own `MethodSpec`.

    For the latter the working folder is added to `sys.path`, as `python -m` does it.

    Raises:
        ConfigurationError: for an unknown name or a module that does not hold such a method.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        known = ", ".join(METHODS)
        raise ConfigurationError(
            f"--method: {name!r} is not one of {known}; module:ATTRIBUTE names a method of your own"
        )
    spec = load_address(name, "--method")
    if not isinstance(spec, MethodSpec):
        raise ConfigurationError(f"--method: {name!r} is a {type(spec).__name__}, not a MethodSpec")
    return spec


def build_method(spec: MethodSpec[Any], given: Mapping[str, Any]) -> tuple[Method, Any]:
    """Fill in a method's defaults and build it.

    Args:
        spec: the method.
        given: settings by name; None means not given.
    Returns:
        The method and its settings, an instance of `spec.settings`.
    Raises:
        ConfigurationError: for a setting that the method does not read, or a value that it does not take.
    """
    settings = fill_settings(spec, given)
    return spec.build(settings), settings
