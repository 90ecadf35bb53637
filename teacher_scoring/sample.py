"""sample-student from options to rollouts."""

import contextlib
import functools
import hashlib
import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.errors import AdpaError, ConfigurationError, ScoringError
from data.options.command_line import command_line
from data.preferences.messages import PreferenceRow
from data.preferences.options import reading
from data.preferences.reader import PreferenceReader, read_preferences
from data.signals.card import write_card
from data.signals.fingerprint import fingerprint
from data.signals.manifest import Manifest, write_manifest
from data.signals.rollouts import Rollout, RolloutDataset, write_rollout_shard
from data.signals.schema import ResponseSignals
from data.signals.shards import read_signal_shard
from data.tokens.encoder import PairEncoder
from teacher_scoring.build.complete import write_failed
from teacher_scoring.build.work_folder import (
    LostResponse,
    ShardRecord,
    Workplace,
    is_finished,
    open_destination,
)
from teacher_scoring.engines.checked import LostAnswersError
from teacher_scoring.engines.contract import Engine, SampledResponse, Sampling
from teacher_scoring.engines.models import FoundModel, engine_request, find_model, longest_sequence
from teacher_scoring.engines.tokenizer import load_tokenizer
from teacher_scoring.options import ALL_SHARDS, Report, SampleOptions
from teacher_scoring.passes.cache import Lost
from teacher_scoring.passes.tasks import EncodedShard, write_encoded_shards
from teacher_scoring.workers.run import request_engine, run_on_engine
from teacher_scoring.workers.sigterm import exit_on_sigterm

__all__ = ["SampleOptions", "response_seed", "sample_student"]


logger = logging.getLogger(__name__)


def sample_student(options: SampleOptions, *, report: Report = logger.info) -> RolloutDataset:
    """Sample a student's responses to the prompts of preference data, and write rollouts.

    Running the same request again continues with the first unfinished shard; a finished one is only opened.

    Args:
        options: which student, which prompts, how to draw.
        report: takes lines for the user.
    Raises:
        AdpaError: for unusable options, model or data, before any sampling; or for an engine that fails.
        SystemExit: with code 143, after SIGTERM.
    """
    with exit_on_sigterm():
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
        )
        known = _known_request(options, student, encoder)
        reader = read_preferences(options.data, reading(options), need="prompt")
        with open_destination(options.out, known, reader, ALL_SHARDS, report) as out:
            if is_finished(out, known, reader, report):
                return RolloutDataset.open(out)
            return _Run(options, student, encoder, tokenizer, reader, known, out, report).run()


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
        "student": student.describe(),
        "tokenizer": encoder.tokenizer_hash,
        "chat_template": encoder.template_hash,
        **{name: getattr(options, name) for name in names},
    }


def _prompts(reader: Iterable[PreferenceRow], encoder: PairEncoder) -> Iterator[list[ResponseSignals]]:
    nothing = np.empty(0, dtype=np.int32)
    for row in reader:
        # The answers must not decide which prompts are short enough.
        encoded = encoder.encode(row._replace(chosen=None, rejected=None))
        if encoded is not None:
            yield [ResponseSignals(encoded.pair_id, "student", 0, encoded.prompt_ids, nothing)]


