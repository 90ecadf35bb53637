"""A signal dataset on another tokenizer's ids: shard by shard, resumable, without a model.

Each shard of the source becomes one shard of the result, so that shards can be translated side by side and a run that
was interrupted goes on with the first one that is missing. The manifest comes last. What happens inside a shard is in
`data.translation.shard`.
"""

import concurrent.futures
import contextlib
import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import AdpaError, DataError, ShardError
from data.files import make_folder, write_atomic
from data.locks import hold_lock
from data.signals.card import write_card
from data.signals.dataset import TOKENIZER_FOLDER, SignalDataset, is_intact
from data.signals.fingerprint import explain_differences, fingerprint
from data.signals.manifest import (
    MANIFEST_NAME,
    Manifest,
    RoleCount,
    RowGroup,
    ShardEntry,
    describe_files,
    read_manifest,
    write_manifest,
)
from data.storage.store import reserve_dataset
from data.translation.counts import TranslationCounts, describe_dropped
from data.translation.shard import ShardTranslator, TokenizerLoader, TranslationJob

logger = logging.getLogger(__name__)

#: Below these shares `translate` warns: less than half of the positions, or a tenth of the mass lost.
LOW_ALIGNED, LOW_PLACED = 0.5, 0.9

#: Where a translation keeps what it needs until it is finished.
WORK_NAME = ".translating"


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationResult:
    """The result of a translation.

    Attributes:
        path: the translated dataset.
        source: fingerprint of the dataset that it was made of.
        reused: whether it was there already.
        rows: scored responses in it.
        dropped: responses that could not be translated, by reason.
        first_dropped: for each reason, the first pair that it held for.
        aligned_share: of the student's positions, those that carry a distribution.
        placed_mass: of the teacher's mass on its support at these positions, the share that has a place.
        exact_mass: of the same mass, the share for which the rule claims to be exact.
        unplaced_tokens: the teacher's tokens without a place, by the mass that they lost, the largest first.
    """

    path: Path
    source: str
    reused: bool
    rows: int
    dropped: Mapping[str, int]
    first_dropped: Mapping[str, str]
    aligned_share: float
    placed_mass: float
    exact_mass: float
    unplaced_tokens: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        verb = "holds this translation already" if self.reused else "translated"
        lines = [
            f"{self.path}: {verb}; {self.rows:,} scored responses",
            f"  aligned positions: {self.aligned_share:.1%} of the student's carry a distribution",
            f"  placed mass: {self.placed_mass:.2%} of the teacher's mass on its top-k ({self.exact_mass:.1%} exactly)",
        ]
        if self.dropped:
            lines.append(f"  dropped: {describe_dropped(self.dropped, self.first_dropped)}")
        if self.unplaced_tokens:
            tokens = ", ".join(repr(text) for text, _ in self.unplaced_tokens[:8])
            lines.append(f"  without a place most often: {tokens}")
        return "\n".join(lines)


