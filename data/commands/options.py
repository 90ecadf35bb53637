"""Options of the `signals` commands, and of those about the program itself: `explain` and `completion`."""

import dataclasses

from data.errors import ConfigurationError
from data.options.fields import CommandOptions, check_options, option
from data.storage.caches import CACHE_KINDS, PASS_CACHE

_ADDRESS = "what fsspec understands: s3://..., gs://..., hf://datasets/..., file://..."


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsListOptions(CommandOptions):
    """List the datasets in the store. Name, models, responses, positions, size, when made and last used; and caches."""

    store: str | None = option(None, help="another store than ADPA_HOME/signals")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsInspectOptions(CommandOptions):
    """Describe a dataset on the terminal. Its provenance; what the teacher covers and prefers."""

    signals: str = option(
        help="folder, name in the store, or address of a signal or rollout dataset", positional=True
    )
    max_groups: int = option(64, help="row groups to take statistics from; 0 takes all", minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsVerifyOptions(CommandOptions):
    """Check a dataset completely. Files, checksums, schema, counts, and every row's numbers."""

    signals: str = option(
        help="folder of a signal or rollout dataset, or its name in the store", positional=True
    )
    repair: bool = option(False, help="also print exactly what to run to repair it")
    deep: int = option(
        0,
        help="number of responses to score again with the models, on transformers, and compare",
        minimum=0,
        group="scoring",
    )
    teacher: str | None = option(
        None,
        help="for --deep: where the teacher is [where score-teacher read it, by the manifest]",
        group="scoring",
    )
    reference: str | None = option(
        None, help="for --deep: where the reference is [likewise]", group="scoring"
    )
    teacher_adapter: str | None = option(
        None, help="for --deep: LoRA adapter of the teacher", group="scoring", expert=True
    )
    reference_adapter: str | None = option(
        None, help="for --deep: LoRA adapter of the reference", group="scoring", expert=True
    )
    tolerance: float = option(
        0.05,
        help="for --deep: how much a probability may differ, beyond rounding; 16-bit models differ by some 0.02",
        minimum=0,
        maximum=1,
        group="scoring",
        expert=True,
    )
    trust_remote_code: bool = option(
        False, help="for --deep: run code that comes with a checkpoint", group="scoring", expert=True
    )

    def __post_init__(self) -> None:
        check_options(self)
        given = self.teacher or self.reference or self.teacher_adapter or self.reference_adapter
        if given and not self.deep:
            raise ConfigurationError(
                "--teacher, --reference and their adapters are for --deep N; give N, too"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsReportOptions(CommandOptions):
    """Write an HTML report of a dataset. One file that needs no network: distributions, conversations, tokens."""

    signals: str = option(
        help="folder, name in the store, or address of a signal or rollout dataset", positional=True
    )
    compare: str | None = option(None, help="a second dataset of the same kind, to show beside the first")
    out: str = option("report.html", help="the HTML file")
    force: bool = option(False, help="replace the HTML file if it exists")
    conversations: int = option(200, help="pairs to show token by token", minimum=0)
    max_groups: int = option(64, help="row groups to take statistics from; 0 takes all", minimum=0)
    tokenizer: str | None = option(
        None, help="for rollouts: folder of the student's tokenizer [where sample-student read the student]"
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsPullOptions(CommandOptions):
    """Copy a dataset here from an address. Intact files that are in the folder already stay."""

    address: str = option(help=_ADDRESS, positional=True)
    out: str = option(folder=True, help="folder for the dataset", positional=True)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsPushOptions(CommandOptions):
    """Copy a dataset to an address. The manifest goes last; an interrupted push continues."""

    signals: str = option(
        help="folder of a signal or rollout dataset, or its name in the store", positional=True
    )
    address: str = option(help=_ADDRESS, positional=True)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsPruneOptions(CommandOptions):
    """Delete datasets and cached passes. Unused, over a quota, or never finished; nothing that a command is using."""

    what: tuple[str, ...] = option(
        ("datasets", PASS_CACHE),
        help="what to look at: datasets of the store, and caches, all of which can be made again",
        choices=("datasets", *CACHE_KINDS),
        commas=True,
    )
    unused_days: float | None = option(None, help="delete what was not used for this many days", minimum=0)
    max_gb: float | None = option(
        None, help="delete the least recently used datasets above this many gigabytes (10^9 bytes)", minimum=0
    )
    max_cache_gb: float | None = option(
        None, help="delete the least recently used files of a cache above this many gigabytes", minimum=0
    )
    store: str | None = option(None, help="another store than ADPA_HOME/signals")
    pass_cache: str | None = option(None, help="another folder of passes than ADPA_HOME/passes")
    dry_run: bool = option(False, help="only print what would be deleted")

    def __post_init__(self) -> None:
        check_options(self)
        if self.unused_days is None and self.max_gb is None and self.max_cache_gb is None:
            raise ConfigurationError(
                "nothing says what to delete: give --unused-days, --max-gb or --max-cache-gb"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExplainOptions(CommandOptions):
    """Say what a metric of a training run means, which way is good, and when to worry."""

    metric: str = option(help="its name in metrics.jsonl, such as expected_advantage", positional=True)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CompletionOptions(CommandOptions):
    """Print the script that completes commands and options in a shell."""

    shell: str = option(help="the shell", choices=("bash", "zsh", "fish"), positional=True)
