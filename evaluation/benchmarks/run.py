"""`adpa evaluate benchmarks`: tasks by checkpoints, each figure kept as it comes, and one table with differences."""

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from data.files import make_folder, write_atomic
from data.model_identity import resolve_model
from data.signals.fingerprint import fingerprint
from evaluation.benchmarks.harness import Harness, TaskFigures, harness_version
from evaluation.benchmarks.options import BenchmarkOptions
from evaluation.benchmarks.tasks import Benchmark, parse_benchmarks
from evaluation.language_model import model_labels
from evaluation.metrics.statistics import Estimate, PromptBootstrap
from evaluation.result_files import write_result
from evaluation.tables import markdown_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkDifference:
    """What a checkpoint does on a task, minus what the baseline does.

    Attributes:
        model: the checkpoint.
        task: the task or group.
        difference: in the unit of the figure, paired over questions; the interval is None where the figure is not a
            mean over questions.
        num_questions: that both answered.
    """

    model: str
    task: str
    difference: float
    interval: Estimate | None
    num_questions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmarks:
    """All figures of a run.

    Attributes:
        out: the folder.
        figures: by checkpoint, in the order of the tasks.
        baseline: label of the student before training; None without.
        differences: of every other checkpoint to it.
        table: the figures as Markdown.
        request: everything that determined them.
    """

    out: Path
    figures: Mapping[str, Sequence[TaskFigures]]
    baseline: str | None
    differences: Sequence[BenchmarkDifference]
    table: str
    request: Mapping[str, Any]


def evaluate_benchmarks(options: BenchmarkOptions) -> Benchmarks:
    """Run tasks on checkpoints; what an earlier run has in the folder with the same request is not run again.

    Raises:
        AdpaError: for models, tasks or data that cannot be used, or a harness that is not installed.
    """
    out = Path(options.out)
    benchmarks = parse_benchmarks(options.task)
    names = [*options.model, *(() if options.baseline is None else (options.baseline,))]
    labels = model_labels(list(dict.fromkeys(names)))
    common = {
        "backend": options.backend,
        "dtype": options.dtype,
        "model_args": options.model_args,
        "apply_chat_template": options.apply_chat_template,
        "limit": options.limit,
        "seed": options.seed,
        "versions": _versions(options.backend),
    }
    resolved = {
        name: resolve_model(name, option="--baseline" if name == options.baseline else "--model")
        for name in labels
    }
    harness: Harness | None = None
    figures: dict[str, list[TaskFigures]] = {}
    local_files = _content_of(options.task_folder)
    for name, label in labels.items():
        folder, identity = resolved[name]
        found = figures.setdefault(label, [])
        with contextlib.ExitStack() as stack:
            model = None
            for benchmark in benchmarks:
                request = {
                    **common,
                    "model": identity.as_dict(),
                    "task": dataclasses.asdict(benchmark),
                    "task_folder": local_files,
                }
                path = out / "tasks" / label.replace("/", "--") / f"{benchmark.task}.json"
                kept = _kept(path, fingerprint(request))
                if kept is None:
                    if harness is None:
                        harness = Harness(benchmarks, options)
                    if model is None:
                        logger.info("%s: loading", label)
                        model = harness.open_model(
                            folder, "--baseline" if name == options.baseline else "--model"
                        )
                        stack.callback(_free, model)
                    logger.info("%s: %s", label, _described(benchmark))
                    kept = harness.run(model, benchmark)
                    _keep(path, request, kept)
                found.append(kept)
            model = None
    baseline = None if options.baseline is None else labels[options.baseline]
    differences = _differences(figures, baseline, options.seed)
    request = {
        **common,
        "models": {labels[name]: identity.as_dict() for name, (_, identity) in resolved.items()},
        "tasks": [dataclasses.asdict(benchmark) for benchmark in benchmarks],
        "task_folder": local_files,
    }
    table = benchmark_table(figures, differences, baseline)
    result = {"figures": figures, "baseline": baseline, "differences": differences}
    write_result(out, kind="benchmarks", request=request, figures=result, table=table)
    return Benchmarks(
        out=out, figures=figures, baseline=baseline, differences=differences, table=table, request=request
    )


def recompute_benchmarks(out: Path, result: Mapping[str, Any]) -> str:
    """The table and the differences again, from the figures of every question in a result that `read_result` gave."""
    stored = result["figures"]
    figures = {model: [TaskFigures(**row) for row in rows] for model, rows in stored["figures"].items()}
    request, baseline = result["request"], stored["baseline"]
    differences = _differences(figures, baseline, int(request["seed"]))
    table = benchmark_table(figures, differences, baseline)
    found = {"figures": figures, "baseline": baseline, "differences": differences}
    write_result(out, kind="benchmarks", request=request, figures=found, table=table)
    return table


