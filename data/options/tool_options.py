"""Options of the commands about the program itself: what a metric means, completion in a shell."""

from dataclasses import dataclass

from data.options.fields import CommandOptions, option

__all__ = ["SHELLS", "CompletionOptions", "ExplainOptions"]

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainOptions(CommandOptions):
    """Say what a metric of a training run means, which way is good, and when to worry."""

    metric: str = option(help="its name in metrics.jsonl, such as expected_advantage", positional=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionOptions(CommandOptions):
    """Print the script that completes commands and options in a shell."""

    shell: str = option(help="the shell", choices=SHELLS, positional=True)
