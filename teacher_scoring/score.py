"""score-teacher: encode rows, run teacher and reference, assemble shards, complete the dataset."""

import collections
import contextlib
import dataclasses
import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from data.errors import AdpaError
from data.files import make_folder
from data.signals.dataset import TOKENIZER_FOLDER, SignalDataset
from data.signals.rollouts import RolloutDataset
from data.storage.store import local_folder
from data.storage.usage import register_user
from data.tokens.vocabulary import save_tokenizer
from data.translation.dataset import TranslationResult, translate_dataset
from teacher_scoring.build.assemble import ScoredShard, assemble_shard
from teacher_scoring.build.dataset_build import DatasetBuild
from teacher_scoring.build.records import ShardRecord
from teacher_scoring.engines.tokenizer import load_tokenizer
from teacher_scoring.options import ScoreOptions
from teacher_scoring.passes.cache import remove_stale_leftovers
from teacher_scoring.passes.run import Pass, PassCounts
from teacher_scoring.passes.tasks import EncodedShard, write_responses
from teacher_scoring.preparation import prepare_request
from teacher_scoring.request import ScoringRequest, describe_engine, score_command
from teacher_scoring.workers.sigterm import exit_on_sigterm

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringResult:
    """What a run of score-teacher did.

    Attributes:
        path: the dataset's folder.
        responses: rows of the dataset, or of the part that was made.
        pairs: pairs of it.
        positions: response positions with signals in it.
        teacher: what was scored and found of the teacher's pass; None when a finished dataset was found.
        reference: likewise; None also without a reference.
        lost: responses without scores, whose pairs are left out.
        reused: whether the dataset was there already.
        translation: what putting it on the student's ids came to; None where it is on the teacher's.
        part: `I/N` when only a part of the shards was made, which leaves the dataset unfinished.
        seconds: time that it took.
    """

    path: Path
    responses: int
    pairs: int
    positions: int
    teacher: PassCounts | None = None
    reference: PassCounts | None = None
    lost: int = 0
    reused: bool = False
    translation: TranslationResult | None = None
    part: str | None = None
    seconds: float = 0.0

    @property
    def next_step(self) -> str | None:
        """What to type next."""
        if self.part is not None:
            return None
        return (
            f"adpa signals report {self.path}, or adpa train-student --signals {self.path} --student STUDENT "
            f"--method {'abd' if self.translation is None else 'adpa'} --out RUN"
        )

    def open(self) -> SignalDataset:
        """The dataset, for reading.

        Raises:
            ShardError: when only a part of it was made.
        """
        return SignalDataset.open(self.path)

    def __str__(self) -> str:
        """The result in one line; with a translation, what that kept below."""
        if self.translation is not None:
            return str(self.translation)
        made = f"{self.path}: {self.responses:,} responses of {self.pairs:,} pairs, {self.positions:,} scored positions"
        if self.part is None:
            return made
        return f"{made} in part {self.part}; when all parts are done, run adpa signals merge {self.path}"


def score_teacher(options: ScoreOptions) -> ScoringResult:
    """Score preference data and rollouts, and write a signal dataset, or the part of it that `shard_range` names.

    Running the same request again continues where it stopped; a finished one is only opened. Several runs may make
    one part each of a dataset at the same time; `merge_parts` completes it.

    With `translate` there are two datasets: one on the teacher's ids, in the store, and the one that was asked for.

    Args:
        options: what to score, with which models, into which folder or, without one, into the store.
    Raises:
        AdpaError: for unusable options, models or data, before any scoring; or for an engine that fails.
        SystemExit: with code 143, after SIGTERM.
    """
    started = time.monotonic()
    with exit_on_sigterm():
        if not options.translate:
            return _score_dataset(options, started)
        on_teacher_ids = _score_dataset(dataclasses.replace(options, out=None), started)
        return _translated(options, on_teacher_ids, started)


def _score_dataset(options: ScoreOptions, started: float) -> ScoringResult:
    request = prepare_request(options)
    with DatasetBuild.open(options.out, request.known, request.reader, part=options.part) as build:
        passes: list[Pass] = [] if build.is_complete else _score(request, build)
        counts = [one.counts for one in passes]
        is_part = not (options.part.is_whole or build.is_complete)
        size = build if is_part else SignalDataset.open(build.out)
        return ScoringResult(
            path=build.out,
            responses=size.num_rows,
            pairs=size.num_pairs,
            positions=size.num_positions,
            teacher=counts[0] if passes else None,
            reference=counts[1] if len(passes) > 1 else None,
            lost=len(build.lost),
            reused=build.is_complete,
            part=options.shard_range if is_part else None,
            seconds=time.monotonic() - started,
        )


def _translated(options: ScoreOptions, scored: ScoringResult, started: float) -> ScoringResult:
    """The dataset that was scored on the teacher's ids, put on those of the student that sampled the rollouts."""
    assert options.rollouts is not None, "refused with the options"
    rollouts = RolloutDataset.open(local_folder(options.rollouts))
    # What the student's template was given when it was asked.
    sampled_with = rollouts.manifest.request
    load = functools.partial(load_tokenizer, option="--rollouts", trust_remote_code=options.trust_remote_code)
    translation = translate_dataset(
        scored.open(),
        rollouts.tokenizer_folder,
        load_tokenizer=load,
        out=options.out,
        rollouts=rollouts.path,
        template_args=sampled_with.get("template_args"),
        thinking=sampled_with.get("thinking", "auto"),
        command=score_command(options),
    )
    dataset = SignalDataset.open(translation.path)
    return dataclasses.replace(
        scored,
        path=translation.path,
        responses=dataset.num_rows,
        pairs=dataset.num_pairs,
        positions=dataset.num_positions,
        reused=translation.reused,
        translation=translation,
        seconds=time.monotonic() - started,
    )


def _score(request: ScoringRequest, build: DatasetBuild) -> list[Pass]:
    """Encode all rows, then run the teacher, then the reference; a shard is written when its last pass is done."""
    options, passes = request.options, []
    rollouts = request.rollouts_by_pair()
    request.check_data(rollouts)
    make_folder(request.cache)
    remove_stale_leftovers(request.cache)
    register_user(request.cache)
    build.begin()
    try:
        rows = request.rows(rollouts)
        write = functools.partial(write_responses, roles=options.roles)
        shards = build.encode(rows, request.reader, write=write, shard_pairs=options.shard_pairs)
        request.report_rows(rollouts)
        if options.part.is_whole:
            request.check_shards(shards)
        logger.info("%s; top-k %d", describe_engine(options, request.models), options.top_k)
        passes = request.passes(build.folder)
        for earlier in passes[:-1]:
            collections.deque(earlier.run(shards), maxlen=0)
        with contextlib.closing(passes[-1].run(shards)) as complete:
            for shard in complete:
                if any(shard.index in one.changed for one in passes) or not build.reuse(shard.index):
                    build.keep(_assemble(request, build, passes, shard))
        save_tokenizer(request.tokenizer, build.out / TOKENIZER_FOLDER)
        build.complete(request.created())
    except AdpaError:
        if not any(one.has_scores for one in passes):
            build.abandon()
        raise
    return passes


def _assemble(
    request: ScoringRequest, build: DatasetBuild, passes: list[Pass], shard: EncodedShard
) -> ShardRecord:
    teacher, *reference = (one.plan.files(shard) for one in passes)
    return assemble_shard(
        ScoredShard(shard, teacher, reference[0] if reference else {}),
        build.shard_path(shard.index),
        request.support_rule,
        fingerprint=build.fingerprint,
        precision=request.options.precision,
        encoding=request.options.encoding,
    )