def translate_dataset(
    source: SignalDataset,
    tokenizer_folder: Path,
    *,
    load_tokenizer: TokenizerLoader,
    out: str | None = None,
    rollouts: Path | None = None,
    workers: int = 1,
    max_length: int | None = None,
    template_args: Mapping[str, Any] | None = None,
    thinking: str = "auto",
    command: str | None = None,
) -> TranslationResult:
    """Translate a signal dataset onto the ids of a student's tokenizer.

    The same line again continues where an earlier one stopped; a finished translation is only opened.

    Args:
        source: the dataset; its rows must hold their conversations (format 2), but for sampled ones.
        tokenizer_folder: folder with the student's tokenizer and chat template.
        load_tokenizer: loads a tokenizer from a folder.
        out: the result's folder; None takes the one in the store that belongs to the request.
        rollouts: folder of the student's own answers, where the source has scores of them; their ids are kept.
        workers: processes that translate shards side by side.
        max_length: drop responses longer than this with their prompt, in the student's tokens; None keeps all.
        template_args: arguments for the student's chat template.
        thinking: what becomes of thoughts, as for `PairEncoder`.
        command: the command line that makes the dataset, for `signals verify --repair`, without `--out`.
    Raises:
        DataError: a source without conversations, rollouts that are missing or not the source's, or a tokenizer whose
            tokens do not determine bytes.
        ShardError: a source that cannot be read, or a folder that holds something else.
    """
    job = TranslationJob(
        source=source.path,
        tokenizer_folder=tokenizer_folder,
        load_tokenizer=load_tokenizer,
        rollouts=rollouts,
        max_length=max_length,
        template_args=dict(template_args or {}),
        thinking=thinking,
    )
    translator = ShardTranslator(job)
    request = translator.request(source.manifest)
    name = fingerprint(request)

    def waiting(folder: Path) -> None:
        logger.info("%s: another process is making this dataset; waiting for it", folder)

    with contextlib.ExitStack() as stack:
        if out is None:
            folder, _ = stack.enter_context(reserve_dataset(name, waiting=waiting))
        else:
            folder = Path(out)
            _check_folder(folder, request)
            if not _is_complete(folder):
                stack.enter_context(_held(folder, waiting))
                # Another process may have made something else there in the meantime.
                _check_folder(folder, request)
        reused = _is_complete(folder)
        if reused:
            # Left there by a run that was killed between its last two steps.
            shutil.rmtree(folder / WORK_NAME, ignore_errors=True)
        else:
            _make(source, folder, request, name, job, translator, workers, command)
        manifest = read_manifest(folder)
    return _result(folder, manifest, reused)


