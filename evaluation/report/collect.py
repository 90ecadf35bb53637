"""What there is to show: training runs and evaluations, found below the folders that were named.

Everything is read as it is on disk now, and only files that their writers complete or append to, so a run may be going
on while its page is made: the last line of its metrics may be half-written, and its checkpoint missing.
"""

import contextlib
import json
import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import EvaluationError
from data.storage.transfer import open_signals
from evaluation.judgments import JUDGMENTS_FILE, read_judgments
from evaluation.language_model import model_labels
from evaluation.metrics.win_rate import prompt_preferences
from evaluation.report.samples import SamplePrompt, add_signals, read_samples
from evaluation.result_files import read_result

_METRICS = "metrics.jsonl"

#: Columns of metrics.jsonl that are not drawn as curves.
_NOT_CURVES = {"step"}

# How deep below a named folder runs are looked for: `runs/demo` holds `models/student`.
_DEPTH = 3

_SKIPPED = {"checkpoints", "tensorboard"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One training run.

    Attributes:
        path: its folder.
        name: what to call it.
        settings: of run.toml, flattened to what people ask for first: method, student, learning rate and so on.
        curves: name of a term -> (steps, values), finite values only.
        is_finished: whether its checkpoint is there.
        num_damaged: lines of metrics that could not be read.
    """

    path: Path
    name: str
    settings: dict[str, Any]
    curves: dict[str, tuple[list[float], list[float]]]
    is_finished: bool
    num_damaged: int

    @property
    def last_step(self) -> int:
        """The last step that was logged."""
        return int(max((steps[-1] for steps, _ in self.curves.values() if steps), default=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation: its result as it was written, and answers to show.

    Attributes:
        path: its folder.
        name: what to call it.
        kind: `win-rate`, `signals`, `benchmarks`, `alpaca-eval` or `mt-bench`.
        result: content of result.json; None where the evaluation has not finished.
        table: its table as text, for kinds that are shown as they are.
        samples: prompts with answers.
        num_judgments: judgments that were stored so far.
    """

    path: Path
    name: str
    kind: str
    result: dict[str, Any] | None
    table: str
    samples: list[SamplePrompt]
    num_judgments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """All that was found."""

    runs: list[TrainingRun]
    evaluations: list[Evaluation]


def collect_runs(paths: Sequence[str], *, num_samples: int = 50, signals: Sequence[str] = ()) -> Collection:
    """Find training runs and evaluations.

    Args:
        paths: folders of runs and evaluations, or folders that hold such.
        num_samples: prompts to show the answers of, for each evaluation.
        signals: datasets whose responses to the same prompts are shown beside the answers, coloured by advantage.
    Raises:
        EvaluationError: for a path where there is neither.
        ShardError: for signals that cannot be read.
    """
    run_folders: list[Path] = []
    evaluation_folders: list[Path] = []
    for name in paths:
        folder = Path(name)
        if not folder.is_dir():
            raise EvaluationError(
                f"{name}: no such folder; name folders that train-student or evaluate has written"
            )
        found = [*_folders(folder, _DEPTH)]
        here_runs = [path for path in found if (path / _METRICS).is_file()]
        here_evaluations = [path for path in found if _is_evaluation(path)]
        if not here_runs and not here_evaluations:
            raise EvaluationError(
                f"{name}: neither a training run ({_METRICS}) nor an evaluation (result.json or {JUDGMENTS_FILE}) "
                "is in it; name folders that train-student or evaluate has written"
            )
        run_folders += [path for path in here_runs if path not in run_folders]
        evaluation_folders += [path for path in here_evaluations if path not in evaluation_folders]
    run_names = model_labels([str(path.absolute()) for path in run_folders])
    evaluation_names = model_labels([str(path.absolute()) for path in evaluation_folders])
    evaluations = [
        _evaluation(path, evaluation_names[str(path.absolute())], num_samples) for path in evaluation_folders
    ]
    for name in signals:
        add_signals(open_signals(name), [sample for found in evaluations for sample in found.samples])
    runs = [_run(path, run_names[str(path.absolute())]) for path in run_folders]
    return Collection(runs=runs, evaluations=evaluations)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth and not (folder / _METRICS).is_file():
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith(".") and child.name not in _SKIPPED:
                yield from _folders(child, depth - 1)


def _is_evaluation(folder: Path) -> bool:
    return (folder / JUDGMENTS_FILE).is_file() or _result(folder) is not None


def _result(folder: Path) -> dict[str, Any] | None:
    """The result of an evaluation; None where there is none, or a file of that name is something else's."""
    with contextlib.suppress(EvaluationError):
        return read_result(folder)
    return None


def _run(path: Path, name: str) -> TrainingRun:
    curves: dict[str, tuple[list[float], list[float]]] = {}
    num_damaged = 0
    for line in (path / _METRICS).read_bytes().splitlines():
        try:
            entry = json.loads(line)
            step = float(entry["step"])
        except (ValueError, KeyError, TypeError):
            num_damaged += 1
            continue
        for key, value in entry.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if key not in _NOT_CURVES and is_number and math.isfinite(value):
                steps, values = curves.setdefault(key, ([], []))
                steps.append(step)
                values.append(float(value))
    return TrainingRun(
        path=path,
        name=name,
        settings=_settings(path),
        curves=curves,
        is_finished=(path / "config.json").is_file() or (path / "adapter_config.json").is_file(),
        num_damaged=num_damaged,
    )


def _settings(path: Path) -> dict[str, Any]:
    """Method, student and what people compare runs by, from run.toml."""
    try:
        record = tomllib.loads((path / "run.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    options = record.get("options", {})
    names = ("method", "epochs", "batch_size", "learning_rate", "alpha", "beta", "gamma", "seed")
    settings = {name: options[name] for name in names if name in options}
    student = record.get("inputs", {}).get("student", {})
    if isinstance(student, dict) and student.get("source"):
        settings["student"] = student["source"]
    return settings


def _evaluation(path: Path, name: str, num_samples: int) -> Evaluation:
    result = _result(path)
    table = path / "table.md"
    judgments = read_judgments(path / JUDGMENTS_FILE) if (path / JUDGMENTS_FILE).is_file() else []
    kind = "win-rate" if result is None else str(result["kind"])
    preferences: dict[tuple[str, str], dict[str, float]] = {}
    pairs: dict[tuple[str, str], list[Any]] = {}
    for judgment in judgments:
        pairs.setdefault((judgment.model, judgment.baseline), []).append(judgment)
    for (model, baseline), found in pairs.items():
        for prompt_id, preference in prompt_preferences(found).items():
            for who, other, value in ((model, baseline, preference), (baseline, model, 1 - preference)):
                preferences.setdefault((prompt_id, who), {})[other] = value
    return Evaluation(
        path=path,
        name=name,
        kind=kind,
        result=result,
        table=table.read_text(encoding="utf-8") if table.is_file() else "",
        samples=read_samples(path, preferences, num_samples),
        num_judgments=len(judgments),
    )
