"""run.toml: what a training run was asked to do, with what, on what."""

import dataclasses
import enum
import platform
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

from data.errors import TrainingError
from data.files import make_folder, write_atomic
from data.signals.fingerprint import explain_differences
from student_training.methods import MethodSettings, find_method
from student_training.options import TrainOptions

RUN_RECORD = "run.toml"

#: How long a run is: what may grow when it is extended.
_LENGTH = ("epochs", "max_steps")

#: Recorded by what they hold, so that moving them changes nothing.
_INPUTS = {"out", "student", "signals", "eval_signals", "rollouts", "data"}

_LIBRARIES = ("adpa", "torch", "transformers", "accelerate", "peft", "numpy", "pyarrow")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that take part, those that are installed."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions


def determining_request(
    options: TrainOptions, settings: dict[str, Any], inputs: dict[str, Any]
) -> dict[str, Any]:
    """All that determines the trained weights: options, resolved method settings, identities of the inputs.

    None is left out, since TOML has no such value.
    """
    chosen = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.metadata["determining"] and field.name not in _INPUTS
    }
    if options.keep_best or options.early_stopping:
        # Which checkpoints exist then decides which one is saved.
        chosen["save_steps"] = options.save_steps
    chosen |= settings
    return {"options": _without_none(chosen), "inputs": _without_none(inputs)}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


class Found(enum.Enum):
    """What an output folder holds of a run."""

    NOTHING = "nothing"
    SAME = "this very run, finished or not"
    SHORTER = "the same run over fewer steps, which can be extended"


def find_run(out: Path, request: dict[str, Any]) -> Found:
    """What a folder holds of a run. Writes nothing.

    Args:
        out: the output folder.
        request: from `determining_request`.
    Raises:
        TrainingError: when it holds another run, naming the fields that differ, or foreign files.
    """
    record = out / RUN_RECORD
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file, not a folder; choose another --out")
    if not record.exists():
        if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise TrainingError(f"{out} is not empty and holds no {RUN_RECORD}; choose another --out")
        return Found.NOTHING
    try:
        found = tomllib.loads(record.read_text())
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(
            f"{record}: not TOML ({error}); choose another --out or remove the folder"
        ) from error
    recorded = {key: found.get(key, {}) for key in request}
    # An option or a setting that did not exist when the run began had what is its default now.
    recorded["options"] = _defaults(request["options"]) | recorded["options"]
    differences = explain_differences(recorded, request)
    if differences and _is_longer(recorded, request):
        return Found.SHORTER
    if differences:
        raise TrainingError(
            f"{out} holds another run: {differences}; choose another --out or remove the folder"
        )
    return Found.SAME


def _defaults(options: dict[str, Any]) -> dict[str, Any]:
    """The options, the method's settings among them, that have the default of their field."""
    settings = find_method(options["method"]).settings if "method" in options else MethodSettings
    fields = {
        field.name: field.default for owner in (TrainOptions, settings) for field in dataclasses.fields(owner)
    }
    return {
        name: value
        for name, value in options.items()
        if name in fields and value == fields[name] and name not in _LENGTH
    }


def _is_longer(recorded: dict[str, Any], request: dict[str, Any]) -> bool:
    """Whether nothing differs but the length, and that is larger as far as options tell."""
    before, now = dict(recorded["options"]), dict(request["options"])
    lengths = [(before.pop(name, None), now.pop(name, None)) for name in _LENGTH]
    if explain_differences({**recorded, "options": before}, {**request, "options": now}):
        return False
    (old_epochs, new_epochs), (old_steps, new_steps) = lengths
    if old_steps is not None and new_steps is not None:
        return new_steps > old_steps
    if old_steps is None and new_steps is None:
        return new_epochs > old_epochs
    return True  # from epochs to steps or back; the trainer compares the steps


def record_run(out: Path, request: dict[str, Any], versions: dict[str, str], paths: dict[str, Any]) -> None:
    """Claim an output folder for a run, or write down that a run is longer now.

    Args:
        out: the folder; made if need be.
        request: from `determining_request`.
        versions: from `library_versions`; recorded, not compared.
        paths: where the inputs were; recorded, not compared.
    Raises:
        ShardError: when the folder cannot be made or written.
    """
    make_folder(out)
    content = {**request, "paths": _without_none(paths), "versions": versions}
    write_atomic(out / RUN_RECORD, tomli_w.dumps(content))
