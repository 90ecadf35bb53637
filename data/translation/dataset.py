"""A signal dataset on another tokenizer's ids: shard by shard, resumable, without a model.

Each shard of the source becomes one shard of the result, so that shards can be translated side by side and a run that
was interrupted goes on with the first one that is missing. The manifest comes last. Conversations are rendered anew
with the student's own template from the messages that the source stores; only the signals are carried over.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import logging
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import DataError, ShardError
from data.files import make_folder, write_atomic
from data.locks import hold_lock
from data.preferences.messages import Message, PreferenceRow
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
from data.signals.schema import ResponseSignals
from data.signals.shards import read_signal_shard, write_signal_shard
from data.storage.store import reserve_dataset
from data.tokens.encoder import PairEncoder
from data.translation.rows import RowTranslator, StudentResponse, TranslationCounts
from data.translation.token_bytes import TokenBytes

__all__ = ["RULE", "TokenizerLoader", "TranslationResult", "translate_dataset"]

logger = logging.getLogger(__name__)

#: Names the rule of alignment and projection in requests; a change of the rule is a change of this name.
RULE = "first piece of the same bytes, version 1"

#: Below these shares `translate` warns: less than half of the positions, or a tenth of the mass lost.
LOW_ALIGNED, LOW_PLACED = 0.5, 0.9

_WORK = ".translating"

TokenizerLoader = Callable[[Path], Any]
"""Loads a tokenizer of `transformers` from a folder; picklable where several workers are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationResult:
    """What a translation came to.

    Attributes:
        path: the translated dataset.
        source: fingerprint of the dataset that it was made of.
        reused: whether it was there already.
        rows: scored responses in it.
        dropped: responses that could not be translated, by reason.
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
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
            lines.append(f"  dropped: {reasons}")
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
    workers: int = 1,
    max_length: int | None = None,
    template_args: Mapping[str, Any] | None = None,
    thinking: str = "auto",
) -> TranslationResult:
    """Translate a signal dataset onto the ids of a student's tokenizer.

    The same line again continues where an earlier one stopped; a finished translation is only opened.

    Args:
        source: the dataset; its rows must hold their conversations (format 2).
        tokenizer_folder: folder with the student's tokenizer and chat template.
        load_tokenizer: loads a tokenizer from a folder.
        out: the result's folder; None takes the one in the store that belongs to the request.
        workers: processes that translate shards side by side.
        max_length: drop responses longer than this with their prompt, in the student's tokens; None keeps all.
        template_args: arguments for the student's chat template.
        thinking: what becomes of thoughts, as for `PairEncoder`.
    Raises:
        DataError: a source without conversations, or a tokenizer whose tokens do not determine bytes.
        ShardError: a source that cannot be read, or a folder that holds something else.
    """
    job = _Job(source.path, tokenizer_folder, load_tokenizer, max_length, dict(template_args or {}), thinking)
    context = _Context(job)
    request = context.request(source.manifest)
    name = fingerprint(request)

    def waiting(folder: Path) -> None:
        logger.info("%s: another process is making this dataset; waiting for it", folder)

    with ExitStack() as stack:
        if out is None:
            folder, _ = stack.enter_context(reserve_dataset(name, waiting=waiting))
        else:
            folder = Path(out)
            _check_folder(folder, request)
            if not (folder / MANIFEST_NAME).exists():
                lock = folder.with_name(f".{folder.name}.lock")
                stack.enter_context(hold_lock(lock, waiting=lambda: waiting(folder)))
        reused = (folder / MANIFEST_NAME).exists()
        if not reused:
            _make(source, folder, request, name, job, context, workers)
        manifest = read_manifest(folder)
    return _result(folder, manifest, reused)


def _make(
    source: SignalDataset,
    folder: Path,
    request: Mapping[str, Any],
    name: str,
    job: "_Job",
    context: "_Context",
    workers: int,
) -> None:
    work = folder / _WORK
    make_folder(work)
    write_atomic(work / "request.json", json.dumps(request, indent=2) + "\n")
    entries = source.manifest.shards
    done = {index: record for index in range(len(entries)) if (record := _record(folder, index, name))}
    if done:
        logger.info("%s: %s of %s shards were translated before", folder, len(done), len(entries))
    missing = [index for index in range(len(entries)) if index not in done]
    for index, record in _translated(job, context, folder, name, missing, workers):
        write_atomic(_record_path(folder, index), json.dumps(record))
        done[index] = record
        logger.info("%s: %s of %s shards translated", folder, len(done), len(entries))
    counts = TranslationCounts()
    shards = []
    for index in range(len(entries)):
        counts += TranslationCounts.from_json(done[index]["counts"])
        shards.append(_entry_from_json(done[index]["entry"]))
    if not counts.rows:
        shutil.rmtree(work, ignore_errors=True)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.dropped.most_common())
        raise DataError(f"{source.path}: no response could be translated ({reasons or 'it holds none'})")
    _copy_tokenizer(job.tokenizer_folder, folder)
    manifest = Manifest(
        kind=SignalDataset.kind,
        request=dict(request),
        shards=tuple(shards),
        files=describe_files(folder, TOKENIZER_FOLDER),
        created={**source.manifest.created, "translation": context.summary(counts)},
        format_version=2,
    )
    write_card(folder, manifest)
    write_manifest(folder, manifest)
    shutil.rmtree(work, ignore_errors=True)


def _translated(
    job: "_Job", context: "_Context", folder: Path, name: str, missing: list[int], workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    if workers <= 1 or len(missing) <= 1:
        for index in missing:
            yield index, context.translate_shard(folder, index, name)
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


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker needs to know to begin."""

    source: Path
    tokenizer_folder: Path
    load_tokenizer: TokenizerLoader
    max_length: int | None
    template_args: dict[str, Any]
    thinking: str


