"""The public Python API: what scripts and notebooks import, `from adpa import SignalDataset, train_student`.

Each name is imported from the file that defines it when it is first used, so that `import adpa` takes milliseconds and
reading a dataset never loads torch. `python -m adpa` is the command line. Whatever is not named here may move.
"""

# ruff: noqa: F401  (the imports below are re-exports)

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # For editors and type checkers; a test compares these lines with `_HOMES`.
    from data.checks.verify import Finding, verify_dataset
    from data.errors import (
        AdpaError,
        ConfigurationError,
        DataError,
        EvaluationError,
        ScoringError,
        ShardError,
        TrainingError,
    )
    from data.preferences.messages import Message, PreferenceRow
    from data.preferences.options import Reading
    from data.preferences.reader import PreferenceReader, read_preferences
    from data.preview.conversion import ConvertOptions, convert_data
    from data.preview.preview import PreviewOptions, preview_data
    from data.signals.dataset import SignalDataset
    from data.signals.rollouts import Rollout, RolloutDataset
    from data.signals.schema import ResponseIds, ResponseSignals
    from data.signals.shuffle import shuffled_pairs, split_pairs
    from data.storage.transfer import TransferResult, open_dataset, open_signals, pull_dataset, push_dataset
    from data.translation.command import SignalsTranslateOptions, translate_signals
    from data.translation.dataset import TranslationResult
    from evaluation.alpaca_eval.command import evaluate_alpaca_eval
    from evaluation.alpaca_eval.options import AlpacaEvalOptions
    from evaluation.benchmarks.options import BenchmarkOptions
    from evaluation.benchmarks.run import evaluate_benchmarks
    from evaluation.mt_bench.command import evaluate_mt_bench
    from evaluation.mt_bench.options import MtBenchOptions
    from evaluation.options import ReportOptions, SignalsEvaluationOptions, WinRateOptions
    from evaluation.report.page import write_run_report
    from evaluation.signals import evaluate_signals
    from evaluation.win_rate import evaluate_win_rate
    from student_training.held_out import measure_signals
    from student_training.methods import (
        METHODS,
        Method,
        MethodSettings,
        MethodSpec,
        Needs,
        SequenceTerm,
        Term,
        nll_term,
        setting,
    )
    from student_training.options import TrainOptions
    from student_training.result import TrainingResult
    from student_training.run import train_student
    from teacher_scoring.dry_run import ScoringPlan, plan_scoring
    from teacher_scoring.language_model import model_opener
    from teacher_scoring.options import SampleOptions, ScoreOptions
    from teacher_scoring.sample import SamplingResult, sample_student
    from teacher_scoring.score import ScoringResult, score_teacher

_HOMES = {
    "data.checks.verify": ("Finding", "verify_dataset"),
    "data.errors": (
        "AdpaError",
        "ConfigurationError",
        "DataError",
        "EvaluationError",
        "ScoringError",
        "ShardError",
        "TrainingError",
    ),
    "data.preferences.messages": ("Message", "PreferenceRow"),
    "data.preferences.options": ("Reading",),
    "data.preferences.reader": ("PreferenceReader", "read_preferences"),
    "data.preview.conversion": ("ConvertOptions", "convert_data"),
    "data.preview.preview": ("PreviewOptions", "preview_data"),
    "data.signals.dataset": ("SignalDataset",),
    "data.signals.rollouts": ("Rollout", "RolloutDataset"),
    "data.signals.schema": ("ResponseIds", "ResponseSignals"),
    "data.signals.shuffle": ("shuffled_pairs", "split_pairs"),
    "data.storage.transfer": (
        "TransferResult",
        "open_dataset",
        "open_signals",
        "pull_dataset",
        "push_dataset",
    ),
    "data.translation.command": ("SignalsTranslateOptions", "translate_signals"),
    "data.translation.dataset": ("TranslationResult",),
    "evaluation.alpaca_eval.command": ("evaluate_alpaca_eval",),
    "evaluation.alpaca_eval.options": ("AlpacaEvalOptions",),
    "evaluation.benchmarks.options": ("BenchmarkOptions",),
    "evaluation.benchmarks.run": ("evaluate_benchmarks",),
    "evaluation.mt_bench.command": ("evaluate_mt_bench",),
    "evaluation.mt_bench.options": ("MtBenchOptions",),
    "evaluation.options": ("ReportOptions", "SignalsEvaluationOptions", "WinRateOptions"),
    "evaluation.report.page": ("write_run_report",),
    "evaluation.signals": ("evaluate_signals",),
    "evaluation.win_rate": ("evaluate_win_rate",),
    "student_training.held_out": ("measure_signals",),
    "student_training.methods": (
        "METHODS",
        "Method",
        "MethodSettings",
        "MethodSpec",
        "Needs",
        "SequenceTerm",
        "Term",
        "nll_term",
        "setting",
    ),
    "student_training.options": ("TrainOptions",),
    "student_training.result": ("TrainingResult",),
    "student_training.run": ("train_student",),
    "teacher_scoring.dry_run": ("ScoringPlan", "plan_scoring"),
    "teacher_scoring.language_model": ("model_opener",),
    "teacher_scoring.options": ("SampleOptions", "ScoreOptions"),
    "teacher_scoring.sample": ("SamplingResult", "sample_student"),
    "teacher_scoring.score": ("ScoringResult", "score_teacher"),
}

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import an exported name from the file that defines it."""
    if name not in _HOME_OF:
        raise AttributeError(
            f"module 'adpa' has no attribute {name!r}; it exports {', '.join(sorted(_HOME_OF))}"
        )
    try:
        module = importlib.import_module(_HOME_OF[name])
    except ModuleNotFoundError as error:
        room = _HOME_OF[name].partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != room:
            raise
        raise ImportError(
            f"adpa.{name}: needs adpa's own package {room!r}, but Python finds {_place(room)}; rename that, or start"
            " Python in another folder (docs/decisions/0006-one-module-is-the-python-api.md)"
        ) from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """The exported names, for completion."""
    return sorted({*globals(), *_HOME_OF})


def _place(package: str) -> str:
    """What Python takes for a package."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return "none"
    return spec.origin or str(next(iter(spec.submodule_search_locations or ()), "another one"))


if __name__ == "__main__":
    from cli import main

    main()
