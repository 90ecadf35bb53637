"""What each `signals` command does: a function of its options that returns its result."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.checks.verify import repair_plan, verify_dataset
from data.commands.options import (
    SignalsInspectOptions,
    SignalsListOptions,
    SignalsPruneOptions,
    SignalsPullOptions,
    SignalsPushOptions,
    SignalsReportOptions,
    SignalsVerifyOptions,
)
from data.commands.results import (
    Inspection,
    PrunedCache,
    PruneResult,
    ReportResult,
    StoreListing,
    VerificationResult,
)
from data.errors import ConfigurationError, ShardError
from data.files import adpa_home
from data.report.html import write_report
from data.report.rollout_summary import summarize_rollouts
from data.report.summary import summarize_dataset
from data.signals.manifest import read_manifest
from data.signals.rollouts import RolloutDataset
from data.storage.caches import CACHE_KINDS, PASS_CACHE, list_caches, prune_cache
from data.storage.pruning import prune_store, prune_unfinished
from data.storage.remote import is_address
from data.storage.store import (
    list_datasets,
    list_unfinished,
    list_unreadable,
    local_folder,
    store_folder,
)
from data.storage.transfer import TransferResult, open_dataset, pull_dataset, push_dataset

#: Scores a sample of a dataset again: raises what it finds, and returns what it has to say.
Rescore = Callable[[Path, SignalsVerifyOptions], Any]


def list_signals(options: SignalsListOptions) -> StoreListing:
    """Find what the store and the caches hold."""
    return StoreListing(
        Path(options.store) if options.store else store_folder(),
        list_datasets(options.store),
        list_unfinished(options.store),
        list_unreadable(options.store),
        [] if options.store else list_caches(),
    )


def inspect_signals(options: SignalsInspectOptions) -> Inspection:
    """Find what a signal or rollout dataset holds.

    Raises:
        ShardError: when it cannot be read.
    """
    dataset = open_dataset(options.signals)
    max_groups = options.max_groups or None
    if isinstance(dataset, RolloutDataset):
        return Inspection(summarize_rollouts(dataset, max_groups=max_groups))
    return Inspection(summarize_dataset(dataset, max_groups=max_groups))


def verify_signals(options: SignalsVerifyOptions, rescore: Rescore | None = None) -> VerificationResult:
    """Check a dataset.

    Args:
        options: the command's.
        rescore: scores a sample again for `deep`; models are the business of stage one.
    Raises:
        ShardError: for what is no dataset.
        ConfigurationError: `deep` for what no teacher has scored.
        AdpaError: what `rescore` raises.
    """
    folder = _folder(options.signals)
    if options.deep and _holds_rollouts(folder):
        raise ConfigurationError(
            f"--deep: {options.signals} holds rollouts, which no teacher has scored; leave the option out"
        )
    findings = verify_dataset(folder)
    repair = repair_plan(folder, findings) if options.repair else []
    deep = None
    if options.deep and not findings:
        assert rescore is not None
        deep = rescore(folder, options)
    return VerificationResult(options.signals, findings, repair, options.repair, deep)


def report_signals(options: SignalsReportOptions) -> ReportResult:
    """Write the HTML report.

    Raises:
        ConfigurationError: when the file exists, or for two datasets of different kinds.
        ShardError: when a dataset cannot be read or the file not be written.
    """
    out = Path(options.out)
    if out.exists() and not options.force:
        raise ConfigurationError(f"--out: {out} exists; give another name, or --force to replace it")
    write_report(
        open_dataset(options.signals),
        out,
        compare=open_dataset(options.compare) if options.compare else None,
        num_conversations=options.conversations,
        max_groups=options.max_groups or None,
        tokenizer=Path(options.tokenizer) if options.tokenizer else None,
    )
    return ReportResult(out, out.stat().st_size)


def pull_signals(options: SignalsPullOptions) -> TransferResult:
    """Copy a dataset here.

    Raises:
        ShardError: a damaged or incomplete source, or another dataset in the folder.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    return pull_dataset(options.address, options.out)


def push_signals(options: SignalsPushOptions) -> TransferResult:
    """Copy a dataset to an address.

    Raises:
        ShardError: a damaged dataset, or another one at the address.
        ConfigurationError: an address of a kind that nothing installed can reach.
    """
    return push_dataset(_folder(options.signals), options.address)


def prune_signals(options: SignalsPruneOptions) -> PruneResult:
    """Delete datasets from the store, what was never finished there, and files of the caches.

    Raises:
        ConfigurationError: a folder of passes that is none.
        ShardError: for what cannot be deleted.
    """
    datasets, unfinished, caches = [], [], []
    looked_at: list[Path] = []
    if "datasets" in options.what:
        looked_at.append(Path(options.store) if options.store else store_folder())
        datasets = prune_store(
            root=options.store,
            unused_days=options.unused_days,
            max_bytes=_bytes(options.max_gb),
            dry_run=options.dry_run,
        )
        if options.unused_days is not None:
            unfinished = prune_unfinished(
                root=options.store, unused_days=options.unused_days, dry_run=options.dry_run
            )
    for kind in (kind for kind in CACHE_KINDS if kind in options.what):
        folder = adpa_home() / kind
        if kind == PASS_CACHE and options.pass_cache:
            folder = Path(options.pass_cache)
        deleted, in_use = prune_cache(
            folder,
            kind,
            unused_days=options.unused_days,
            max_bytes=_bytes(options.max_cache_gb),
            dry_run=options.dry_run,
        )
        caches.append(PrunedCache(folder, deleted, in_use))
        looked_at.append(folder)
    return PruneResult(datasets, unfinished, caches, looked_at, options.dry_run)


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)


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
