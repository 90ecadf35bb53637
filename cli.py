"""adpa: parse options, call one function, turn domain errors into exit codes."""

import functools
import logging
import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from data import commands as signal_commands
from data.commands import signals as signal_functions
from data.doctor import DoctorOptions, diagnose
from data.early_checks import check_inputs
from data.errors import AdpaError, ConfigurationError
from data.options.click_options import CommandGroup, OptionsCommand, command_from
from data.options.results import Rendered
from data.options.tool_options import CompletionOptions, ExplainOptions
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

__all__ = ["main"]

_EXIT_DOMAIN, _EXIT_USAGE, _EXIT_INTERRUPTED = 1, 2, 130

logger = logging.getLogger("cli")


def command(
    options_class: type,
    *examples: str,
    group: click.Group | None = None,
    extra: tuple[click.Parameter, ...] = (),
) -> Callable[[Callable[[Any], Any]], OptionsCommand]:
    """Decorate a function of one options dataclass: it becomes the command of its own name, with examples."""

    def decorate(function: Callable[[Any], Any]) -> OptionsCommand:
        name = function.__name__.strip("_").replace("_", "-")
        made = command_from(
            options_class, checked(function), name, function.__doc__, examples=examples, extra=extra
        )
        (group or commands).add_command(made)
        return made

    return decorate


