"""adpa: parse options, call one function, turn domain errors into exit codes."""

import dataclasses
import functools
import logging
import os
import shutil
import sys
import typing
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from data import commands as signal_commands
from data.commands import signals as signal_functions
from data.errors import AdpaError, ConfigurationError
from data.options.config_file import read_config
from data.options.fields import flag_name, option_type
from data.preview.conversion import ConvertOptions
from data.preview.preview import PreviewOptions
from data.translation.command import SignalsTranslateOptions
from evaluation.alpaca_eval.options import AlpacaEvalOptions
from evaluation.benchmarks.options import BenchmarkOptions
from evaluation.mt_bench.options import MtBenchOptions
from evaluation.options import ChatOptions, ReportOptions, SignalsEvaluationOptions, WinRateOptions
from small_world.options import DemoOptions
from student_training.options import TrainOptions
from teacher_scoring.options import SampleOptions, ScoreOptions

__all__ = ["main"]

_EXIT_DOMAIN, _EXIT_USAGE, _EXIT_INTERRUPTED = 1, 2, 130


class _CommaSeparated(click.ParamType):
    name = "a,b"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return (
            value
            if isinstance(value, tuple)
            else tuple(part.strip() for part in value.split(",") if part.strip())
        )


def options_from(options_class: type) -> Callable[[Callable[[Any], None]], click.Command]:
    """Decorate a function of one options dataclass: it becomes the command of its own name."""

    def decorate(function: Callable[[Any], None]) -> click.Command:
        return command_from(
            options_class, function, function.__name__.strip("_").replace("_", "-"), function.__doc__
        )

    return decorate


def command_from(
    options_class: type, function: Callable[[Any], Any], name: str, help_text: str | None
) -> click.Command:
    """Make a click command of a function that takes one options dataclass.

    Every field becomes an option, `--config FILE` fills in what the command line leaves out, and the rest
    comes from the dataclass's own defaults.
    """
    hints = typing.get_type_hints(options_class)

    def callback(config: str | None, **flags: Any) -> None:
        given = {name: value for name, value in flags.items() if value is not None and value != ()}
        values = {**(read_config(config, options_class) if config is not None else {}), **given}
        for field in dataclasses.fields(options_class):
            if field.default is dataclasses.MISSING and field.name not in values:
                raise ConfigurationError(f"{flag_name(field.name)} is required (as an option or in --config)")
        function(options_class(**values))

    # What a command shares with others (an engine's options) comes behind what is its own.
    fields = sorted(
        dataclasses.fields(options_class), key=lambda field: field.name not in options_class.__annotations__
    )
    parameters: list[click.Parameter] = [
        click.Argument([field.name], required=False)
        if field.metadata["positional"]
        else _click_option(field, hints[field.name])
        for field in fields
    ]
    config_help = "TOML or YAML file with values for these options; flags win over it"
    parameters.append(click.Option(["--config"], type=click.Path(dir_okay=False), help=config_help))
    return click.Command(name, callback=callback, params=parameters, help=help_text)


def _click_option(field: dataclasses.Field, annotation: Any) -> click.Option:
    scalar, repeats, _ = option_type(annotation)
    description = field.metadata
    text = description["help"]
    if field.default is dataclasses.MISSING:
        text += "  [required]"
    elif field.default is not None and field.default != ():
        text += f"  [default: {_display(field.default)}]"
    flag = flag_name(field.name)
    if scalar is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=text)
    if description["commas"]:
        kind, repeats = _CommaSeparated(), False
    else:
        kind = click.Choice(description["choices"]) if description["choices"] else scalar
    return click.Option([flag], type=kind, multiple=repeats, default=None, help=text)