class _Context:
    """Both tokenizers, loaded, and the way of a shard through them."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._source = SignalDataset.open(job.source)
        request = self._source.manifest.request
        teacher_tokenizer = job.load_tokenizer(self._source.tokenizer_folder)
        student_tokenizer = job.load_tokenizer(job.tokenizer_folder)
        self._teacher_bytes = TokenBytes(
            teacher_tokenizer.backend_tokenizer, name=str(self._source.tokenizer_folder)
        )
        self._student_bytes = TokenBytes(student_tokenizer.backend_tokenizer, name=str(job.tokenizer_folder))
        # The student's own end of a turn, however its template spells it.
        self._encoder = PairEncoder(
            student_tokenizer,
            max_length=job.max_length,
            template_args=job.template_args,
            thinking=job.thinking,
            train_on=request.get("train_on", "turns"),
            store_conversations=True,
        )
        teacher_end = PairEncoder(teacher_tokenizer).terminator_id
        roles = {teacher_end: self._encoder.terminator_id}
        for role in ("eos_token_id", "bos_token_id"):
            theirs, ours = getattr(teacher_tokenizer, role), getattr(student_tokenizer, role)
            if theirs is not None and ours is not None:
                roles.setdefault(theirs, ours)
        self._translator = RowTranslator(self._teacher_bytes, self._student_bytes, roles, teacher_end)
        self._vocab_size = self._student_bytes.vocab_size

    def request(self, source: Manifest) -> dict[str, Any]:
        """What determines the translated dataset: the source's request with the student's tokenizer and the rule."""
        return {
            **source.request,
            "tokenizer": self._encoder.tokenizer_hash,
            "chat_template": self._encoder.template_hash,
            "translation": {
                "source": source.fingerprint,
                "source_tokenizer": source.request.get("tokenizer"),
                "rule": RULE,
                "vocab_size": self._vocab_size,
                "max_length": self._job.max_length,
                "template_args": self._job.template_args,
                "thinking": self._job.thinking,
            },
        }

    def translate_shard(self, folder: Path, index: int, name: str) -> dict[str, Any]:
        """Translate one shard; its manifest entry and counts as JSON values."""
        entry = self._source.manifest.shards[index]
        counts = TranslationCounts()
        written = write_signal_shard(
            folder / entry.file,
            self._rows(self._source.path / entry.file, counts),
            fingerprint=name,
            precision=self._source.manifest.request.get("precision", "rounded"),
            format_version=2,
        )
        return {"entry": dataclasses.asdict(written), "counts": counts.as_json(), "dataset": name}

    def summary(self, counts: TranslationCounts) -> dict[str, Any]:
        """Counts as they are kept in the manifest."""
        supported = max(counts.supported, 1e-300)
        texts = [
            (self._teacher_bytes[token_id].decode("utf-8", "backslashreplace") or f"id {token_id}", mass)
            for token_id, mass in counts.unplaced.most_common(20)
        ]
        return {
            "rows": counts.rows,
            "dropped": dict(counts.dropped),
            "positions": counts.positions,
            "source_positions": counts.source_positions,
            "aligned_share": counts.aligned / max(counts.positions, 1),
            "placed_mass": counts.placed / supported,
            "exact_mass": counts.exact / supported,
            "unplaced_tokens": texts,
        }

    def _rows(self, path: Path, counts: TranslationCounts) -> Iterator[ResponseSignals]:
        """The shard's rows on the student's ids; a pair of which one response is lost is left out whole."""
        rows = read_signal_shard(path)
        for _, pair in itertools.groupby(rows, key=lambda row: row.pair_id):
            self._translator.counts = of_pair = TranslationCounts()
            translated = [self._translate(row) for row in pair]
            kept = [row for row in translated if row is not None]
            if len(kept) < len(translated):
                of_pair.dropped["another response of its pair could not be translated"] += len(kept)
                of_pair = TranslationCounts(dropped=+of_pair.dropped)
                kept = []
            counts += of_pair
            yield from kept

    def _translate(self, row: ResponseSignals) -> ResponseSignals | None:
        if row.conversation is None:
            raise DataError(
                f"{self._job.source}: pair {row.pair_id} is stored without its conversation, so that no other template "
                "can write it; score the data again with --store-conversations"
            )
        conversation = json.loads(row.conversation)
        turns = tuple(_message(turn) for turn in conversation["messages"])
        cut = conversation["num_prompt_messages"]
        asked = PreferenceRow(
            pair_id=row.pair_id,
            prompt=turns[:cut],
            chosen=turns[cut:],
            rejected=None,
            location=f"{self._job.source}, pair {row.pair_id}, {row.role}",
            tools=None if conversation.get("tools") is None else tuple(conversation["tools"]),
        )
        dropped = Counter(self._encoder.counts.dropped)
        encoded = self._encoder.encode(asked)
        if encoded is None:
            (reason,) = self._encoder.counts.dropped - dropped
            self._translator.counts.dropped[f"student's rendering: {reason}"] += 1
            return None
        if len(encoded.chosen) != 1:
            self._translator.counts.dropped[
                "the student's template writes earlier turns differently later"
            ] += 1
            return None
        (response,) = encoded.chosen
        ids, mask = response.ids, response.mask
        return self._translator.translate(row, StudentResponse(response.prompt_ids, ids, mask))


_worker: _Context | None = None


def _begin_worker(job: _Job) -> None:
    global _worker  # noqa: PLW0603  (a worker process loads its tokenizers once)
    _worker = _Context(job)


def _translate_in_worker(folder: Path, index: int, name: str) -> dict[str, Any]:
    assert _worker is not None
    return _worker.translate_shard(folder, index, name)


def _message(turn: Mapping[str, Any]) -> Message:
    extra = {name: value for name, value in turn.items() if name not in ("role", "content")}
    return Message(turn["role"], turn["content"], extra)


def _check_folder(folder: Path, request: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else than this translation, finished or begun."""
    if (folder / MANIFEST_NAME).exists():
        found = read_manifest(folder).request
    elif (folder / _WORK / "request.json").exists():
        found = json.loads((folder / _WORK / "request.json").read_text())
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ShardError(f"{folder} is not empty and holds no translation; choose another folder")
    else:
        return
    if differences := explain_differences(found, request):
        raise ShardError(
            f"{folder} holds another dataset: {differences}; choose another folder or remove this one"
        )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    make_folder(folder / TOKENIZER_FOLDER)
    for name in names:
        if (source / name).is_file():
            write_atomic(folder / TOKENIZER_FOLDER / name, (source / name).read_bytes())


def _record_path(folder: Path, index: int) -> Path:
    return folder / _WORK / f"done-{index:05d}.json"


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
