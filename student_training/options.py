"""The options of train-student: those of every run here, those of the methods from the methods' own settings."""

import dataclasses
from typing import TYPE_CHECKING, Any

from data.errors import ConfigurationError
from student_training.methods import (
    METHODS,
    ABDSettings,
    ADPASettings,
    AlignDistilSettings,
    DirectSettings,
    DPKDSettings,
    DPOSettings,
    DPPOSettings,
    ExOPDSettings,
    HybridSettings,
    KDSettings,
    Method,
    OPDSettings,
    SimPOSettings,
    W2SSettings,
    build_method,
    find_method,
)
from student_training.methods.settings import preset_settings, settings_options
from student_training.run_options import RunOptions

_METHOD_OPTIONS = settings_options(METHODS.values())


def _check(options: RunOptions) -> None:
    RunOptions.__post_init__(options)
    if ":" not in options.method:  # nothing of the user's is imported before the run
        resolve_method(options)


if TYPE_CHECKING:
    # For type checkers and editors, who read no fields that are made at run time: the same names with their types.
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class TrainOptions(  # pyright: ignore[reportGeneralTypeIssues]  (it never exists, so its slots do not clash)
        RunOptions,
        KDSettings,
        ADPASettings,
        ABDSettings,
        HybridSettings,
        OPDSettings,
        ExOPDSettings,
        AlignDistilSettings,
        DirectSettings,
        W2SSettings,
        DPOSettings,
        SimPOSettings,
        DPKDSettings,
        DPPOSettings,
    ):
        """Train a student from signal datasets. Or from preference data, for methods without a teacher."""

else:
    TrainOptions = dataclasses.make_dataclass(
        "TrainOptions",
        _METHOD_OPTIONS,
        bases=(RunOptions,),
        namespace={
            "__module__": __name__,
            "__post_init__": _check,
            "__doc__": "Train a student from signal datasets. Or from preference data, for methods without a teacher.",
        },
        frozen=True,
        kw_only=True,
        slots=True,
    )


def resolve_method(options: RunOptions) -> tuple[Method, dict[str, Any]]:
    """The method, and its settings as run.toml records them, with how the loss is averaged among them.

    Raises:
        ConfigurationError: for an unknown method, or settings that it does not take.
    """
    spec = find_method(options.method)
    preset = preset_settings(options.preset, spec, METHODS.values())
    by_preset = preset.pop("normalize", "token")
    normalize = options.normalize or by_preset

    given = {name: getattr(options, name, None) for name, _, _ in _METHOD_OPTIONS}
    chosen = (
        preset | {name: value for name, value in given.items() if value is not None} | _parse(options.set)
    )
    method, settings = build_method(spec, chosen)
    return method, {**dataclasses.asdict(settings), "normalize": normalize}


def _parse(assignments: tuple[str, ...]) -> dict[str, str]:
    """Settings from `--set NAME=VALUE`."""
    values = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ConfigurationError(f"--set: {text!r} is not NAME=VALUE")
        values[name.strip().replace("-", "_")] = value.strip()
    return values