class _Run:
    """One run of sample-student, everything found and checked."""

    def __init__(
        self,
        options: SampleOptions,
        student: FoundModel,
        encoder: PairEncoder,
        tokenizer: Any,
        reader: PreferenceReader,
        known: dict[str, Any],
        out: Path,
        report: Report,
    ) -> None:
        self._options = options
        self._student = student
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._reader = reader
        self._known = known
        self._report = report
        self._out = out

    def run(self) -> RolloutDataset:
        """Read the data once for their hash, then encode and sample what is missing, and complete the dataset."""
        # Every shard carries the dataset's fingerprint, so all rows have to be seen before the first prompt is
        # sampled; and no bad row can then turn up after hours of sampling.
        data_hash = self._reader.read_data_hash()
        place = Workplace.claim(self._out, self._known)
        try:
            return self._sample_into(place, {**self._known, "data": data_hash})
        except AdpaError:
            place.abandon()
            raise

    def _sample_into(self, place: Workplace, request: dict[str, Any]) -> RolloutDataset:
        records = self._sample(place, fingerprint(request))
        lost = [response for record in records for response in record.lost]
        manifest = Manifest(
            kind=RolloutDataset.kind,
            request=request,
            shards=tuple(record.entry for record in records),
            files=write_failed(self._out, lost, self._report),
            created={
                "by": f"adpa {version('adpa')}",
                "student": self._options.student,
                "data": self._options.data,
                "command": command_line("sample-student", self._options, determining=True, without=("out",)),
            },
        )
        write_card(self._out, manifest)
        write_manifest(self._out, manifest)
        place.release()
        return RolloutDataset.open(self._out)

    def _sample(self, place: Workplace, dataset: str) -> list[ShardRecord]:
        """Sample every shard that is not there yet."""
        records: dict[int, ShardRecord] = {}
        todo: deque[EncodedShard] = deque()

        def missing() -> Iterator[EncodedShard]:
            num_found = 0
            for shard in self._encoded(place):
                if (record := place.find(shard.index, dataset)) is not None:
                    records[shard.index] = record
                    num_found += 1
                else:
                    todo.append(shard)
                    yield shard
            num_shards = len(records) + len(todo)
            self._report(f"student: {num_shards:,} shards of prompts, {num_found:,} of them sampled before")

        engine = request_engine(self._options, self._student, shared_folders=[place.folder])
        results = run_on_engine(engine, self._work(), missing())
        with (
            contextlib.closing(results),
            tqdm(desc="student", unit="shard", disable=not sys.stderr.isatty()) as bar,
        ):
            # The engine is at the next shard while this one is decoded and written.
            for answers in results:
                shard = todo.popleft()
                record = self._write(shard, answers, place, dataset)
                place.keep(record, dataset)
                records[shard.index] = record
                bar.update()
        return [records[index] for index in sorted(records)]

    def _encoded(self, place: Workplace) -> Iterator[EncodedShard]:
        """Shards of prompts, as far ahead as they are taken; at the end, what became of the rows."""
        prompts = _prompts(self._reader, self._encoder)
        yield from write_encoded_shards(
            prompts, place.folder, roles=(), shard_pairs=self._options.shard_pairs, wanted=place.part
        )
        self._report(self._reader.describe())
        self._report(self._encoder.describe())
        self._encoder.require_rows()

    def _work(self) -> functools.partial:
        options = self._options
        stop = {self._encoder.terminator_id, self._tokenizer.eos_token_id} - {None}
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
        self, shard: EncodedShard, answers: Sequence[SampledResponse | Lost], place: Workplace, dataset: str
    ) -> ShardRecord:
        asked = _asked(shard, self._options.num_samples)
        lost = [
            LostResponse(row.pair_id, "student", index, "student", answer.reason)
            for (row, index), answer in zip(asked, answers, strict=True)
            if isinstance(answer, Lost)
        ]
        failed = {response.pair_id for response in lost}
        kept = [
            (row, index, answer)
            for (row, index), answer in zip(asked, answers, strict=True)
            if isinstance(answer, SampledResponse) and row.pair_id not in failed
        ]
        texts = self._tokenizer.batch_decode(
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
        entry = write_rollout_shard(place.shard_path(shard.index), rollouts, fingerprint=dataset)
        return ShardRecord(shard.index, entry, tuple(lost))


def _asked(shard: EncodedShard, num_samples: int) -> list[tuple[ResponseSignals, int]]:
    """What the student is asked for in one shard: each prompt and the number of the sample."""
    return [(row, index) for row in read_signal_shard(shard.path) for index in range(num_samples)]


def _sample_shards(
    engine: Engine, shards: Iterable[EncodedShard], *, sampling: Sampling, num_samples: int, seed: int
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
                    f"({error.reasons[min(error.reasons)]}); the model or its --dtype is not sound"
                ) from error
            yield [
                Lost(error.reasons[number]) if answer is None else answer
                for number, answer in enumerate(error.answers)
            ]
