"""The whole comparison: make every model, judge it as soon as it is there, write tables and numbers."""

import json
import textwrap
from collections.abc import Sequence

from benchmarks.real_text.distributions import Distributions
from benchmarks.real_text.judging import TEMPERATURES, Comparison, Judged, judge
from benchmarks.real_text.pipeline import Pipeline
from benchmarks.real_text.sizes import ONLY_FOR_TUNING, SHOWN, Trained
from benchmarks.real_text.tables import COOLED, COOLED_ENTROPY, all_tables
from data.files import write_atomic
from evaluation.options import SignalsEvaluationOptions
from evaluation.signals import evaluate_signals
from student_training.held_out import measure_signals

# Each to another prompt.
_FLUENCY_ANSWERS, _ENTROPY_ANSWERS = 32, 64

_EXAMPLES = 4

#: Figures of `adpa evaluate signals` that the table of guards has, under their names there.
_FIGURES = {
    "kl/chosen": "KL to teacher, nats",
    "implicit_accuracy": "implicit accuracy",
}


def compare(pipeline: Pipeline, methods: Sequence[Trained], *, any_teacher: bool = False) -> Comparison:
    """Make every model, and value its answers by temperature.

    Args:
        pipeline: makes the models.
        methods: rows of the table after reference, teacher and student.
        any_teacher: go on with a teacher that is no better than its reference.
    Raises:
        SystemExit: when the teacher is no better than its reference: nothing to teach.
    """
    pipeline.make_teacher()
    if not any_teacher:
        check_teacher(judge(pipeline, "teacher", 1.0), judge(pipeline, "reference", 1.0))
    pipeline.make_student()
    _say(pipeline, "student")
    for method in methods:
        pipeline.make_method(method)
        _say(pipeline, method.name)
    models = ("reference", "teacher", "student", *(method.name for method in methods))
    return {
        model: {temperature: judge(pipeline, model, temperature) for temperature in TEMPERATURES}
        for model in models
    }


def check_teacher(teacher: Judged, reference: Judged) -> None:
    """Refuse a teacher that is no better than its reference.

    Raises:
        SystemExit: with both rewards.
    """
    ours, theirs = teacher.mean().value, reference.mean().value
    if ours <= theirs:
        raise SystemExit(
            f"the teacher earns {ours:.3f}, its reference {theirs:.3f}: nothing to teach; give it other steps or "
            "another rate in benchmarks/real_text/sizes.py, or go on with --any-teacher"
        )


def _say(pipeline: Pipeline, model: str) -> None:
    """Print what a model is worth as soon as it is there."""
    means = [
        f"{judge(pipeline, model, temperature).mean().value:.3f} at {temperature:g}"
        for temperature in (1.0, 0.0)
    ]
    print(f"{model}: reward {', '.join(means)}", flush=True)


def write_results(pipeline: Pipeline, judged: Comparison) -> None:
    """Write table.md and results.json, and print the table."""
    figures = _figures(pipeline, [model for model in judged if model not in ONLY_FOR_TUNING])
    numbers = {
        model: {
            **figures.get(model, {}),
            **{
                f"{temperature:g}": {
                    "rewards": each.rewards.tolist(),
                    "tokens": each.tokens,
                    "finished": each.finished,
                    "nll": each.nll,
                }
                for temperature, each in found.items()
            },
        }
        for model, found in judged.items()
    }
    write_atomic(pipeline.out / "results.json", json.dumps(numbers) + "\n")
    write_atomic(
        pipeline.out / "examples.md", _examples(pipeline, [model for model in judged if model in SHOWN])
    )
    tables = "\n\n".join(all_tables([pipeline.out]).values())
    write_atomic(pipeline.out / "table.md", tables + "\n")
    print(tables)


def _examples(pipeline: Pipeline, models: Sequence[str]) -> str:
    """What the main models answer greedily to the first held-out prompts, with the reward."""
    lines = []
    for prompt in pipeline.held_out[:_EXAMPLES]:
        lines += [f"**{prompt.text}**", ""]
        for model in models:
            answer = pipeline.answers(model, 0.0)[prompt.id][0]
            reward = pipeline.world.reward(prompt, answer.text, answer.finished)
            text = " / ".join(answer.text.split("\n")) + ("" if answer.finished else " ...")
            lines.append(textwrap.fill(f"- {model} ({reward:.2f}): {text}", 118, subsequent_indent="  "))
        lines.append("")
    return "\n".join(lines[:-1])


def _figures(pipeline: Pipeline, models: Sequence[str]) -> dict[str, dict[str, float]]:
    """Fluency and entropy of every model, and what held-out signals say of it; kept by model."""
    folder = pipeline.out / "figures"
    folder.mkdir(exist_ok=True)
    files = {model: folder / f"{pipeline.model(model).name}.json" for model in models}
    missing = [model for model in models if not files[model].exists()]
    if missing:
        held_out = _held_out(pipeline, missing)
        untouched = Distributions(pipeline.model("reference"))
        for model in missing:
            answers = pipeline.held_out_rows(model, 1.0)[:_FLUENCY_ANSWERS]
            cooled = pipeline.held_out_rows(model, COOLED)[:_ENTROPY_ANSWERS]
            found = {
                "fluency, nats": untouched.mean_logprob(answers),
                COOLED_ENTROPY: Distributions(pipeline.model(model)).mean_entropy(cooled, COOLED),
            }
            write_atomic(files[model], json.dumps(found | held_out[model]))
    return {model: json.loads(file.read_text(encoding="utf-8")) for model, file in files.items()}


def _held_out(pipeline: Pipeline, models: Sequence[str]) -> dict[str, dict[str, float]]:
    options = SignalsEvaluationOptions(
        signals=str(pipeline.score_held_out()),
        model=tuple(str(pipeline.model(model)) for model in models if model != "student"),
        baseline=str(pipeline.model("student")),
    )
    measured = evaluate_signals(options, measure_signals).models
    # The baseline comes first.
    names = ["student", *(model for model in models if model != "student")]
    return {
        name: {_FIGURES[each.name]: each.value.value for each in one.figures if each.name in _FIGURES}
        for name, one in zip(names, measured, strict=True)
    }
