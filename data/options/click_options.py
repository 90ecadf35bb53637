"""click commands made from options dataclasses: parsing, grouped help, suggestions for typing errors.

One field of a dataclass is one option of a command; nothing about an option is written twice. `--help` is short: the
options that people set, under headings, and three examples. `--help-all` lists every one.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from data.errors import ConfigurationError
from data.options.config_file import read_config
from data.options.fields import GROUPS, flag_name, option_type
from data.options.messages import show_messages
from data.options.results import result_as_json, result_as_text

_WHOLE_HELP = "adpa.whole_help"


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


class FieldOption(click.Option):
    """The option of one field of an options dataclass."""

    def __init__(self, field: dataclasses.Field, annotation: Any) -> None:
        scalar, repeats, _ = option_type(annotation)
        self.field = field
        self.flag = flag_name(field.name)
        text = field.metadata["help"]
        if field.default is dataclasses.MISSING:
            text += "  [required]"
        elif field.default is not None and field.default != ():
            text += f"  [default: {_display(field.default)}]"
        kind: Any = scalar
        if field.metadata["commas"]:
            kind, repeats = _CommaSeparated(), False
        elif field.metadata["choices"]:
            kind = click.Choice(field.metadata["choices"])
        spellings = [self.flag, *field.metadata["aliases"]]
        if scalar is bool:
            spellings[0] += f"/--no-{self.flag[2:]}"
            super().__init__([field.name, *spellings], default=None, help=text)
        else:
            super().__init__([field.name, *spellings], type=kind, multiple=repeats, default=None, help=text)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """The option's two columns of `--help`: one spelling, and after the text the others in `--help-all`."""
        shown = [alias for alias in self.field.metadata["aliases"] if not alias.startswith("--")]
        flag = f"{self.flag} / {self.secondary_opts[0]}" if self.secondary_opts else self.flag
        kind = "" if self.is_flag else f" {self.make_metavar(ctx)}"
        text = self.help or ""
        if ctx.meta.get(_WHOLE_HELP):
            text += "".join(
                f"  [also {alias}]" for alias in self.field.metadata["aliases"] if alias not in shown
            )
        return ", ".join([*shown, flag]) + kind, text

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What a shell offers: the choices, and files for a text that has none."""
        found = super().shell_complete(ctx, incomplete)
        is_text = self.type is click.STRING and not found
        return [CompletionItem(incomplete, type="file")] if is_text else found


class OptionsCommand(click.Command):
    """A command of one options dataclass; `command_from` makes it."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.examples = tuple(examples)

    @property
    def field_options(self) -> list[FieldOption]:
        """The options that are fields of the dataclass, in its order."""
        return [parameter for parameter in self.params if isinstance(parameter, FieldOption)]

    def groups(self) -> Iterator[tuple[str, list[FieldOption]]]:
        """The headings of `--help-all` with their options: in each the common ones first."""
        for group, heading in GROUPS.items():
            options = [option for option in self.field_options if option.field.metadata["group"] == group]
            if options:
                yield heading, sorted(options, key=lambda option: option.field.metadata["expert"])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group; without `--help-all` leave the expert ones out."""
        whole, hidden = bool(ctx.meta.get(_WHOLE_HELP)), 0
        for heading, options in self.groups():
            shown = [option for option in options if whole or not option.field.metadata["expert"]]
            hidden += len(options) - len(shown)
            if shown:
                with formatter.section(heading):
                    formatter.write_dl([option.get_help_record(ctx) for option in shown])
        with formatter.section("Every command"):
            common = [
                p for p in self.params if isinstance(p, click.Option) and not isinstance(p, FieldOption)
            ]
            records = [option.get_help_record(ctx) for option in [*common, *self._help_options(ctx)]]
            formatter.write_dl([record for record in records if record is not None])
        if hidden:
            formatter.write_paragraph()
            formatter.write_text(f"{hidden} more options: {ctx.command_path} --help-all")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are typed."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    first, *rest = example.split("\n")
                    for line in [first, *(f"    {more}" for more in rest)]:
                        formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The parameters, with `--help-all` beside `--help`."""
        return [*super().get_params(ctx), _help_all()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; for an option that only other commands have, name those."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            others = sorted(
                path
                for path, command in _leaves(ctx.find_root().command, "adpa")
                if any(error.option_name in [*p.opts, *p.secondary_opts] for p in command.params)
            )
            if not others:
                raise
            shown = ", ".join(f"'{path}'" for path in others[:3]) + (", ..." if len(others) > 3 else "")
            message = f"No such option '{error.option_name}'. It is an option of {shown}."
            raise click.UsageError(message, error.ctx) from error

    def _help_options(self, ctx: click.Context) -> list[click.Option]:
        help_option = self.get_help_option(ctx)
        return [*([help_option] if help_option is not None else []), _help_all()]


