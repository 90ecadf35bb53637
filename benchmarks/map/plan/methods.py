"""How the map trains students: methods, their relatives, and single settings and learning rates varied."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class MethodRun:
    """How one student is trained.

    Attributes:
        method: `--method` of train-student.
        settings: the method's own settings.
        needs_teacher: whether it reads signals; without, preference data.
        after: the method whose student, trained for half of the steps, answers and goes on for the other half.
        scoring: settings of score-teacher that differ from the map's.
        learning_rate: another one than the plan's.
    """

    method: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs_teacher: bool = True
    after: str | None = None
    scoring: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    learning_rate: float | None = None


# Written out, so that the map stays what it is whatever the default.
_NO_NLL: Mapping[str, Any] = {"nll_weight": 0.0}

CORE: Mapping[str, MethodRun] = {
    "sft": MethodRun("sft", needs_teacher=False),
    "dpo": MethodRun("dpo", {"beta": 0.3}, needs_teacher=False),
    "dckd": MethodRun("dckd"),
    "abd": MethodRun("abd", _NO_NLL),
    "abd, NLL 0.3": MethodRun("abd", {"nll_weight": 0.3}),
    "abd, NLL": MethodRun("abd", {"nll_weight": 1.0}),
    "adpa, gamma 1": MethodRun("adpa", {"gamma": 1.0}),
    "adpa+, gamma 1": MethodRun("adpa", {"gamma": 1.0}, after="dckd"),
    "hybrid": MethodRun("hybrid"),
}

RELATIVES: Mapping[str, MethodRun] = {
    "opd": MethodRun("opd"),
    "exopd": MethodRun("exopd"),
    "aligndistil": MethodRun("aligndistil"),
    "direct": MethodRun("direct"),
    "w2s": MethodRun("w2s"),
    "abd on rollouts": MethodRun("abd", {**_NO_NLL, "on": "student"}),
    "abd, constant": MethodRun("abd", {**_NO_NLL, "advantage": "constant"}),
    "adpa, constant": MethodRun("adpa", {"gamma": 1.0, "advantage": "constant"}),
    "adpa 3, top-p 0.95": MethodRun("adpa", {"gamma": 3.0}, scoring={"top_p": 0.95}),
    "adpa 3, power 0.5": MethodRun("adpa", {"gamma": 3.0, "advantage_power": 0.5}),
    "adpa, two rounds": MethodRun("adpa", {"gamma": 1.0}, after="adpa, gamma 1"),
}

SWEEPS: Mapping[str, MethodRun] = {
    "abd, boost 0.5": MethodRun("abd", {**_NO_NLL, "boost": 0.5}),
    "abd, boost 2": MethodRun("abd", {**_NO_NLL, "boost": 2.0}),
    "abd, clip 0.5": MethodRun("abd", {**_NO_NLL, "clip": "0.5"}),
    "abd, clip 2": MethodRun("abd", {**_NO_NLL, "clip": "2"}),
    "abd, no clip": MethodRun("abd", {**_NO_NLL, "clip": "none"}),
    "abd, top-k 4": MethodRun("abd", _NO_NLL, scoring={"top_k": 4}),
    "abd, top-k 64": MethodRun("abd", _NO_NLL, scoring={"top_k": 64}),
    "abd, exact": MethodRun("abd", _NO_NLL, scoring={"precision": "exact"}),
    "adpa, gamma 0.3": MethodRun("adpa", {"gamma": 0.3}),
    "adpa, gamma 2": MethodRun("adpa", {"gamma": 2.0}),
    "adpa, gamma 3": MethodRun("adpa", {"gamma": 3.0}),
    "adpa+": MethodRun("adpa", {"gamma": 3.0}, after="dckd"),
    "adpa, clip 0.5": MethodRun("adpa", {"gamma": 1.0, "clip": "0.5"}),
    "adpa, clip 2": MethodRun("adpa", {"gamma": 1.0, "clip": "2"}),
    "adpa, no clip": MethodRun("adpa", {"gamma": 1.0, "clip": "none"}),
    "adpa, tail bucket": MethodRun("adpa", {"gamma": 1.0, "advantage_tail": "bucket"}),
    "adpa, top-k 4": MethodRun("adpa", {"gamma": 1.0}, scoring={"top_k": 4}),
    "adpa, top-k 64": MethodRun("adpa", {"gamma": 1.0}, scoring={"top_k": 64}),
    "adpa, exact": MethodRun("adpa", {"gamma": 1.0}, scoring={"precision": "exact"}),
    "hybrid, boost 1": MethodRun("hybrid", {"boost": 1.0}),
}

_VARIANTS = "benchmarks.map.variants"

_UNITED = {
    "top_k": 96
}  # nearly the whole vocabulary of both worlds: both models' own top 16 are cut out of it

VARIANTS: Mapping[str, MethodRun] = {
    "abd, boost by confidence": MethodRun(f"{_VARIANTS}:BY_CONFIDENCE", _NO_NLL),
    "abd, boost by doubt": MethodRun(f"{_VARIANTS}:BY_DOUBT", _NO_NLL),
    "abd, boost by shift": MethodRun(f"{_VARIANTS}:BY_SHIFT", _NO_NLL),
    "abd, falling": MethodRun(f"{_VARIANTS}:ABD_FALLING", _NO_NLL),
    "abd, rising": MethodRun(f"{_VARIANTS}:ABD_RISING", _NO_NLL),
    "adpa, falling": MethodRun(f"{_VARIANTS}:ADPA_FALLING", {"gamma": 1.0}),
    "adpa, rising": MethodRun(f"{_VARIANTS}:ADPA_RISING", {"gamma": 1.0}),
    "abd, united supports": MethodRun(f"{_VARIANTS}:ABD_UNITED", _NO_NLL, scoring=_UNITED),
    "adpa, united supports": MethodRun(f"{_VARIANTS}:ADPA_UNITED", {"gamma": 1.0}, scoring=_UNITED),
}

"""Rules that are tried here alone, see `benchmarks/map/variants.py`."""

TUNED = ("sft", "dpo", "dckd", "abd", "abd, NLL", "adpa, gamma 1", "hybrid")

"""Methods whose learning rate is tuned."""

MAP_RATE = 0.005

"""The learning rate of every student of the map that is not tuned."""


def rates_of(method: str) -> tuple[float, ...]:
    """The four learning rates that a method of `TUNED` is tried with: lower ones for dpo, whose best is lower."""
    shared = (0.002, MAP_RATE, 0.0125)
    return (0.0008, *shared) if method == "dpo" else (*shared, 0.03)


def at_rate(method: str, rate: float) -> str:
    """The name in `METHODS` of a method at one of its learning rates."""
    return method if rate == MAP_RATE else f"{method}, rate {rate}"


_OTHER_RATES: Mapping[str, MethodRun] = {
    at_rate(name, rate): dataclasses.replace(CORE[name], learning_rate=rate)
    for name in TUNED
    for rate in rates_of(name)
    if rate != MAP_RATE
}

METHODS: Mapping[str, MethodRun] = {**CORE, **RELATIVES, **SWEEPS, **VARIANTS, **_OTHER_RATES}

"""The core methods first, then their relatives, then one setting at a time, other rules, and learning rates."""

BRIEF = ("sft", "abd", "adpa, gamma 1", "hybrid")

NO_TEACHER = "none"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One student of the map.

    Attributes:
        world: a name of `WORLDS`.
        seed: of the world and of all training.
        teacher: a name of `TEACHERS`, or `none` for a method without one.
        chosen: a name of `CHOSEN`.
        method: a name of `METHODS`.
    """

    world: str
    seed: int
    teacher: str
    chosen: str
    method: str
