"""Results on disk: result.json with everything, unrounded, and table.md to read."""

import dataclasses
import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.errors import EvaluationError
from data.files import make_folder, write_atomic

RESULT_FILE = "result.json"
TABLE_FILE = "table.md"


def write_result(folder: Path, *, kind: str, table: str, **content: Any) -> None:
    """Write result.json and table.md.

    Args:
        folder: made where it is not there.
        kind: `win-rate`, `signals`, `alpaca-eval`, `mt-bench`, `benchmarks`: which command wrote it.
        table: Markdown.
        **content: what else result.json holds, `request` (what determined the figures) among it: dataclasses,
            mappings and sequences of them.
    Raises:
        ShardError: when a file cannot be written.
    """
    make_folder(folder)
    whole = {"kind": kind, "adpa": _version(), **as_json(content)}
    write_atomic(
        folder / RESULT_FILE, json.dumps(whole, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    )
    write_atomic(folder / TABLE_FILE, table.rstrip("\n") + "\n")


def stored_path(path: str | Path, folder: Path) -> str:
    """A file as a result names it: by its name within the result's folder, so that this may be moved, else absolute."""
    resolved, folder = Path(path).resolve(), folder.resolve()
    return str(resolved.relative_to(folder) if resolved.is_relative_to(folder) else resolved)


def read_result(folder: Path) -> dict[str, Any]:
    """What `write_result`, or another command of `adpa evaluate`, has written.

    Raises:
        EvaluationError: for a folder without a result, or one that cannot be read.
    """
    path = folder / RESULT_FILE
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read: {error.strerror}; name a folder that `adpa evaluate` has written"
        ) from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON ({error}); run the command that wrote it again") from error
    if not isinstance(content, dict) or "kind" not in content:
        raise EvaluationError(f"{path} is not a result of `adpa evaluate`; name a folder that it has written")
    return content


def as_json(value: Any) -> Any:
    """Dataclasses, tuples and numbers as plain JSON values; what is not a finite number becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _version() -> str:
    try:
        return version("adpa")
    except PackageNotFoundError:
        return "from a checkout"
