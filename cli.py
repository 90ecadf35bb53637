"""adpa: parse options, call one function, turn domain errors into exit codes."""

import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from data.commands import options as of_signals
from data.doctor import DoctorOptions, program_version
from data.early_checks import check_inputs
from data.errors import AdpaError, ConfigurationError
from data.options.click_options import CommandGroup, command_from
from data.preview.conversion import ConvertOptions
from data.preview.preview import PreviewOptions
from data.translation.command import SignalsTranslateOptions
from evaluation.alpaca_eval.options import AlpacaEvalOptions
from evaluation.benchmarks.options import BenchmarkOptions
from evaluation.mt_bench.options import MtBenchOptions
from evaluation.options import (
    ChatOptions,
    RecomputeOptions,
    ReportOptions,
    SignalsEvaluationOptions,
    WinRateOptions,
)
from small_world.options import DemoOptions
from student_training.options import TrainOptions
from teacher_scoring.options import MergeOptions, SampleOptions, ScoreOptions

logger = logging.getLogger("cli")

_EXIT_DOMAIN, _EXIT_USAGE, _EXIT_INTERRUPTED = 1, 2, 130


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(program_version(), prog_name="adpa")
def commands() -> None:
    """Teach a small language model a big one's preferences.

    score-teacher runs a big aligned model and its reference once; train-student trains small models from what it
    wrote, with no teacher in memory; evaluate tells whether they got better.
    """


_GROUPS = {
    "data": CommandGroup("data", help="Look at preference data, and convert it."),
    "signals": CommandGroup("signals", help="List, inspect, verify, translate and share signal datasets."),
    "evaluate": CommandGroup("evaluate", help="Find out whether a student got better, and by how much."),
}
for _group in _GROUPS.values():
    commands.add_command(_group)


#: Commands that import torch, for some seconds on a slow disk; a line says so, after the quick checks.
_SLOW_TO_START = {
    "chat",
    "demo",
    "evaluate benchmarks",
    "evaluate signals",
    "evaluate win-rate",
    "sample-student",
    "score-teacher",
    "signals translate",
    "train-student",
}


def function(address: str) -> Callable[..., Any]:
    """The function of an address `module:name`, imported when it is called: some bring libraries that take seconds."""

    def call(*arguments: Any, **named: Any) -> Any:
        module, name = address.split(":")
        return getattr(importlib.import_module(module), name)(*arguments, **named)

    return call


def command(
    path: str,
    options_class: type,
    run: str | Callable[[Any], Any],
    *examples: str,
    extra: tuple[click.Parameter, ...] = (),
) -> None:
    """Add a command.

    Args:
        path: its name, its group's before it.
        options_class: its options; the docstring is the text of its help.
        run: a function of these options, or its address; called after what the options name was looked for.
        *examples: command lines, without the command itself where they begin with it.
        extra: parameters beside the options.
    """
    *group, name = path.split()
    target = function(run) if isinstance(run, str) else run

    def checked(options: Any) -> Any:
        check_inputs(options, complete=path != "signals verify")  # which reports what is missing
        if path in _SLOW_TO_START:
            logger.info("%s: loading libraries", path)
        return target(options)

    lines = [
        text if text.startswith(("cat ", "eval ")) else f"adpa {path} {text}".rstrip() for text in examples
    ]
    made = command_from(options_class, checked, name, examples=lines, extra=extra)
    (_GROUPS[group[0]] if group else commands).add_command(made)


def with_models(address: str) -> Callable[[Any], Any]:
    """A function of an evaluation's options and of what opens checkpoints in an engine of stage one, as these say."""

    def run(options: Any) -> Any:
        return function(address)(options, function("teacher_scoring.language_model:model_opener")(options))

    return run


def or_plan(plan: str, run: str) -> Callable[[Any], Any]:
    """The function of the second address; with --dry-run that of the first."""
    return lambda options: function(plan if options.dry_run else run)(options)