def checked(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Look for what the options name before the function imports libraries that take seconds."""

    @functools.wraps(function)
    def run(options: Any) -> Any:
        check_inputs(options)
        return function(options)

    return run


def _installed_version() -> str:
    try:
        return version("adpa")
    except PackageNotFoundError:
        return "from a checkout"


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(_installed_version(), prog_name="adpa")
def commands() -> None:
    """Teach a small language model a big one's preferences.

    score-teacher runs a big aligned model and its reference once; train-student trains small models from what it
    wrote, with no teacher in memory; evaluate tells whether they got better.
    """


@command(
    DemoOptions, "adpa demo", "adpa demo --fast --out runs/demo-fast", "adpa demo --seed 1 --out runs/seed-1"
)
def demo(options: DemoOptions) -> Any:
    """Run the whole pipeline on a small world. It makes that itself: no network, no GPU."""
    from small_world.demo import run_demo  # noqa: PLC0415  (each command imports its own heavy libraries)

    return run_demo(options)


@command(
    ScoreOptions,
    "adpa score-teacher --teacher my-org/dpo --reference my-org/sft --data argilla/dpo-mix-7k --out signals/pairs",
    "adpa score-teacher --teacher my-org/dpo --data pairs.jsonl --dry-run",
    "adpa score-teacher --teacher my-org/dpo --reference my-org/sft --data pairs.jsonl \\\n"
    "--rollouts rollouts/dckd --score student --out signals/answers",
)
def score_teacher(options: ScoreOptions) -> Any:
    """Score responses with teacher and reference. Writes a signal dataset; the same line again continues it."""
    if options.dry_run:
        from teacher_scoring.dry_run import plan_scoring  # noqa: PLC0415

        return plan_scoring(options)
    from teacher_scoring.score import score_teacher as run  # noqa: PLC0415

    return run(options)


@command(
    SampleOptions,
    "adpa sample-student --student runs/dckd --data argilla/dpo-mix-7k --out rollouts/dckd",
    "adpa sample-student --student runs/dckd --data prompts.jsonl -n 4 --temperature 0.7 --out rollouts/four",
    "adpa sample-student --student runs/dckd --data prompts.jsonl --temperature 0 --out rollouts/greedy",
)
def sample_student(options: SampleOptions) -> Any:
    """Sample a student's responses to prompts. Writes rollouts, which score-teacher reads."""
    from teacher_scoring.sample import sample_student as run  # noqa: PLC0415

    return run(options)


def _show_method(ctx: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None and not ctx.resilient_parsing:
        from student_training.methods import find_method  # noqa: PLC0415
        from student_training.methods.describe import describe_method  # noqa: PLC0415

        click.echo(describe_method(find_method(name)))
        ctx.exit()


@command(
    TrainOptions,
    "adpa train-student --signals signals/pairs --student my-org/small-sft --method abd --out runs/abd",
    "adpa train-student --signals signals/answers --student runs/dckd --method adpa --out runs/adpa-plus",
    "adpa train-student --data argilla/dpo-mix-7k --student my-org/small --method sft --lr 2e-5 --out runs/sft",
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
def train_student(options: TrainOptions) -> Any:
    """Train a student from signal datasets. Or from preference data, for methods without a teacher."""
    from student_training.run import plan_training  # noqa: PLC0415
    from student_training.run import train_student as run  # noqa: PLC0415

    return plan_training(options) if options.dry_run else run(options)


@commands.group("data", cls=CommandGroup)
def data_commands() -> None:
    """Look at preference data, and convert it."""


@command(
    PreviewOptions,
    "adpa data preview pairs.jsonl",
    "adpa data preview argilla/dpo-mix-7k --tokenizer my-org/small-sft",
    group=data_commands,
)
def preview(options: PreviewOptions) -> Any:
    """Show what a preference file is taken for: its form, three examples, lengths, and what would be dropped."""
    from data.preview.preview import preview_data  # noqa: PLC0415
    from data.preview.rendering import render_preview  # noqa: PLC0415

    def load_tokenizer(name: str, trust_remote_code: bool) -> Any:
        from teacher_scoring.engines.tokenizer import load_tokenizer as load  # noqa: PLC0415

        return load(Path(name), option="--tokenizer", trust_remote_code=trust_remote_code)

    result = preview_data(options, load_tokenizer=load_tokenizer)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return Rendered(result, render_preview(result, colour=colour))


@command(ConvertOptions, "adpa data convert hh.jsonl --out pairs.parquet", group=data_commands)
def convert(options: ConvertOptions) -> Any:
    """Write a preference file of any form in the one that every tool reads."""
    from data.preview.conversion import convert_data  # noqa: PLC0415

    return convert_data(options)


@commands.group(cls=CommandGroup)
def signals() -> None:
    """List, inspect, verify, translate and share signal datasets."""


def _verify(options: signal_commands.SignalsVerifyOptions) -> Any:
    def rescore(folder: Path, options: signal_commands.SignalsVerifyOptions) -> Any:
        from teacher_scoring.rescoring import rescore_sample  # noqa: PLC0415

        return rescore_sample(folder, options)

    return signal_functions.verify_signals(options, rescore=rescore)


for _name, _options_class, _function, _example in (
    ("list", signal_commands.SignalsListOptions, signal_functions.list_signals, ""),
    ("inspect", signal_commands.SignalsInspectOptions, signal_functions.inspect_signals, "signals/pairs"),
    ("verify", signal_commands.SignalsVerifyOptions, _verify, "signals/pairs --repair"),
    ("report", signal_commands.SignalsReportOptions, signal_functions.report_signals, "signals/pairs"),
    (
        "pull",
        signal_commands.SignalsPullOptions,
        signal_functions.pull_signals,
        "s3://bucket/pairs signals/pairs",
    ),
    (
        "push",
        signal_commands.SignalsPushOptions,
        signal_functions.push_signals,
        "signals/pairs s3://bucket/pairs",
    ),
    (
        "prune",
        signal_commands.SignalsPruneOptions,
        signal_functions.prune_signals,
        "--unused-days 30 --dry-run",
    ),
):
    signals.add_command(
        command_from(_options_class, _function, _name, examples=[f"adpa signals {_name} {_example}".rstrip()])
    )


@command(
    SignalsTranslateOptions,
    "adpa signals translate signals/teacher --tokenizer my-org/other-student --out signals/other",
    group=signals,
)
def translate(options: SignalsTranslateOptions) -> Any:
    """Put a signal dataset on another tokenizer's ids. No model and no GPU: bytes of tokens are aligned."""
    from data.translation.command import translate_signals  # noqa: PLC0415
    from teacher_scoring.engines.tokenizer import load_tokenizer  # noqa: PLC0415

    return translate_signals(
        options,
        functools.partial(load_tokenizer, option="--tokenizer", trust_remote_code=options.trust_remote_code),
    )


@command(MergeOptions, "adpa signals merge signals/pairs", group=signals)
def merge(options: MergeOptions) -> Any:
    """Complete a dataset made in parts. They are what runs of score-teacher with --shard-range wrote."""
    from teacher_scoring.build.merge import merge_parts  # noqa: PLC0415

    merged = merge_parts(Path(options.dataset))
    counts = {"out": options.dataset, "responses": merged.num_rows, "pairs": merged.num_pairs}
    return Rendered(counts, f"{options.dataset}: {merged.num_rows:,} responses of {merged.num_pairs:,} pairs")


@commands.group(cls=CommandGroup)
def evaluate() -> None:
    """Find out whether a student got better, and by how much."""


def _model_opener(options: Any) -> Callable[..., Any]:
    """Checkpoints in an engine of stage one, as an evaluation's options say."""
    from teacher_scoring.language_model import open_language_model  # noqa: PLC0415

    return functools.partial(
        open_language_model,
        engine=options.engine,
        max_length=options.max_length,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        tensor_parallel_size=options.tensor_parallel_size,
        gpu_memory_utilization=options.gpu_memory_utilization,
        engine_args=options.engine_arg,
    )


@command(
    WinRateOptions,
    "adpa evaluate win-rate --model runs/abd --model runs/dckd --baseline my-org/small-sft \\\n"
    "--data prompts.jsonl --judge-url http://localhost:8000/v1 --judge-model judge --out runs/wins",
    group=evaluate,
)
def win_rate(options: WinRateOptions) -> Any:
    """Compare models' answers pair by pair. Both orders are judged; the same line again continues."""
    from evaluation.win_rate import evaluate_win_rate  # noqa: PLC0415

    return evaluate_win_rate(options, _model_opener(options))


@command(
    SignalsEvaluationOptions,
    "adpa evaluate signals --signals signals/held-out --model runs/abd --model runs/dckd",
    group=evaluate,
)
def _signals(options: SignalsEvaluationOptions) -> Any:
    """Measure checkpoints on held-out signals: likelihood, KL, expected advantage, preferences. No generation."""
    from evaluation.signals import evaluate_signals  # noqa: PLC0415
    from student_training.held_out import measure_signals  # noqa: PLC0415

    return evaluate_signals(options, measure_signals)


@command(
    AlpacaEvalOptions,
    "adpa evaluate alpaca-eval --annotations annotations.json --model-outputs model_outputs.json --out runs/alpaca",
    group=evaluate,
)
def alpaca_eval(options: AlpacaEvalOptions) -> Any:
    """Answer, judge or count AlpacaEval 2: its file forms, its figures, its length control.

    Its question and calibration files are yours to bring. What was answered and judged before is not asked again.
    """
    from evaluation.alpaca_eval.command import evaluate_alpaca_eval  # noqa: PLC0415

    return evaluate_alpaca_eval(options, _model_opener(options))


@command(
    MtBenchOptions,
    "adpa evaluate mt-bench --judgments gpt-4_single.jsonl --out runs/mt-bench",
    group=evaluate,
)
def mt_bench(options: MtBenchOptions) -> Any:
    """Answer, judge or count MT-Bench: FastChat's file forms, its tables, scores or comparisons.

    Its question file is yours to bring. What was answered and judged before is not asked again.
    """
    from evaluation.mt_bench.command import evaluate_mt_bench  # noqa: PLC0415

    return evaluate_mt_bench(options, _model_opener(options))


@command(RecomputeOptions, "adpa evaluate recompute runs/wins", group=evaluate)
def recompute(options: RecomputeOptions) -> Any:
    """Compute a folder's figures again from its stored judgments. No model and no judge is asked."""
    from evaluation.recompute import recompute as run  # noqa: PLC0415

    return run(Path(options.folder))


@command(
    BenchmarkOptions,
    "adpa evaluate benchmarks --model runs/abd --baseline my-org/small-sft \\\n"
    "--tasks arc_challenge,ifeval --out runs/bench",
    group=evaluate,
)
def benchmarks(options: BenchmarkOptions) -> Any:
    """Run public benchmarks on checkpoints, through lm-evaluation-harness (the extra [eval]).

    Or tasks of your own, in the harness's form. What is in --out already is not run again.
    """
    from evaluation.benchmarks.run import evaluate_benchmarks  # noqa: PLC0415

    return evaluate_benchmarks(options)


@command(ReportOptions, "adpa report runs/abd runs/dckd runs/wins --out report.html")
def report(options: ReportOptions) -> Any:
    """Write one HTML page over training runs and evaluations, also unfinished ones."""
    from evaluation.report.page import write_run_report  # noqa: PLC0415

    return write_run_report(options)


@command(ChatOptions, "adpa chat runs/abd my-org/small-sft", "cat prompts.txt | adpa chat runs/abd")
def chat(options: ChatOptions) -> None:
    """Talk to one or several checkpoints side by side. Off a terminal every line of standard input is answered."""
    from evaluation.chat import run_chat, typed_lines  # noqa: PLC0415

    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    run_chat(
        options,
        _model_opener(options),
        lines=typed_lines() if on_terminal else sys.stdin,
        write=click.echo,
        columns=shutil.get_terminal_size().columns if on_terminal else None,
    )


@command(DoctorOptions, "adpa doctor", "adpa doctor --json")
def doctor(options: DoctorOptions) -> Any:
    """Say what this machine has: libraries, cards, disk, hub access; for people and for bug reports."""
    return diagnose(options)


@command(ExplainOptions, "adpa explain expected_advantage")
def explain(options: ExplainOptions) -> Any:
    """Say what a metric of a training run means, which way is good, and when to worry."""
    from student_training.monitoring.glossary import explain_metric  # noqa: PLC0415

    return explain_metric(options.metric)


@command(CompletionOptions, 'eval "$(adpa completion bash)"', "adpa completion fish | source")
def completion(options: CompletionOptions) -> Any:
    """Print the script that completes commands and options in a shell."""
    made = get_completion_class(options.shell)
    assert made is not None, "the choices are the shells that click knows"
    return made(commands, {}, "adpa", "_ADPA_COMPLETE").source()


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