@contextlib.contextmanager
def _held(folder: Path, waiting: Callable[[Path], None]) -> Iterator[None]:
    lock = folder.with_name(f".{folder.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(lock, waiting=lambda: waiting(folder)))
        except OSError as error:
            raise ShardError(
                f"{folder}: cannot be written: {error.strerror}; choose another --out"
            ) from error
        yield


def _make(
    source: SignalDataset,
    folder: Path,
    request: Mapping[str, Any],
    name: str,
    job: TranslationJob,
    translator: ShardTranslator,
    workers: int,
    command: str | None,
) -> None:
    work = folder / WORK_NAME
    make_folder(work)
    # There only where files of a finished dataset are missing; it comes back when all of them are.
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    write_atomic(work / "request.json", json.dumps(request, indent=2) + "\n")
    entries = source.manifest.shards
    done = {index: record for index in range(len(entries)) if (record := _record(folder, index, name))}
    if done:
        logger.info("%s: %s of %s shards were translated before", folder, len(done), len(entries))
    missing = [index for index in range(len(entries)) if index not in done]
    try:
        for index, record in _translated(job, translator, folder, name, missing, workers):
            write_atomic(_record_path(folder, index), json.dumps(record))
            done[index] = record
            logger.info("%s: %s of %s shards translated", folder, len(done), len(entries))
    except AdpaError:
        if not done:
            _remove_all(folder, ())
        raise
    counts = TranslationCounts()
    shards = []
    for index in range(len(entries)):
        counts += TranslationCounts.from_json(done[index]["counts"])
        shards.append(_entry_from_json(done[index]["entry"]))
    if not counts.rows:
        _remove_all(folder, shards)
        reasons = describe_dropped(counts.dropped, counts.first_dropped)
        raise DataError(f"{source.path}: no response could be translated ({reasons or 'it holds none'})")
    translator.save_tokenizer(folder / TOKENIZER_FOLDER)
    # The source's own command makes the source, not this.
    created = {key: value for key, value in source.manifest.created.items() if key != "command"}
    if command is not None:
        created["command"] = command
    manifest = Manifest(
        kind=SignalDataset.kind,
        request=dict(request),
        shards=tuple(shards),
        files=describe_files(folder, TOKENIZER_FOLDER),
        created={**created, "translation": translator.summary(counts)},
        format_version=2,
    )
    write_card(folder, manifest)
    write_manifest(folder, manifest)
    shutil.rmtree(work, ignore_errors=True)


def _translated(
    job: TranslationJob,
    translator: ShardTranslator,
    folder: Path,
    name: str,
    missing: list[int],
    workers: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
    if workers <= 1 or len(missing) <= 1:
        for index in missing:
            yield index, translator.translate_shard(folder, index, name)
        return
    # Spawned, not forked: tokenizers hold threads that do not survive a fork.
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(missing)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(job,),
    ) as pool:
        futures = {pool.submit(_translate_in_worker, folder, index, name): index for index in missing}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_worker: ShardTranslator | None = None


def _begin_worker(job: TranslationJob) -> None:
    global _worker  # noqa: PLW0603  (a worker process loads its tokenizers once)
    _worker = ShardTranslator(job)


def _translate_in_worker(folder: Path, index: int, name: str) -> dict[str, Any]:
    assert _worker is not None
    return _worker.translate_shard(folder, index, name)


def _check_folder(folder: Path, request: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else than this translation, finished or begun."""
    if (folder / MANIFEST_NAME).exists():
        found = read_manifest(folder).request
    elif (folder / WORK_NAME / "request.json").exists():
        found = json.loads((folder / WORK_NAME / "request.json").read_text())
    elif folder.is_file() or (folder.is_dir() and any(path.name != WORK_NAME for path in folder.iterdir())):
        raise ShardError(f"{folder} is not empty and holds no translation; choose another folder")
    else:
        return
    if differences := explain_differences(found, request):
        raise ShardError(
            f"{folder} holds another dataset: {differences}; choose another folder or remove this one"
        )


def _is_complete(folder: Path) -> bool:
    """Whether a finished dataset has all its files, each of the right size. Contents are not compared."""
    if not (folder / MANIFEST_NAME).exists():
        return False
    manifest = read_manifest(folder)
    return all(is_intact(folder, entry, content=False) for entry in (*manifest.shards, *manifest.files))


def _remove_all(folder: Path, shards: Sequence[ShardEntry]) -> None:
    """Remove a translation of which nothing is left, so that the same folder can take another."""
    shutil.rmtree(folder / WORK_NAME, ignore_errors=True)
    for shard in shards:
        (folder / shard.file).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _record_path(folder: Path, index: int) -> Path:
    return folder / WORK_NAME / f"done-{index:05d}.json"


def _record(folder: Path, index: int, name: str) -> dict[str, Any] | None:
    """The record of a shard that was translated before for the same dataset, and is still intact."""
    path = _record_path(folder, index)
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    is_same = record["dataset"] == name
    return record if is_same and is_intact(folder, _entry_from_json(record["entry"]), content=False) else None


def _entry_from_json(content: Mapping[str, Any]) -> ShardEntry:
    return ShardEntry(
        file=content["file"],
        size_bytes=content["size_bytes"],
        sha256=content["sha256"],
        row_groups=tuple(RowGroup(**group) for group in content["row_groups"]),
        roles={role: RoleCount(**count) for role, count in content["roles"].items()},
    )


def _result(folder: Path, manifest: Manifest, reused: bool) -> TranslationResult:
    summary = manifest.created["translation"]
    result = TranslationResult(
        path=folder,
        source=manifest.request["translation"]["source"],
        reused=reused,
        rows=summary["rows"],
        dropped=summary["dropped"],
        first_dropped=summary.get("first_dropped", {}),
        aligned_share=summary["aligned_share"],
        placed_mass=summary["placed_mass"],
        exact_mass=summary["exact_mass"],
        unplaced_tokens=tuple((text, mass) for text, mass in summary["unplaced_tokens"]),
    )
    if result.aligned_share < LOW_ALIGNED or result.placed_mass < LOW_PLACED:
        logger.warning(
            "%s: %.0f%% of the positions align and %.1f%% of the mass has a place; with so little, methods on whole "
            "responses (dpkd) lose nothing, while dckd and abd see part of the teacher",
            folder,
            100 * result.aligned_share,
            100 * result.placed_mass,
        )
    return result
