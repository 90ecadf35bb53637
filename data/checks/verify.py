"""`signals verify`: every file, checksum and row of a dataset, and what to run where something is wrong."""

import contextlib
import importlib.util
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.checks.rows import check_group, check_rollouts
from data.errors import ShardError
from data.files import TEMPORARY_SUFFIX
from data.progress import Progress
from data.signals.dataset import SignalDataset, check_file
from data.signals.manifest import (
    MANIFEST_NAME,
    Manifest,
    RowGroup,
    ShardEntry,
    read_manifest,
    render_manifest,
)
from data.signals.parquet import num_row_groups
from data.signals.rollouts import RolloutDataset, read_rollout_group
from data.signals.shards import read_signal_group

_REBUILD_COMMANDS = {
    SignalDataset.kind: SignalDataset.rebuild_command,
    RolloutDataset.kind: RolloutDataset.rebuild_command,
}

# Where the commands that make datasets work on one until it is finished.
_UNFINISHED = {".work": SignalDataset.rebuild_command, ".translating": "signals translate"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a dataset.

    Attributes:
        file: the file that it is in, relative to the dataset.
        text: what was seen and what must hold.
        row: row of the shard, counted from 0; None where the whole file is meant.
        pair_id: the pair of that row.
        extra: whether the file does not belong to the dataset at all.
    """

    file: str
    text: str
    row: int | None = None
    pair_id: str | None = None
    extra: bool = False

    def __str__(self) -> str:
        """One line for the terminal."""
        place = "" if self.row is None else f", row {self.row} (pair {self.pair_id})"
        return f"{self.file}{place}: {self.text}"


def verify_dataset(path: str | os.PathLike[str]) -> list[Finding]:
    """Check a signal or rollout dataset completely.

    That is: the manifest; that exactly the files that it lists are there, with the right size and SHA-256;
    schema, row counts and dataset of every shard; and all that docs/format.md says must hold in a row.

    Returns:
        What is wrong, in file order; empty for a valid dataset.
    Raises:
        ShardError: for what is no dataset, nor part of one.
    """
    folder = Path(path)
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        # Do not suggest repairs for a folder that is not a dataset.
        if not (_has_manifest(folder) or _is_unfinished(folder) or any(folder.glob("shard-*.parquet"))):
            raise
        return [Finding(MANIFEST_NAME, _without_path(error, folder / MANIFEST_NAME))]
    findings = []
    if (folder / MANIFEST_NAME).read_bytes() != render_manifest(manifest).encode():
        findings.append(Finding(MANIFEST_NAME, "not written as adpa writes it: it was edited or damaged"))
    rebuild = _REBUILD_COMMANDS[manifest.kind]
    seen: set[str] = set()
    entries = (*manifest.shards, *manifest.files)
    with Progress("checking", unit="bytes", total=sum(entry.size_bytes for entry in entries)) as progress:
        for entry in entries:
            try:
                check_file(folder, entry, rebuild=rebuild, content=True)
                if isinstance(entry, ShardEntry):
                    findings += _check_shard(folder, manifest, entry, seen)
            except ShardError as error:
                findings.append(Finding(entry.file, _without_path(error, folder / entry.file)))
            progress.update(entry.size_bytes)
    return findings + list(_extra_files(folder, manifest))


def _check_shard(folder: Path, manifest: Manifest, entry: ShardEntry, seen: set[str]) -> Iterator[Finding]:
    path = folder / entry.file
    try:
        num_groups = num_row_groups(path, rebuild=_REBUILD_COMMANDS[manifest.kind])
        if num_groups != len(entry.row_groups):
            text = f"{num_groups} row groups, the manifest says {len(entry.row_groups)}"
            yield Finding(entry.file, text)
            return
        first_row = 0
        for index, expected in enumerate(entry.row_groups):
            yield from _check_row_group(path, index, expected, manifest, first_row=first_row, seen=seen)
            first_row += expected.rows
    except ShardError as error:
        yield Finding(entry.file, _without_path(error, path))


def _check_row_group(
    path: Path, index: int, expected: RowGroup, manifest: Manifest, *, first_row: int, seen: set[str]
) -> Iterator[Finding]:
    if manifest.kind == RolloutDataset.kind:
        group = read_rollout_group(path, index, fingerprint=manifest.fingerprint)
        positions = group.num_positions
        problems = check_rollouts(group, vocab_size=_vocab_size(manifest, "student"))
    else:
        group = read_signal_group(path, index, fingerprint=manifest.fingerprint)
        positions = len(group.columns["support_sizes"].values)
        problems = check_group(
            group,
            vocab_size=_vocab_size(manifest, "teacher"),
            rounded=manifest.request.get("precision") != "exact",
            translated="translation" in manifest.request,
        )
    found = RowGroup(pairs=group.num_pairs, rows=len(group), positions=positions)
    if found != expected:
        yield Finding(path.name, f"row group {index} has {found}, the manifest says {expected}")
    starts = dict.fromkeys(group.pair_ids)
    for pair_id in starts:
        if pair_id in seen:
            row = first_row + group.pair_ids.index(pair_id)
            yield Finding(path.name, "the pair's rows are not stored together", row, pair_id)
    seen.update(starts)
    for problem in problems:
        where = "" if problem.position is None else f"position {problem.position}: "
        often = "" if problem.count == 1 else f" ({problem.count:,} places in this row group)"
        pair_id = group.pair_ids[problem.row]
        yield Finding(path.name, where + problem.text + often, first_row + problem.row, pair_id)


def _vocab_size(manifest: Manifest, name: str) -> int | None:
    # A translated dataset is on the ids of another tokenizer than the teacher's.
    model = manifest.request.get("translation") or manifest.request.get(name)
    size = model.get("vocab_size") if isinstance(model, dict) else None
    return size if isinstance(size, int) else None


def _extra_files(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """Files that a reader of the folder could take for part of the dataset, and what killed writers left."""
    listed = {entry.file for entry in (*manifest.shards, *manifest.files)}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        suspicious = path.suffix in (".parquet", TEMPORARY_SUFFIX) or name.startswith("tokenizer/")
        if suspicious and path.is_file() and name not in listed:
            yield Finding(name, "not in the manifest: it does not belong to this dataset", extra=True)


def _has_manifest(folder: Path) -> bool:
    return os.path.lexists(folder / MANIFEST_NAME)


def _is_unfinished(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _UNFINISHED) and not _has_manifest(folder)


def _without_path(error: ShardError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").removeprefix(f"{path.parent}: ")


def repair_plan(path: str | os.PathLike[str], findings: list[Finding]) -> list[str]:
    """What to run to repair a dataset, as lines for the terminal; nothing is run or deleted here.

    Args:
        path: the dataset.
        findings: what `verify_dataset` returned.
    Returns:
        Empty for no findings.
    """
    folder = Path(path)
    remove = sorted({finding.file for finding in findings if finding.extra})
    damaged = sorted({finding.file for finding in findings if not finding.extra})
    lines = []
    if remove:
        lines += ["Delete what does not belong to the dataset:", f"  {_removal(folder, remove)}"]
    if _is_unfinished(folder):
        lines += ["Finish it; what is there is kept:", f"  {_command(folder)}"]
    elif damaged:
        # A manifest that cannot be trusted says nothing about the shards either.
        lost = MANIFEST_NAME in damaged
        lines += [
            "Fetch the damaged files again from where the dataset came from (intact ones are kept):",
            *([f"  {_removal(folder, [MANIFEST_NAME])}"] if lost and _has_manifest(folder) else []),
            f"  adpa signals pull --address ADDRESS --out {shlex.quote(str(folder))}",
            "or make them again; what was scored before is taken from the cache of passes:",
            *_engine_needed(folder),
            f"  {f'rm -rf {shlex.quote(str(folder))}' if lost else _removal(folder, damaged)}",
            f"  {_command(folder)}",
        ]
    return lines


def _removal(folder: Path, files: list[str]) -> str:
    return "rm -f " + " ".join(shlex.quote(str(folder / file)) for file in files)


def _engine(folder: Path) -> dict[str, str] | None:
    """Name and version of the engine that a manifest names."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        engine = json.loads((folder / MANIFEST_NAME).read_bytes())["request"]["engine"]
        return {"name": str(engine["name"]), "version": str(engine["version"])}
    return None


def _engine_needed(folder: Path) -> list[str]:
    """What to install before anything is deleted."""
    engine = _engine(folder)
    if engine is None or importlib.util.find_spec(engine["name"]) is not None:
        return []
    return [
        f"(first install {engine['name']} {engine['version']}, which made the dataset and is not here: without it "
        "nothing that is deleted can be made again)"
    ]


def _command(folder: Path) -> str:
    """The command that made a dataset, with the folder where the dataset is now."""
    place = f"--out {shlex.quote(str(folder))}"
    kind, command = SignalDataset.kind, None
    # Also of a manifest that was edited, or is of another version: a person reads the line before running it.
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        content = json.loads((folder / MANIFEST_NAME).read_bytes())
        kind = str(content["kind"])
        command = content["created"]["command"]
    if command:
        engine = _engine(folder)
        # Datasets of earlier versions may have been made with whatever `auto` meant then.
        if engine is not None and "--engine" not in command:
            command = f"{command} --engine {engine['name']}"
        return f"{command} {place}"
    rebuild = next((name for work, name in _UNFINISHED.items() if (folder / work).is_dir()), None)
    rebuild = rebuild or _REBUILD_COMMANDS.get(kind, SignalDataset.rebuild_command)
    return f"adpa {rebuild} ... {place}    (with the options that made the dataset)"
