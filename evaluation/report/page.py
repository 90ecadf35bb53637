"""`adpa report`: training runs and evaluations as one self-contained HTML page.

The tables are in the HTML itself and can be read without the script; the script draws the curves and changes the sample
answers. What it reads is one JSON element. The page's look is that of `signals report`, whose stylesheet comes first.
"""

import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from data.errors import ConfigurationError
from data.files import write_atomic
from evaluation.options import ReportOptions
from evaluation.report.collect import Collection, Evaluation, TrainingRun, collect_runs
from evaluation.report.evaluations import describe_evaluation

_GENERATOR = '<meta name="generator" content="adpa report">'

# Points that a curve keeps; more than the pixels it is drawn on.
_MOST_POINTS = 1200

#: Terms that come first, in this order; the others follow by name.
_FIRST = (
    "loss",
    "eval_loss",
    "expected_advantage",
    "teacher_expected_advantage",
    "advantage_coverage",
    "entropy",
)

#: Terms about the run and not about what it learns; they come last.
_LAST = (
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "data_share",
    "tflops",
    "model_flops_utilisation",
    "epoch",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A page that was written.

    Attributes:
        path: the file.
        num_runs: training runs on it.
        num_evaluations: evaluations on it.
    """

    path: Path
    num_runs: int
    num_evaluations: int

    def __str__(self) -> str:
        runs = f"{self.num_runs:,} training run{'' if self.num_runs == 1 else 's'}"
        evaluations = f"{self.num_evaluations:,} evaluation{'' if self.num_evaluations == 1 else 's'}"
        return f"{self.path}: {runs}, {evaluations}"

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {**asdict(self), "path": str(self.path)}


def write_run_report(options: ReportOptions) -> RunReport:
    """Write the page of some runs and evaluations.

    Raises:
        ConfigurationError: where a file that is no such page would be overwritten.
        EvaluationError: for folders without runs and evaluations.
        ShardError: when the file cannot be written.
    """
    out = Path(options.out)
    if out.exists() and not options.force and not _is_ours(out):
        raise ConfigurationError(
            f"--out: {out} exists and is not a page of this command; give another name, or --force to replace it"
        )
    collection = collect_runs(options.run, num_samples=options.samples, signals=options.signals)
    write_atomic(out, render_page(collection))
    return RunReport(path=out, num_runs=len(collection.runs), num_evaluations=len(collection.evaluations))


def render_page(collection: Collection) -> str:
    """The page's HTML."""
    sections = []
    if collection.runs:
        sections.append(_training(collection.runs))
    sections += [
        describe_evaluation(evaluation, number) for number, evaluation in enumerate(collection.evaluations)
    ]
    title = _title(collection)
    data = {
        "runs": [{"name": run.name, "curves": _thinned(run)} for run in collection.runs],
        "evaluations": [{"samples": _samples(evaluation)} for evaluation in collection.evaluations],
    }
    # `</script>` in an answer must not end the element.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    ours, shared = (importlib.resources.files(name) for name in ("evaluation.report", "data.report"))
    style = "".join((folder / "style.css").read_text(encoding="utf-8") for folder in (shared, ours))
    page = Template((ours / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(title),
        style=style,
        body="\n".join([f"<h1>{escape(title)}</h1>", *sections]),
        data=text,
        script=(ours / "script.js").read_text(encoding="utf-8"),
    )


def _is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _GENERATOR in file.read(4096)
    except OSError:
        return False


def _title(collection: Collection) -> str:
    parts = []
    if count := len(collection.runs):
        parts.append(f"{count} training run{'s' if count > 1 else ''}")
    if count := len(collection.evaluations):
        parts.append(f"{count} evaluation{'s' if count > 1 else ''}")
    return " and ".join(parts)


def _samples(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [asdict(sample) for sample in evaluation.samples]


def _thinned(run: TrainingRun) -> dict[str, tuple[list[float], list[float]]]:
    """Curves of at most `_MOST_POINTS` points: means over equal stretches of points, at the last step of each."""
    thinned = {}
    for term, (steps, values) in run.curves.items():
        size = -(-len(steps) // _MOST_POINTS)
        stretches = range(0, len(steps), size)
        means = [float(f"{_mean(values[start : start + size]):.6g}") for start in stretches]
        thinned[term] = ([steps[min(start + size, len(steps)) - 1] for start in stretches], means)
    return thinned


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _training(runs: Sequence[TrainingRun]) -> str:
    found = {term for run in runs for term in run.curves}
    learned = sorted(found - {*_FIRST, *_LAST})
    first = [term for term in _FIRST if term in found]
    last = [term for term in _LAST if term in found]
    legend = "".join(
        f'<label><input type="checkbox" value="{number}" checked><svg aria-hidden="true" viewBox="0 0 26 10"></svg>'
        f"{escape(run.name)}</label>"
        for number, run in enumerate(runs)
    )
    charts = "".join(_chart(term) for term in [*first, *learned])
    other = "".join(_chart(term) for term in last)
    return f"""<h2>Training</h2>
{_runs_table(runs)}
<div class="sticky"><fieldset class="legend"><legend>Show</legend>{legend}</fieldset>
<div class="controls"><label for="smoothing">Smoothing</label>
<input type="range" id="smoothing" min="0" max="99" value="0"><output id="smoothing-value" for="smoothing">off</output>
</div></div>
<p class="muted">Point at a curve for its values, or choose a chart with the Tab key and move with the arrow keys.</p>
<div class="charts">{charts}</div>
<details><summary>Learning rate, gradient, speed</summary><div class="charts">{other}</div></details>"""


def _chart(term: str) -> str:
    name = escape(term)
    return (
        f'<div class="chart" data-term="{name}"><h3>{name}</h3>'
        f'<svg viewBox="0 0 440 220" tabindex="0" role="img" aria-label="{name} by step; arrow keys read values">'
        '</svg><div class="readout" aria-live="polite"></div></div>'
    )


def _runs_table(runs: Sequence[TrainingRun]) -> str:
    """What was run, and the last value of every important term: the curves as numbers, without a script."""
    terms = [term for term in _FIRST if any(term in run.curves for run in runs)]
    settings = list(dict.fromkeys(name for run in runs for name in run.settings))
    # What all runs share tells nothing apart; the method is always wanted.
    telling = [
        name
        for name in settings
        if name == "method" or len({str(run.settings.get(name)) for run in runs}) > 1
    ]
    header = ["run", "state", *telling, "steps", *(f"last {term}" for term in terms)]
    numeric = {"steps", *(f"last {term}" for term in terms)}
    head = "".join(
        f'<th scope="col"{" class=number" if name in numeric else ""}>{escape(name.replace("_", " "))}</th>'
        for name in header
    )
    rows = []
    for run in runs:
        state = "finished" if run.is_finished else "not finished"
        if run.num_damaged:
            state += f", {run.num_damaged} damaged lines"
        cells = [f'<th scope="row">{escape(run.name)}</th>', f'<td><span class="state">{state}</span></td>']
        cells += [f"<td>{escape(_shown(run.settings.get(name)))}</td>" for name in telling]
        cells.append(f'<td class="number">{run.last_step:,}</td>')
        for term in terms:
            values = run.curves.get(term, ([], []))[1]
            cells.append(f'<td class="number">{f"{values[-1]:.4g}" if values else ""}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Training runs"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
