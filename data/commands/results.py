"""What the `signals` commands return: text for people by `str()`, JSON values by `to_json()`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.checks.verify import Finding
from data.errors import ShardError
from data.report.rollout_summary import RolloutSummary
from data.report.statistics import DatasetSummary
from data.report.terminal import cache_lines, inspect_lines, listing
from data.storage.caches import CacheFile, CacheSummary
from data.storage.store import StoredDataset


@dataclasses.dataclass(frozen=True, slots=True)
class StoreListing:
    """What the store holds, and the caches beside it.

    Attributes:
        store: its folder.
        datasets: complete datasets, the most recently used first.
        unfinished: folders without a manifest.
        unreadable: folders with a manifest that cannot be read, and why.
        caches: the caches under ADPA_HOME; none where another store was named.
    """

    store: Path
    datasets: Sequence[StoredDataset]
    unfinished: Sequence[Path]
    unreadable: Sequence[tuple[Path, str]]
    caches: Sequence[CacheSummary] = ()

    def __str__(self) -> str:
        """A table of the datasets, and a line for everything else."""
        lines = [*listing(self.store, self.datasets, self.unfinished, self.unreadable)]
        return "\n".join([*lines, *cache_lines(self.caches)])

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; times in seconds since 1970."""
        return {
            "store": str(self.store),
            "datasets": [dataset.to_json() for dataset in self.datasets],
            "unfinished": [str(path) for path in self.unfinished],
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
            "caches": [{**dataclasses.asdict(cache), "path": str(cache.path)} for cache in self.caches],
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """What a dataset holds."""

    summary: DatasetSummary | RolloutSummary

    def __str__(self) -> str:
        """The dataset described for a terminal."""
        return "\n".join(inspect_lines(self.summary))

    def to_json(self) -> dict[str, Any]:
        """Its manifest's facts and the statistics by role."""
        return self.summary.to_json()


@dataclasses.dataclass(frozen=True, slots=True)
class VerificationResult:
    """What is wrong with a dataset.

    Attributes:
        signals: the dataset as it was named.
        findings: what is wrong; empty for a valid one.
        repair: what to run to repair it, line by line, where that was asked for.
        repair_asked: whether it was.
        deep: what scoring responses again has shown; None where it was not asked for.
    """

    signals: str
    findings: Sequence[Finding]
    repair: Sequence[str] = ()
    repair_asked: bool = False
    deep: Any = None

    @property
    def failure(self) -> ShardError | None:
        """The error that the command ends with after the findings are printed; None for a valid dataset."""
        if not self.findings:
            return None
        hint = "" if self.repair_asked else "; --repair prints what to run"
        count = len(self.findings)
        return ShardError(f"{self.signals}: {count} finding{'s' if count > 1 else ''}{hint}")

    def __str__(self) -> str:
        """The findings and the repair, or that the dataset is valid."""
        lines = [*map(str, self.findings), *self.repair]
        if not self.findings:
            lines += [str(self.deep)] if self.deep is not None else []
            lines.append(f"{self.signals}: valid")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return {
            "signals": self.signals,
            "valid": not self.findings,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "repair": list(self.repair),
            "deep": None if self.deep is None else str(self.deep),
        }


@dataclasses.dataclass(frozen=True, slots=True)
class ReportResult:
    """An HTML report that has been written."""

    out: Path
    size_bytes: int

    def __str__(self) -> str:
        """The file and its size."""
        return f"{self.out}: {self.size_bytes / 1e6:.1f} MB"


@dataclasses.dataclass(frozen=True, slots=True)
class PrunedCache:
    """What pruning did to one cache.

    Attributes:
        path: its folder.
        deleted: the files that were, or would be, deleted.
        in_use: files that stay although they are old or too much, because a running command may need them.
    """

    path: Path
    deleted: Sequence[CacheFile]
    in_use: Sequence[CacheFile]

    @property
    def freed_bytes(self) -> int:
        """Size of the deleted files."""
        return sum(file.size_bytes for file in self.deleted)


@dataclasses.dataclass(frozen=True, slots=True)
class PruneResult:
    """What was deleted, or would be.

    Attributes:
        datasets: complete datasets.
        unfinished: folders of datasets that were never finished.
        caches: what was done to each cache.
        looked_at: where it was looked, for the message that nothing was found.
        dry_run: whether nothing was deleted in fact.
    """

    datasets: Sequence[StoredDataset]
    unfinished: Sequence[Path]
    caches: Sequence[PrunedCache]
    looked_at: Sequence[Path]
    dry_run: bool

    @property
    def freed_bytes(self) -> int:
        """Size of all that was deleted, unfinished datasets aside."""
        return sum(d.size_bytes for d in self.datasets) + sum(cache.freed_bytes for cache in self.caches)

    def __str__(self) -> str:
        """One line for each dataset and each cache."""
        verb = "would delete" if self.dry_run else "deleted"
        lines = [f"{verb} {dataset.path}: {dataset.size_bytes / 1e6:,.1f} MB" for dataset in self.datasets]
        lines += [f"{verb} {folder}: never finished" for folder in self.unfinished]
        for cache in self.caches:
            if cache.deleted:
                size = f"{cache.freed_bytes / 1e6:,.1f} MB"
                lines.append(f"{verb} {_files(cache.deleted)} of {cache.path}: {size}")
            if cache.in_use:
                lines.append(f"kept {_files(cache.in_use)} of {cache.path}, which a running command may need")
        if not self.datasets and not self.unfinished and not any(cache.deleted for cache in self.caches):
            lines.append(f"{', '.join(map(str, self.looked_at))}: nothing to delete")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "dry_run": self.dry_run,
            "freed_bytes": self.freed_bytes,
            "datasets": [dataset.to_json() for dataset in self.datasets],
            "unfinished": [str(path) for path in self.unfinished],
            "caches": [
                {
                    "path": str(cache.path),
                    "files": len(cache.deleted),
                    "size_bytes": cache.freed_bytes,
                    "files_in_use": len(cache.in_use),
                }
                for cache in self.caches
            ],
        }


def _files(files: Sequence[CacheFile]) -> str:
    return f"{len(files):,} file{'s' if len(files) > 1 else ''}"
