"""sample-student from options to rollouts."""

import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.card import write_card
from data.conversations import PreferenceRow
from data.errors import ConfigurationError
from data.files import write_atomic
from data.manifest import Manifest, RowGroup, ShardEntry, fingerprint, write_manifest
from data.preferences import read_preferences
from data.rollouts import Rollout, RolloutDataset, write_rollout_shard
from data.schema import ResponseSignals
from data.shards import read_signal_shard
from data.tokenization import PairEncoder
from teacher_scoring.engine import Engine, Sampling, open_engine
from teacher_scoring.loading import load_tokenizer
from teacher_scoring.models import FoundModel, engine_request, find_model
from teacher_scoring.options import SampleOptions, engine_options
from teacher_scoring.tasks import EncodedShard, write_encoded_shards
from teacher_scoring.workplace import claim_folder, refuse_other_dataset, release_folder

__all__ = ["SampleOptions", "response_seed", "sample_student"]

logger = logging.getLogger(__name__)

Report = Callable[[str], None]


def sample_student(options: SampleOptions, *, report: Report = logger.info) -> RolloutDataset:
    """Sample a student's responses to the prompts of preference data, and write rollouts.

    Running the same request again continues with the first unfinished shard; a finished one is only opened.

    Args:
        options: which student, which prompts, how to draw.
        report: takes lines for the user.
    Raises:
        AdpaError: for unusable options, model or data, before any sampling.
    """
    if options.max_new_tokens >= options.max_length:
        raise ConfigurationError(
            f"--max-new-tokens: {options.max_new_tokens} leaves no room for a prompt within --max-length "
            f"{options.max_length}"
        )
    out = Path(options.out)
    student = find_model(
        "--student",
        options.student,
        revision=options.revision,
        adapter=options.adapter,
        trust_remote_code=options.trust_remote_code,
    )
    tokenizer = load_tokenizer(
        student.folder, option="--student", trust_remote_code=options.trust_remote_code
    )
    encoder = PairEncoder(
        tokenizer, max_length=options.max_length - options.max_new_tokens, truncate=options.truncate
    )
    known = _known_request(options, student, encoder)
    reader = read_preferences(options.data, split=options.split, need="prompt")
    refuse_other_dataset(out, known)
    if (out / "manifest.json").exists():
        for _ in reader:
            pass
        refuse_other_dataset(out, {**known, "data": reader.data_hash})
        report(f"{out} holds these rollouts already; nothing to do")
        return RolloutDataset.open(out)

    work = claim_folder(out, known)
    prompts = _prompts(reader, encoder)
    shards = list(write_encoded_shards(prompts, work, roles=(), shard_pairs=options.shard_pairs))
    report(reader.describe())
    report(encoder.describe())
    encoder.require_rows()
    request = {**known, "data": reader.data_hash}
    entries = _sample_shards(options, student, encoder, tokenizer, shards, fingerprint(request), report)
    manifest = Manifest(
        kind="rollouts",
        request=request,
        shards=tuple(entries),
        created={"by": f"adpa {version('adpa')}", "student": options.student, "data": options.data},
    )
    write_card(out, manifest)
    write_manifest(out, manifest)
    release_folder(out)
    return RolloutDataset.open(out)


def response_seed(seed: int, pair_id: str, sample_index: int) -> int:
    """The seed of one response: derived from what names it, so that neither order nor batching matters."""
    digest = hashlib.sha256(f"{seed}\0{pair_id}\0{sample_index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _known_request(options: SampleOptions, student: FoundModel, encoder: PairEncoder) -> dict[str, Any]:
    names = (
        "num_samples",
        "temperature",
        "top_p",
        "max_new_tokens",
        "max_length",
        "truncate",
        "seed",
        "shard_pairs",
    )
    return {
        **engine_request(options),
        "student": student.identity,
        "tokenizer": encoder.tokenizer_hash,
        "chat_template": encoder.template_hash,
        **{name: getattr(options, name) for name in names},
    }


def _prompts(reader: Iterable[PreferenceRow], encoder: PairEncoder) -> Iterator[list[ResponseSignals]]:
    nothing = np.empty(0, dtype=np.int32)
    for row in tqdm(reader, desc="encoding", unit="prompt", disable=not sys.stderr.isatty()):
        # The answers must not decide which prompts are short enough.
        encoded = encoder.encode(dataclasses.replace(row, chosen=None, rejected=None))
        if encoded is not None:
            yield [ResponseSignals(encoded.pair_id, "student", 0, encoded.prompt_ids, nothing)]


def _sample_shards(
    options: SampleOptions,
    student: FoundModel,
    encoder: PairEncoder,
    tokenizer: Any,
    shards: Sequence[EncodedShard],
    dataset: str,
    report: Report,
) -> list[ShardEntry]:
    """Sample every shard that has no entry beside its prompts yet."""
    out = Path(options.out)
    entry_files = {shard.index: shard.path.with_name(f"entry-{shard.index:05d}.json") for shard in shards}
    todo = [shard for shard in shards if not _is_done(entry_files[shard.index], out, dataset)]
    report(f"student: {len(shards):,} shards of prompts, {len(shards) - len(todo):,} of them sampled before")
    if todo:
        settings = engine_options(
            options,
            str(student.folder),
            str(student.adapter) if student.adapter is not None else None,
            max_length=options.max_length,
        )
        stop = {encoder.terminator_id, tokenizer.eos_token_id} - {None}
        sampling = Sampling(
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            stop_token_ids=tuple(sorted(stop)),
        )
        engine = open_engine(options.engine, settings)
        try:
            for shard in tqdm(todo, desc="sampling", unit="shard", disable=not sys.stderr.isatty()):
                rows = _sample_shard(engine, options, sampling, tokenizer, shard)
                path = out / f"shard-{shard.index:05d}.parquet"
                entry = write_rollout_shard(path, rows, fingerprint=dataset)
                record = {"dataset": dataset, "entry": dataclasses.asdict(entry)}
                write_atomic(entry_files[shard.index], json.dumps(record))
        finally:
            engine.close()
    return [_read_entry(entry_files[shard.index]) for shard in shards]


def _sample_shard(
    engine: Engine, options: SampleOptions, sampling: Sampling, tokenizer: Any, shard: EncodedShard
) -> list[Rollout]:
    asked = [(row, index) for row in read_signal_shard(shard.path) for index in range(options.num_samples)]
    seeds = [response_seed(options.seed, row.pair_id, index) for row, index in asked]
    answers = engine.sample([row.prompt_ids for row, _ in asked], seeds, sampling)
    texts = tokenizer.batch_decode(
        [answer.response_ids.tolist() for answer in answers], skip_special_tokens=True
    )
    return [
        Rollout(
            row.pair_id,
            index,
            row.prompt_ids,
            answer.response_ids,
            text,
            answer.token_logprobs,
            answer.finish_reason,
        )
        for (row, index), answer, text in zip(asked, answers, texts, strict=True)
    ]


def _is_done(entry_file: Path, out: Path, dataset: str) -> bool:
    if not entry_file.exists() or json.loads(entry_file.read_text())["dataset"] != dataset:
        return False
    return (out / _read_entry(entry_file).file).exists()


def _read_entry(path: Path) -> ShardEntry:
    entry = json.loads(path.read_text())["entry"]
    groups = tuple(RowGroup(**group) for group in entry.pop("row_groups"))
    return ShardEntry(**entry, row_groups=groups)
