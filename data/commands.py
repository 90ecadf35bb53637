"""The `signals` commands: options, and one function for each that reports lines."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from data.checks.verify import repair_plan, verify_dataset
from data.errors import ConfigurationError, ShardError
from data.options.fields import check_options, option
from data.report.html import write_report
from data.report.summary import summarize_dataset
from data.report.terminal import inspect_lines, listing
from data.signals.manifest import read_manifest
from data.signals.rollouts import RolloutDataset
from data.storage.pruning import prune_store, prune_unfinished
from data.storage.remote import is_address
from data.storage.store import (
    StoredDataset,
    list_datasets,
    list_unfinished,
    list_unreadable,
    local_folder,
    store_folder,
)
from data.storage.transfer import open_signals, pull_dataset, push_dataset

__all__ = [
    "SignalsInspectOptions",
    "SignalsListOptions",
    "SignalsPruneOptions",
    "SignalsPullOptions",
    "SignalsPushOptions",
    "SignalsReportOptions",
    "SignalsVerifyOptions",
    "inspect_signals",
    "list_signals",
    "prune_signals",
    "pull_signals",
    "push_signals",
    "report_signals",
    "verify_signals",
]


logger = logging.getLogger(__name__)

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    def __post_init__(self) -> None:
        check_options(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsListOptions(_Checked):
    """List the datasets in the store. Name, models, responses, positions, size, when made and last used."""

    store: str | None = option(None, help="another store than ADPA_HOME/signals")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsInspectOptions(_Checked):
    """Describe a dataset on the terminal. Who made it from what; coverage, tails, divergences, advantages."""

    signals: str = option(help="folder, name in the store, or address of a signal dataset")
    max_groups: int = option(64, help="row groups to take statistics from; 0 takes all", minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsVerifyOptions(_Checked):
    """Check a dataset completely. Files, checksums, schema, counts, and every row's numbers."""

    signals: str = option(help="folder of a signal or rollout dataset, or its name in the store")
    repair: bool = option(False, help="also say exactly what to run to mend it")
    deep: int = option(
        0, help="also score so many responses again with the models, on transformers, and compare", minimum=0
    )
    teacher: str | None = option(
        None, help="for --deep: where the teacher is [as score-teacher was told, by the manifest]"
    )
    reference: str | None = option(None, help="for --deep: where the reference is [likewise]")
    teacher_adapter: str | None = option(None, help="for --deep: LoRA adapter of the teacher")
    reference_adapter: str | None = option(None, help="for --deep: LoRA adapter of the reference")
    tolerance: float = option(
        0.05,
        help="for --deep: how much a probability may differ, beyond rounding; 16-bit models differ by some 0.02",
        minimum=0,
        maximum=1,
    )
    trust_remote_code: bool = option(False, help="for --deep: run code that comes with a checkpoint")

    def __post_init__(self) -> None:
        check_options(self)
        given = self.teacher or self.reference or self.teacher_adapter or self.reference_adapter
        if given and not self.deep:
            raise ConfigurationError(
                "--teacher, --reference and their adapters are for --deep N; give N, too"
            )