def benchmark_table(
    figures: Mapping[str, Sequence[TaskFigures]],
    differences: Sequence[BenchmarkDifference],
    baseline: str | None,
) -> str:
    """Tasks by checkpoints, in percent with standard errors, and the differences to the baseline."""
    models = list(figures)
    gaps = {(item.model, item.task): item for item in differences}
    header = ["task", "shots", "figure", "questions", *models]
    header += [f"{model} minus {baseline}" for model in models if baseline is not None and model != baseline]
    rows = []
    for place, first in enumerate(figures[models[0]]):
        row = [first.task, _shots(first), first.metric.removesuffix(",none"), f"{first.num_questions:,}"]
        row += [_value(figures[model][place]) for model in models]
        if baseline is not None:
            row += [_gap(gaps.get((model, first.task))) for model in models if model != baseline]
        rows.append(row)
    means = {model: [item.value for item in found] for model, found in figures.items()}
    if len(rows) > 1:
        average = {model: 100 * sum(values) / len(values) for model, values in means.items()}
        row = ["mean of the tasks", "", "", "", *(f"{average[model]:.2f}" for model in models)]
        if baseline is not None:
            row += [f"{average[model] - average[baseline]:+.2f}" for model in models if model != baseline]
        rows.append(row)
    return markdown_table(header, rows)


def _differences(
    figures: Mapping[str, Sequence[TaskFigures]], baseline: str | None, seed: int
) -> list[BenchmarkDifference]:
    if baseline is None:
        return []
    return [
        _difference(model, own, before, seed)
        for model, found in figures.items()
        if model != baseline
        for own, before in zip(found, figures[baseline], strict=True)
    ]


def _difference(model: str, own: TaskFigures, before: TaskFigures, seed: int) -> BenchmarkDifference:
    pairs = [
        (value, before.questions[task][question])
        for task, answered in own.questions.items()
        for question, value in answered.items()
        if question in before.questions.get(task, {})
    ]
    interval = None
    if pairs and own.metric == before.metric:
        gaps = np.array([value - earlier for value, earlier in pairs])
        bootstrap = PromptBootstrap(len(gaps), seed=seed)
        interval = Estimate(float(gaps.mean()), *bootstrap.interval(bootstrap.means(gaps)))
    return BenchmarkDifference(
        model=model,
        task=own.task,
        difference=own.value - before.value,
        interval=interval,
        num_questions=len(pairs),
    )


def _kept(path: Path, wanted: str) -> TaskFigures | None:
    """The figures of an earlier run, if they are those of this request."""
    try:
        content = json.loads(path.read_bytes())
        return TaskFigures(**content["figures"]) if content["fingerprint"] == wanted else None
    except (OSError, ValueError, KeyError, TypeError):
        # Missing, or of another version: run again.
        return None


def _keep(path: Path, request: Mapping[str, Any], figures: TaskFigures) -> None:
    make_folder(path.parent)
    content = {
        "fingerprint": fingerprint(request),
        "request": dict(request),
        "figures": dataclasses.asdict(figures),
    }
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def _free(model: Any) -> None:
    """Give a model's memory back before the next one is loaded."""
    if hasattr(model, "cleanup"):
        # The harness leaves vLLM's processes to the garbage collector otherwise.
        model.cleanup()
    del model
    gc.collect()


def _content_of(name: str | None) -> str | None:
    """Hash of the task descriptions and the data beside them."""
    if name is None or not (folder := Path(name)).is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ):
        digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _versions(backend: str) -> dict[str, str]:
    names = {"hf": "transformers", "vllm": "vllm"}
    versions = {"lm_eval": harness_version(), "adpa": _version("adpa")}
    return {**versions, names[backend]: _version(names[backend])}


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "unknown"


def _described(benchmark: Benchmark) -> str:
    shots = "its own number of" if benchmark.num_shots is None else benchmark.num_shots
    return f"{benchmark.task}, {shots} examples in the prompt"


def _shots(figures: TaskFigures) -> str:
    numbers = sorted(set(figures.num_shots.values()))
    return "/".join(map(str, numbers))


def _value(figures: TaskFigures) -> str:
    error = "" if figures.standard_error is None else f" ± {100 * figures.standard_error:.2f}"
    return f"{100 * figures.value:.2f}{error}"


def _gap(difference: BenchmarkDifference | None) -> str:
    if difference is None:
        return ""
    text = f"{100 * difference.difference:+.2f}"
    if (interval := difference.interval) is None:
        return text
    return f"{text} ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
