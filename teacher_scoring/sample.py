"""sample-student: encode prompts, sample responses, write rollouts."""

import contextlib
import functools
import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data.errors import AdpaError, ConfigurationError, ScoringError
from data.options.command_line import command_line
from data.preferences.reader import PreferenceReader, read_preferences
from data.progress import Progress
from data.signals.columns import list_column, table_of
from data.signals.dataset import TOKENIZER_FOLDER
from data.signals.parquet import read_row_group, write_parquet
from data.signals.rollouts import Rollout, RolloutDataset, write_rollout_shard
from data.signals.schema import list_of
from data.tokens.encoder import PairEncoder
from data.tokens.options import encoder_settings, encoding_request
from data.tokens.vocabulary import save_tokenizer
from teacher_scoring.build.dataset_build import DatasetBuild
from teacher_scoring.build.records import LostResponse, ShardRecord
from teacher_scoring.engines.checked import CheckedEngine, LostAnswersError
from teacher_scoring.engines.contract import SampledResponse, Sampling
from teacher_scoring.engines.models import ResolvedModel, engine_request, find_model, longest_sequence
from teacher_scoring.engines.tokenizer import load_tokenizer
from teacher_scoring.options import SampleOptions
from teacher_scoring.passes.cache import Lost
from teacher_scoring.passes.scoring import LOST_ADVICE
from teacher_scoring.passes.tasks import EncodedShard
from teacher_scoring.request import describe_engine, settle_engine
from teacher_scoring.workers.run import request_engine, run_on_engine
from teacher_scoring.workers.sigterm import exit_on_sigterm

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingResult:
    """What a run of sample-student did.

    Attributes:
        path: the folder of the rollouts.
        responses: rows of it.
        prompts: prompts that were answered.
        tokens: response tokens.
        found: responses that an earlier run had sampled; all of them where the rollouts were finished.
        lost: responses without a valid answer, whose prompts are left out.
        reused: whether the rollouts were there already.
        seconds: time that it took.
    """

    path: Path
    responses: int
    prompts: int
    tokens: int
    found: int = 0
    lost: int = 0
    reused: bool = False
    seconds: float = 0.0

    @property
    def next_step(self) -> str:
        """What to type next."""
        return (
            f"adpa score-teacher --teacher TEACHER --reference REFERENCE --data DATA --rollouts {self.path} "
            "--score student --out SIGNALS"
        )

    def open(self) -> RolloutDataset:
        """The rollouts, for reading."""
        return RolloutDataset.open(self.path)

    def __str__(self) -> str:
        """The result in one line."""
        return (
            f"{self.path}: {self.responses:,} responses to {self.prompts:,} prompts, {self.tokens:,} tokens"
        )


def sample_student(options: SampleOptions) -> SamplingResult:
    """Sample a student's responses to the prompts of preference data, and write rollouts.

    Running the same request again continues with the first unfinished shard; a finished one is only opened.

    Args:
        options: which student, which prompts, how to draw.
    Raises:
        AdpaError: for unusable options, model or data, before any sampling; or for an engine that fails.
        SystemExit: with code 143, after SIGTERM.
    """
    started = time.monotonic()
    with exit_on_sigterm():
        request = _prepare(options)
        with DatasetBuild.open(options.out, request.known, request.reader, kind=RolloutDataset.kind) as build:
            found = None if build.is_complete else _sample(request, build)
            rollouts = RolloutDataset.open(build.out)
            return SamplingResult(
                path=build.out,
                responses=rollouts.num_rows,
                prompts=rollouts.num_pairs,
                tokens=rollouts.num_positions,
                found=rollouts.num_rows if found is None else found,
                lost=len(build.lost),
                reused=build.is_complete,
                seconds=time.monotonic() - started,
            )