Rescore = Callable[[Path, SignalsVerifyOptions, Report], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsReportOptions(_Checked):
    """Write an HTML report of a dataset. One file that needs no network: distributions, conversations, tokens."""

    signals: str = option(help="folder, name in the store, or address of a signal dataset")
    out: str = option("report.html", help="the HTML file")
    conversations: int = option(200, help="pairs to show token by token", minimum=0)
    max_groups: int = option(64, help="row groups to take statistics from; 0 takes all", minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsPullOptions(_Checked):
    """Copy a dataset here from an address. Sound files that are in the folder already stay."""

    address: str = option(help="what fsspec understands: s3://..., gs://..., hf://datasets/..., file://...")
    out: str = option(help="folder for the dataset")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsPushOptions(_Checked):
    """Copy a dataset to an address. The manifest goes last; an interrupted push continues."""

    signals: str = option(help="folder of a signal or rollout dataset, or its name in the store")
    address: str = option(help="what fsspec understands: s3://..., gs://..., hf://datasets/..., file://...")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsPruneOptions(_Checked):
    """Delete datasets from the store. What was not used for long, is too much, or was never finished."""

    store: str | None = option(None, help="another store than ADPA_HOME/signals")
    unused_days: float | None = option(None, help="delete what was not used for so many days", minimum=0)
    max_gb: float | None = option(
        None, help="delete the least recently used above so many gigabytes (10^9 bytes)", minimum=0
    )
    dry_run: bool = option(False, help="only say what would be deleted")


def list_signals(options: SignalsListOptions, *, report: Report = logger.info) -> list[StoredDataset]:
    """Report one line for each dataset in the store."""
    datasets = list_datasets(options.store)
    others = list_unfinished(options.store), list_unreadable(options.store)
    for line in listing(options.store or store_folder(), datasets, *others):
        report(line)
    return datasets


def inspect_signals(options: SignalsInspectOptions, *, report: Report = logger.info) -> None:
    """Report what a dataset holds.

    Raises:
        ShardError: when it cannot be read.
    """
    dataset = open_signals(options.signals)
    for line in inspect_lines(summarize_dataset(dataset, max_groups=options.max_groups or None)):
        report(line)


def verify_signals(
    options: SignalsVerifyOptions, *, rescore: Rescore | None = None, report: Report = logger.info
) -> None:
    """Check a dataset and report each finding.

    Args:
        options: the command's.
        rescore: scores a sample again for --deep, and raises what it finds; models are the business of stage one.
        report: takes lines for the user.
    Raises:
        ShardError: when there are any findings.
        ConfigurationError: --deep for what no teacher has scored.
        AdpaError: what `rescore` raises.
    """
    folder = _folder(options.signals)
    if options.deep and _holds_rollouts(folder):
        raise ConfigurationError(
            f"--deep: {options.signals} holds rollouts, which no teacher has scored; leave the option out"
        )
    findings = verify_dataset(folder)
    for finding in findings:
        report(str(finding))
    if options.repair:
        for line in repair_plan(folder, findings):
            report(line)
    if findings:
        hint = "" if options.repair else "; --repair says what to run"
        raise ShardError(
            f"{options.signals}: {len(findings)} finding{'s' if len(findings) > 1 else ''}{hint}"
        )
    if options.deep:
        assert rescore is not None
        rescore(folder, options, report)
    report(f"{options.signals}: sound")


def report_signals(options: SignalsReportOptions, *, report: Report = logger.info) -> None:
    """Write the HTML report.

    Raises:
        ShardError: when the dataset cannot be read or the file not be written.
    """
    dataset = open_signals(options.signals)
    write_report(
        dataset, options.out, num_conversations=options.conversations, max_groups=options.max_groups or None
    )
    report(f"{options.out}: {Path(options.out).stat().st_size / 1e6:.1f} MB")


def pull_signals(options: SignalsPullOptions, *, report: Report = logger.info) -> None:
    """Copy a dataset here.

    Raises:
        ShardError: a damaged or incomplete source, or another dataset in the folder.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    manifest = pull_dataset(options.address, options.out, report=report)
    report(f"{options.out}: {manifest.rows:,} responses, complete")


def push_signals(options: SignalsPushOptions, *, report: Report = logger.info) -> None:
    """Copy a dataset to an address.

    Raises:
        ShardError: a damaged dataset, or another one at the address.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    manifest = push_dataset(_folder(options.signals), options.address, report=report)
    report(f"{options.address}: {manifest.rows:,} responses, complete")


def prune_signals(options: SignalsPruneOptions, *, report: Report = logger.info) -> list[StoredDataset]:
    """Delete datasets from the store, and what was never finished there, and report each.

    Raises:
        ConfigurationError: when nothing says what to delete.
        ShardError: for what cannot be deleted.
    """
    if options.unused_days is None and options.max_gb is None:
        raise ConfigurationError("nothing to prune by: give --unused-days, --max-gb or both")
    verb = "would delete" if options.dry_run else "deleted"
    max_bytes = None if options.max_gb is None else int(options.max_gb * 1e9)
    doomed = prune_store(
        root=options.store, unused_days=options.unused_days, max_bytes=max_bytes, dry_run=options.dry_run
    )
    for dataset in doomed:
        report(f"{verb} {dataset.path}: {dataset.size_bytes / 1e6:,.1f} MB")
    unfinished = []
    if options.unused_days is not None:
        unfinished = prune_unfinished(
            root=options.store, unused_days=options.unused_days, dry_run=options.dry_run
        )
    for folder in unfinished:
        report(f"{verb} {folder}: never finished")
    if not doomed and not unfinished:
        report(f"{options.store or store_folder()}: nothing to delete")
    return doomed


def _holds_rollouts(folder: Path) -> bool:
    # A manifest that cannot be read is a finding.
    with contextlib.suppress(ShardError):
        return read_manifest(folder).kind == RolloutDataset.kind
    return False


def _folder(signals: str) -> Path:
    if is_address(signals):
        raise ConfigurationError(
            f"--signals: {signals} is an address; pull it into a folder first, which compares all checksums on the way"
        )
    return local_folder(signals)