def _display(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _report(line: str) -> None:
    # Clears a progress bar for the line, and draws it again below.
    tqdm.write(line, file=sys.stderr)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _report(self.format(record))


def _installed_version() -> str:
    try:
        return version("adpa")
    except PackageNotFoundError:
        return "from a checkout"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(_installed_version(), prog_name="adpa")
def commands() -> None:
    """Teach a small language model a big one's preferences.

    score-teacher runs a big aligned model and its reference once; train-student trains small models from what it
    wrote, with no teacher in memory.
    """


@commands.add_command
@options_from(DemoOptions)
def demo(options: DemoOptions) -> None:
    """Run the whole pipeline on a small world. It makes that itself: no network, no GPU."""
    from small_world.demo import run_demo  # noqa: PLC0415  (each command imports its own heavy libraries)

    run_demo(options, report=click.echo)


@commands.add_command
@options_from(ScoreOptions)
def score_teacher(options: ScoreOptions) -> None:
    """Score responses with teacher and reference. Writes a signal dataset; the same line again continues it."""
    if options.dry_run:
        from teacher_scoring.dry_run import describe_plan, plan_scoring  # noqa: PLC0415

        for line in describe_plan(plan_scoring(options)):
            click.echo(line)
        return
    from teacher_scoring.score import score_teacher as run  # noqa: PLC0415

    click.echo(str(run(options)))


@commands.add_command
@options_from(SampleOptions)
def sample_student(options: SampleOptions) -> None:
    """Sample a student's responses to prompts. Writes rollouts, which score-teacher reads."""
    from teacher_scoring.sample import sample_student as run  # noqa: PLC0415

    click.echo(str(run(options)))


@commands.add_command
@options_from(TrainOptions)
def train_student(options: TrainOptions) -> None:
    """Train a student from signal datasets. Or from preference data, for methods without a teacher."""
    from student_training.run import plan_training  # noqa: PLC0415
    from student_training.run import train_student as run  # noqa: PLC0415

    logging.getLogger("student_training").setLevel(logging.INFO)
    click.echo(str(plan_training(options) if options.dry_run else run(options)))


@commands.group("data")
def data_commands() -> None:
    """Look at preference data, and convert it."""


def _preview(options: PreviewOptions) -> None:
    from data.preview.preview import preview_data  # noqa: PLC0415
    from data.preview.rendering import render_preview  # noqa: PLC0415

    def load_tokenizer(name: str, trust_remote_code: bool) -> Any:
        from teacher_scoring.engines.tokenizer import load_tokenizer as load  # noqa: PLC0415

        return load(Path(name), option="--tokenizer", trust_remote_code=trust_remote_code)

    result = preview_data(options, load_tokenizer=load_tokenizer)
    click.echo(render_preview(result, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))


def _convert(options: ConvertOptions) -> None:
    from data.preview.conversion import convert_data  # noqa: PLC0415

    result = convert_data(options)
    columns = ", ".join(f"{name} ({kind})" for name, kind in result.columns.items())
    click.echo(f"{result.out}: {columns}; {result.counts}")


for _name, _options_class, _function in (
    ("preview", PreviewOptions, _preview),
    ("convert", ConvertOptions, _convert),
):
    data_commands.add_command(command_from(_options_class, _function, _name, _options_class.__doc__))


@commands.group()
def signals() -> None:
    """List, inspect, verify and share signal datasets."""


def _verify(options: signal_commands.SignalsVerifyOptions) -> Any:
    def rescore(folder: Path, options: signal_commands.SignalsVerifyOptions) -> Any:
        from teacher_scoring.rescoring import rescore_sample  # noqa: PLC0415

        return rescore_sample(folder, options)

    return signal_functions.verify_signals(options, rescore=rescore)


def _show(function: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Print a command's result, and end with an error where it is one."""

    def run(options: Any) -> None:
        result = function(options)
        click.echo(str(result))
        if (failure := getattr(result, "failure", None)) is not None:
            raise failure

    return run


for _name, _options_class, _function in (
    ("list", signal_commands.SignalsListOptions, signal_functions.list_signals),
    ("inspect", signal_commands.SignalsInspectOptions, signal_functions.inspect_signals),
    ("verify", signal_commands.SignalsVerifyOptions, _verify),
    ("report", signal_commands.SignalsReportOptions, signal_functions.report_signals),
    ("pull", signal_commands.SignalsPullOptions, signal_functions.pull_signals),
    ("push", signal_commands.SignalsPushOptions, signal_functions.push_signals),
    ("prune", signal_commands.SignalsPruneOptions, signal_functions.prune_signals),
):
    signals.add_command(command_from(_options_class, _show(_function), _name, _options_class.__doc__))


@commands.group()
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


@evaluate.add_command
@options_from(WinRateOptions)
def win_rate(options: WinRateOptions) -> None:
    """Compare models' answers pair by pair. Both orders are judged; the same line again continues."""
    from evaluation.win_rate import evaluate_win_rate  # noqa: PLC0415

    click.echo(str(evaluate_win_rate(options, _model_opener(options))))


@evaluate.add_command
@options_from(SignalsEvaluationOptions)
def _signals(options: SignalsEvaluationOptions) -> None:
    """Measure checkpoints on held-out signals: likelihood, KL, expected advantage, preferences. No generation."""
    from evaluation.signals import evaluate_signals  # noqa: PLC0415
    from student_training.held_out import measure_signals  # noqa: PLC0415

    click.echo(str(evaluate_signals(options, measure_signals)))


def _translate(options: SignalsTranslateOptions) -> str:
    from data.translation.command import describe_translation, translate_signals  # noqa: PLC0415
    from teacher_scoring.engines.tokenizer import load_tokenizer  # noqa: PLC0415

    load = functools.partial(
        load_tokenizer, option="--tokenizer", trust_remote_code=options.trust_remote_code
    )
    return describe_translation(translate_signals(options, load))


signals.add_command(
    command_from(SignalsTranslateOptions, _show(_translate), "translate", SignalsTranslateOptions.__doc__)
)


@commands.add_command
@options_from(ReportOptions)
def report(options: ReportOptions) -> None:
    """Write one HTML page over training runs and evaluations, also unfinished ones."""
    from evaluation.report.page import write_run_report  # noqa: PLC0415

    click.echo(str(write_run_report(options)))


@commands.add_command
@options_from(ChatOptions)
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


@evaluate.add_command
@options_from(AlpacaEvalOptions)
def alpaca_eval(options: AlpacaEvalOptions) -> None:
    """Answer, judge or count AlpacaEval 2: its file forms, its figures, its length control.

    Its question and calibration files are yours to bring. What was answered and judged before is not asked again.
    """
    from evaluation.alpaca_eval.command import evaluate_alpaca_eval  # noqa: PLC0415

    click.echo(evaluate_alpaca_eval(options, _model_opener(options)).table)


@evaluate.add_command
@options_from(MtBenchOptions)
def mt_bench(options: MtBenchOptions) -> None:
    """Answer, judge or count MT-Bench: FastChat's file forms, its tables, scores or comparisons.

    Its question file is yours to bring. What was answered and judged before is not asked again.
    """
    from evaluation.mt_bench.command import evaluate_mt_bench  # noqa: PLC0415

    click.echo(evaluate_mt_bench(options, _model_opener(options)).table)


@evaluate.command("recompute")
@click.argument("folder")
def recompute_figures(folder: str) -> None:
    """Compute a folder's figures again from its stored judgments. No model and no judge is asked."""
    from evaluation.recompute import recompute  # noqa: PLC0415

    click.echo(recompute(Path(folder)).table)


@evaluate.add_command
@options_from(BenchmarkOptions)
def benchmarks(options: BenchmarkOptions) -> None:
    """Run public benchmarks on checkpoints, through lm-evaluation-harness (the extra [eval]).

    Or tasks of your own, in the harness's form. What is in --out already is not run again.
    """
    from evaluation.benchmarks.run import evaluate_benchmarks  # noqa: PLC0415

    click.echo(evaluate_benchmarks(options).table)


@signals.command("merge")
@click.argument("dataset")
def merge(dataset: str) -> None:
    """Complete a dataset made in parts. They are what runs of score-teacher with --shard-range wrote."""
    from teacher_scoring.build.dataset_build import merge_parts  # noqa: PLC0415

    merged = merge_parts(Path(dataset))
    click.echo(f"{dataset}: {merged.num_rows:,} responses of {merged.num_pairs:,} pairs")


def main() -> None:
    """Run the command line; the only place where errors become exit codes."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_Lines()])
    for room in ("data", "teacher_scoring", "evaluation", "student_training.held_out"):
        logging.getLogger(room).setLevel(logging.INFO)
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