def _help_all() -> click.Option:
    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            ctx.meta[_WHOLE_HELP] = True
            click.echo(ctx.get_help())
            ctx.exit()

    return click.Option(
        ["--help-all"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="all options, the rare too",
    )


class CommandGroup(click.Group):
    """A group of commands that names the command that was meant, also where it is in another group."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with the whole first sentence of its help; click would cut it to one line."""
        rows = [
            (name, _first_sentence(command.help or "")) for name, command in sorted(self.commands.items())
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown one, say which is like it anywhere below the whole program."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            paths = dict(_leaves(ctx.find_root().command, "adpa"))
            if not (meant := _same_name(args[0], paths)):
                raise
            named = " or ".join(f"'{path}'" for path in meant)
            message = f"No such command '{args[0]}'. Did you mean {named}?"
            raise click.UsageError(message, error.ctx) from error


def _first_sentence(text: str) -> str:
    first, full_stop, _ = " ".join(text.split()).partition(". ")
    return first + full_stop.rstrip()


def _leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _leaves(child, f"{path} {name}")
    else:
        yield path, command


def _same_name(word: str, paths: Mapping[str, click.Command]) -> list[str]:
    """Paths of the commands whose last word is this one, or else the one most like it."""
    last = {path: path.rsplit(" ", 1)[-1] for path in paths}
    exact = [path for path, name in last.items() if name == word]
    if exact:
        return exact
    near = difflib.get_close_matches(word, set(last.values()), n=1, cutoff=0.7)
    return [path for path, name in last.items() if name in near]


def command_from(
    options_class: type,
    function: Callable[[Any], Any],
    name: str,
    help_text: str | None = None,
    *,
    examples: Sequence[str] = (),
    extra: Sequence[click.Parameter] = (),
) -> OptionsCommand:
    """Make a click command of a function that takes one options dataclass and returns a result.

    Every field becomes an option, `--config FILE` fills in what the command line leaves out, and the rest comes from
    the dataclass's own defaults. The result goes to standard output: as text, or with `--json` as one JSON document.
    Messages (`logging`) go to standard error.

    Args:
        options_class: the dataclass; it checks its values when it is made.
        function: does the work.
        name: what the command is called.
        help_text: the sentence below the usage line [the dataclass's docstring].
        examples: command lines for the end of `--help`.
        extra: parameters beside the fields, which handle themselves (`expose_value=False`).
    """
    hints = typing.get_type_hints(options_class)
    fields = [field for field in dataclasses.fields(options_class) if "help" in field.metadata]
    # What a command shares with others (an engine's options) comes after what only it has.
    fields.sort(key=lambda field: field.name not in options_class.__annotations__)
    positional = [field for field in fields if field.metadata["positional"]]

    def callback(
        config: str | None,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        arguments: tuple[str, ...] = (),
        **flags: Any,
    ) -> None:
        given = {field: value for field, value in flags.items() if value is not None and value != ()}
        given |= _positional_values(positional, hints, arguments, given)
        values = {**(read_config(config, options_class, command=name) if config is not None else {}), **given}
        _refuse_missing(fields, values)
        with show_messages(quiet=quiet, verbose=verbose):
            result = function(options_class(**values))
        text = result_as_json(result) if as_json else result_as_text(result)
        if text:
            click.echo(text)
        if not (quiet or as_json) and (step := getattr(result, "next_step", None)):
            click.echo(f"next: {step}", err=True)
        # What was found is printed first, also where it is a reason to fail.
        if (failure := getattr(result, "failure", None)) is not None:
            raise failure

    parameters: list[click.Parameter] = [FieldOption(field, hints[field.name]) for field in fields]
    if positional:
        words = [_metavar(field, hints) for field in positional]
        parameters.append(click.Argument(["arguments"], nargs=-1, metavar=" ".join(words), type=click.Path()))
    return OptionsCommand(
        name,
        callback=callback,
        params=[*parameters, *extra, *_common_options()],
        help=help_text or options_class.__doc__,
        examples=examples,
    )


def _common_options() -> list[click.Option]:
    return [
        click.Option(
            ["--config"],
            type=click.Path(dir_okay=False),
            help="TOML or YAML file with values for these options; flags win over it",
        ),
        click.Option(["as_json", "--json"], is_flag=True, help="print the result as one JSON document"),
        click.Option(["-q", "--quiet"], is_flag=True, help="no messages but warnings"),
        click.Option(["-v", "--verbose"], is_flag=True, help="more messages, with times"),
    ]


def _metavar(field: dataclasses.Field, hints: Mapping[str, Any]) -> str:
    _, repeats, _ = option_type(hints[field.name])
    return f"[{field.name.upper()}]{'...' if repeats else ''}"


def _positional_values(
    positional: Sequence[dataclasses.Field],
    hints: Mapping[str, Any],
    arguments: tuple[str, ...],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Hand the words without a flag to the positional fields that no flag has set, in their order."""
    values: dict[str, Any] = {}
    rest = list(arguments)
    for field in positional:
        scalar, repeats, _ = option_type(hints[field.name])
        if not rest or field.name in given:
            continue
        words, rest = (rest, []) if repeats else (rest[:1], rest[1:])
        try:
            typed = tuple(scalar(word) for word in words)
        except ValueError as error:
            raise click.UsageError(f"{words[0]!r} is not a valid {field.name}: {error}") from error
        values[field.name] = typed if repeats else typed[0]
    if rest:
        raise click.UsageError(f"unexpected argument {rest[0]!r}; quote what belongs together")
    return values


def _refuse_missing(fields: Sequence[dataclasses.Field], values: Mapping[str, Any]) -> None:
    missing = [
        flag_name(field.name)
        for field in fields
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if not missing:
        return  # Missing alternatives are refused by the dataclass itself, in better words.
    for field in fields:
        other = field.metadata["instead_of"]
        if other is not None and field.name not in values and other not in values:
            missing.append(f"{flag_name(other)} (or {flag_name(field.name)})")
    *first, last = missing
    named = f"{', '.join(first)} and {last} are" if first else f"{last} is"
    raise ConfigurationError(f"{named} required (as {'options' if first else 'an option'} or in --config)")


def _display(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