# --- What runs a model or trains one

command(
    "demo",
    DemoOptions,
    "small_world.demo:run_demo",
    "",
    "--fast --out runs/demo-fast",
    "--seed 1 --out runs/seed-1",
)

command(
    "score-teacher",
    ScoreOptions,
    or_plan("teacher_scoring.dry_run:plan_scoring", "teacher_scoring.score:score_teacher"),
    "--teacher my-org/dpo --reference my-org/sft --data argilla/dpo-mix-7k --out signals/pairs",
    "--teacher my-org/dpo --data pairs.jsonl --dry-run",
    "--teacher my-org/dpo --reference my-org/sft --data pairs.jsonl \\\n"
    "--rollouts rollouts/dckd --score student --out signals/answers",
)

command(
    "sample-student",
    SampleOptions,
    "teacher_scoring.sample:sample_student",
    "--student runs/dckd --data argilla/dpo-mix-7k --out rollouts/dckd",
    "--student runs/dckd --data prompts.jsonl -n 4 --temperature 0.7 --out rollouts/four",
    "--student runs/dckd --data prompts.jsonl --temperature 0 --out rollouts/greedy",
)


def _show_method(ctx: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None and not ctx.resilient_parsing:
        method = function("student_training.methods:find_method")(name)
        click.echo(function("student_training.methods.describe:describe_method")(method))
        ctx.exit()


command(
    "train-student",
    TrainOptions,
    or_plan("student_training.run:plan_training", "student_training.run:train_student"),
    "--signals signals/pairs --student my-org/small-sft --method abd --out runs/abd",
    "--signals signals/answers --student runs/dckd --method adpa --out runs/adpa-plus",
    "--data argilla/dpo-mix-7k --student my-org/small --method sft --lr 2e-5 --out runs/sft",
    extra=(
        click.Option(
            ["--help-method"],
            metavar="METHOD",
            is_eager=True,
            expose_value=False,
            callback=_show_method,
            help="the settings that one method reads, and their defaults",
        ),
    ),
)

# --- Preference data


def _preview(options: PreviewOptions) -> Any:
    result = function("data.preview.preview:preview_data")(options, load_tokenizer=_load_tokenizer)
    return function("data.preview.rendering:rendered_here")(result)


def _load_tokenizer(folder: str | Path, trust_remote_code: bool) -> Any:
    load = importlib.import_module("teacher_scoring.engines.tokenizer").load_tokenizer
    return load(Path(folder), option="--tokenizer", trust_remote_code=trust_remote_code)


command(
    "data preview", PreviewOptions, _preview, "pairs.jsonl", "argilla/dpo-mix-7k --tokenizer my-org/small-sft"
)
command(
    "data convert", ConvertOptions, "data.preview.conversion:convert_data", "hh.jsonl --out pairs.parquet"
)

# --- Signal datasets


def _verify(options: of_signals.SignalsVerifyOptions) -> Any:
    rescore = function("teacher_scoring.rescoring:rescore_sample")
    return function("data.commands.signals:verify_signals")(options, rescore)


def _translate(options: SignalsTranslateOptions) -> Any:
    load = functools.partial(_load_tokenizer, trust_remote_code=options.trust_remote_code)
    return function("data.translation.command:translate_signals")(options, load)


_SIGNALS = "data.commands.signals"
for _name, _options_class, _run, _example in (
    ("list", of_signals.SignalsListOptions, f"{_SIGNALS}:list_signals", ""),
    ("inspect", of_signals.SignalsInspectOptions, f"{_SIGNALS}:inspect_signals", "signals/pairs"),
    ("verify", of_signals.SignalsVerifyOptions, _verify, "signals/pairs --repair"),
    ("report", of_signals.SignalsReportOptions, f"{_SIGNALS}:report_signals", "signals/pairs"),
    ("pull", of_signals.SignalsPullOptions, f"{_SIGNALS}:pull_signals", "s3://bucket/pairs signals/pairs"),
    ("push", of_signals.SignalsPushOptions, f"{_SIGNALS}:push_signals", "signals/pairs s3://bucket/pairs"),
    ("prune", of_signals.SignalsPruneOptions, f"{_SIGNALS}:prune_signals", "--unused-days 30 --dry-run"),
):
    command(f"signals {_name}", _options_class, _run, _example)
command(
    "signals translate",
    SignalsTranslateOptions,
    _translate,
    "signals/teacher --tokenizer my-org/other-student --out signals/other",
)
command("signals merge", MergeOptions, "teacher_scoring.build.merge:merge_dataset", "signals/pairs")

# --- Evaluation


def _evaluate_signals(options: SignalsEvaluationOptions) -> Any:
    measure = function("student_training.held_out:measure_signals")
    return function("evaluation.signals:evaluate_signals")(options, measure)


command(
    "evaluate win-rate",
    WinRateOptions,
    with_models("evaluation.win_rate:evaluate_win_rate"),
    "--model runs/abd --model runs/dckd --baseline my-org/small-sft \\\n"
    "--data prompts.jsonl --judge-url http://localhost:8000/v1 --judge-model judge --out runs/wins",
)
command(
    "evaluate signals",
    SignalsEvaluationOptions,
    _evaluate_signals,
    "--signals signals/held-out --model runs/abd --model runs/dckd",
)
command(
    "evaluate alpaca-eval",
    AlpacaEvalOptions,
    with_models("evaluation.alpaca_eval.command:evaluate_alpaca_eval"),
    "--annotations annotations.json --outputs model_outputs.json --out runs/alpaca",
)
command(
    "evaluate mt-bench",
    MtBenchOptions,
    with_models("evaluation.mt_bench.command:evaluate_mt_bench"),
    "--judgments gpt-4_single.jsonl --out runs/mt-bench",
)
command(
    "evaluate recompute",
    RecomputeOptions,
    lambda options: function("evaluation.recompute:recompute")(Path(options.folder)),
    "runs/wins",
)
command(
    "evaluate benchmarks",
    BenchmarkOptions,
    "evaluation.benchmarks.run:evaluate_benchmarks",
    "--model runs/abd --baseline my-org/small-sft \\\n--task arc_challenge:25 --task ifeval --out runs/bench",
)
command(
    "report",
    ReportOptions,
    "evaluation.report.page:write_run_report",
    "runs/abd runs/dckd runs/wins --out report.html",
)
command(
    "chat",
    ChatOptions,
    with_models("evaluation.chat:chat_here"),
    "runs/abd my-org/small-sft",
    "cat prompts.txt | adpa chat runs/abd",
)

# --- The program itself


def _completion(options: of_signals.CompletionOptions) -> str:
    made = get_completion_class(options.shell)
    assert made is not None, "the choices are the shells that click knows"
    return made(commands, {}, "adpa", "_ADPA_COMPLETE").source()


command("doctor", DoctorOptions, "data.doctor:diagnose", "", "--json")
command(
    "explain",
    of_signals.ExplainOptions,
    lambda options: function("student_training.monitoring.glossary:explain_metric")(options.metric),
    "expected_advantage",
)
command(
    "completion",
    of_signals.CompletionOptions,
    _completion,
    'eval "$(adpa completion bash)"',
    "fish | source",
)


def main() -> None:
    """Run the command line; the only place where errors become exit codes."""
    # A warning about forked tokenizers that nobody here could act on.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(_EXIT_USAGE)
    except ConfigurationError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_USAGE)
    except AdpaError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_EXIT_DOMAIN)
    except (KeyboardInterrupt, click.Abort) as error:
        # click wraps the interrupt; training's own says what the same command will do.
        said = str(error if isinstance(error, KeyboardInterrupt) else error.__cause__ or "")
        click.echo(said or "interrupted; the same command continues where this one stopped", err=True)
        sys.exit(_EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