def response_seed(seed: int, pair_id: str, sample_index: int) -> int:
    """The seed of one response: derived from what names it, so that neither order nor batching matters."""
    digest = hashlib.sha256(f"{seed}\0{pair_id}\0{sample_index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """All that a run of sample-student needs, found and checked."""

    options: SampleOptions
    student: ResolvedModel
    tokenizer: Any
    encoder: PairEncoder
    reader: PreferenceReader
    known: dict[str, Any]


def _prepare(options: SampleOptions) -> _Request:
    options = settle_engine(options)
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
    longest, limited_by = longest_sequence(options.max_length, [student])
    if options.max_new_tokens >= longest:
        raise ConfigurationError(
            f"--max-new-tokens: {options.max_new_tokens} leaves no room for a prompt within "
            f"{'--max-length' if limited_by is None else 'the positions of the student'}, {longest}"
        )
    encoder = PairEncoder(
        tokenizer,
        max_length=longest - options.max_new_tokens,
        limited_by=limited_by,
        truncate=options.truncate,
        **encoder_settings(options),
    )
    if note := encoder.unheeded_terminator(student.folder):
        logger.warning("note: %s", note)
    return _Request(
        options=options,
        student=student,
        tokenizer=tokenizer,
        encoder=encoder,
        reader=read_preferences(options.data, options, need="prompt"),
        known=_known_request(options, student, encoder),
    )


def _known_request(options: SampleOptions, student: ResolvedModel, encoder: PairEncoder) -> dict[str, Any]:
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
        "student": student.describe(),
        "tokenizer": encoder.tokenizer_hash,
        "chat_template": encoder.template_hash,
        **encoding_request(options),
        **{name: getattr(options, name) for name in names},
    }


class _Prompt(NamedTuple):
    """Token ids that the student is to continue, int32 (P,), and the pair that they belong to."""

    pair_id: str
    prompt_ids: np.ndarray


_PROMPT_SCHEMA = pa.schema([("pair_id", pa.string()), ("prompt_ids", list_of(pa.int32()))])


def _prompts(reader: PreferenceReader, encoder: PairEncoder) -> Iterator[list[_Prompt]]:
    for row in reader.iterate_with_progress("encoding"):
        # Without the answers, whose lengths must not decide which prompts are short enough.
        encoded = encoder.encode(row._replace(chosen=None, rejected=None))
        if encoded is not None:
            yield [_Prompt(encoded.pair_id, encoded.prompt_ids)]


def _write_prompts(path: Path, prompts: Sequence[_Prompt]) -> tuple[()]:
    write_parquet(path, [table_of(prompts, _PROMPT_SCHEMA)], _PROMPT_SCHEMA, fingerprint="")
    return ()


def _read_prompts(path: Path) -> list[_Prompt]:
    table = read_row_group(path, 0, schema=_PROMPT_SCHEMA, rebuild=RolloutDataset.rebuild_command)
    ids = list_column(table["prompt_ids"])
    prompts = np.split(ids.values, ids.offsets[1:-1])
    return list(map(_Prompt, table["pair_id"].to_pylist(), prompts))


def _sample(request: _Request, build: DatasetBuild) -> int:
    """Encode all prompts, sample the shards that are not there yet; the number of responses that were there."""
    options = request.options
    build.begin()
    try:
        prompts = _prompts(request.reader, request.encoder)
        shards = build.encode(prompts, request.reader, write=_write_prompts, shard_pairs=options.shard_pairs)
        logger.info("%s", request.reader.describe())
        logger.info("%s", request.encoder.describe())
        request.encoder.require_rows()
        todo = [shard for shard in shards if not build.reuse(shard.index)]
        found = build.num_rows
        logger.info("%s", describe_engine(options, [request.student]))
        logger.info(
            "student: %d shards of prompts, %d of them sampled before", len(shards), len(shards) - len(todo)
        )
        engine = request_engine(options, request.student, shared_folders=[build.folder])
        progress = Progress(
            "student", unit="responses", total=options.num_samples * request.encoder.counts.kept - found
        )
        results = run_on_engine(engine, _work(request), todo, progress.hear)
        with contextlib.closing(results), progress:
            # The engine is at the next shard while this one is decoded and written.
            for shard, answers in zip(todo, results, strict=True):
                build.keep(_write(request, build, shard, answers))
                progress.update(len(answers))
        save_tokenizer(request.tokenizer, build.out / TOKENIZER_FOLDER)
        build.complete(
            {
                "by": f"adpa {version('adpa')}",
                "student": options.student,
                "data": options.data,
                "command": command_line("sample-student", options, determining=True, without=("out",)),
            }
        )
    except AdpaError:
        build.abandon()
        raise
    return found


def _work(request: _Request) -> functools.partial:
    options = request.options
    stop = {request.encoder.terminator_id, request.tokenizer.eos_token_id} - {None}
    sampling = Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        stop_token_ids=tuple(sorted(stop)),
    )
    return functools.partial(
        _sample_shards, sampling=sampling, num_samples=options.num_samples, seed=options.seed
    )


def _write(
    request: _Request, build: DatasetBuild, shard: EncodedShard, answers: Sequence[SampledResponse | Lost]
) -> ShardRecord:
    asked = list(zip(_asked(shard, request.options.num_samples), answers, strict=True))
    lost = [
        LostResponse(row.pair_id, "student", index, "student", answer.reason)
        for (row, index), answer in asked
        if isinstance(answer, Lost)
    ]
    failed = {response.pair_id for response in lost}
    kept = [
        (row, index, answer)
        for (row, index), answer in asked
        if isinstance(answer, SampledResponse) and row.pair_id not in failed
    ]
    texts = request.tokenizer.batch_decode(
        [answer.response_ids.tolist() for _, _, answer in kept], skip_special_tokens=True
    )
    rollouts = [
        Rollout(
            row.pair_id,
            index,
            row.prompt_ids,
            answer.response_ids,
            text,
            answer.token_logprobs,
            answer.finish_reason,
        )
        for (row, index, answer), text in zip(kept, texts, strict=True)
    ]
    entry = write_rollout_shard(build.shard_path(shard.index), rollouts, fingerprint=build.fingerprint)
    return ShardRecord(shard.index, entry, tuple(lost))


def _asked(shard: EncodedShard, num_samples: int) -> list[tuple[_Prompt, int]]:
    """What the student is asked for in one shard: each prompt and the number of the sample."""
    return [(prompt, index) for prompt in _read_prompts(shard.path) for index in range(num_samples)]


def _sample_shards(
    engine: CheckedEngine, shards: Iterable[EncodedShard], *, sampling: Sampling, num_samples: int, seed: int
) -> Iterator[Sequence[SampledResponse | Lost]]:
    """The responses to the prompts of each shard, in the order of `_asked`."""
    for shard in shards:
        asked = _asked(shard, num_samples)
        seeds = [response_seed(seed, row.pair_id, index) for row, index in asked]
        try:
            yield engine.sample([row.prompt_ids for row, _ in asked], seeds, sampling)
        except LostAnswersError as error:
            if len(error.reasons) == len(asked):
                raise ScoringError(
                    f"all {len(asked)} responses of shard {shard.index} were lost "
                    f"({error.reasons[min(error.reasons)]}); {LOST_ADVICE}"
                ) from error
            yield [
                Lost(error.reasons[number]) if answer is None else answer
                for number, answer in enumerate(error.answers)
            ]
