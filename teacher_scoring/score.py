"""score-teacher from options to a signal dataset: encode, teacher pass, reference pass, assemble, complete."""

import functools
import logging
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.errors import AdpaError, DataError
from data.files import adpa_home, make_folder
from data.options.command_line import command_line
from data.signals.dataset import TOKENIZER_FOLDER, SignalDataset
from data.signals.fingerprint import fingerprint
from data.storage.usage import register_user
from data.tokens.encoder import EncodedPair
from teacher_scoring.build.assemble import ScoredShard, assemble_shard
from teacher_scoring.build.complete import complete_dataset
from teacher_scoring.build.work_folder import ShardRecord, Workplace, is_finished, open_destination
from teacher_scoring.engines.models import FoundModel
from teacher_scoring.engines.tokenizer import save_tokenizer
from teacher_scoring.options import ALL_SHARDS, Part, Report, ScoreOptions
from teacher_scoring.passes.cache import PassFile, PassPlan, remove_stale_leftovers
from teacher_scoring.passes.rollouts_by_pair import RolloutsByPair
from teacher_scoring.passes.scoring import PassRun, score_given_ids, score_support
from teacher_scoring.passes.tasks import EncodedShard, pair_rows, write_encoded_shards
from teacher_scoring.request import ScoringRequest, prepare_request
from teacher_scoring.workers.run import EngineRequest, request_engine
from teacher_scoring.workers.sigterm import exit_on_sigterm

__all__ = ["ScoreOptions", "score_shard_range", "score_teacher"]


logger = logging.getLogger(__name__)


def score_teacher(options: ScoreOptions, *, report: Report = logger.info) -> SignalDataset:
    """Score preference data and rollouts, and write a signal dataset.

    Running the same request again continues where it stopped; a finished one is only opened.

    Args:
        options: what to score, with which models, into which folder or, without one, into the store.
        report: takes lines for the user.
    Raises:
        AdpaError: for unusable options, models or data, before any scoring; or for an engine that fails.
        SystemExit: with code 143, after SIGTERM.
    """
    with exit_on_sigterm():
        request = prepare_request(options, report)
        with open_destination(options.out, request.known, request.reader, ALL_SHARDS, report) as out:
            if is_finished(out, request.known, request.reader, report):
                return SignalDataset.open(out)
            return complete_dataset(out, [_score_part(request, out, ALL_SHARDS, report)], report)


def score_shard_range(options: ScoreOptions, *, report: Report = logger.info) -> None:
    """Score the shards of `--shard-range` into the dataset's folder; `merge_parts` completes it.

    Several such runs may work into one folder at a time, each on a range of its own. Each of them reads and encodes
    all rows: only then it is certain which of them fall into its shards.

    Args:
        options: as for `score_teacher`.
        report: takes lines for the user.
    Raises:
        AdpaError: as `score_teacher`.
        SystemExit: with code 143, after SIGTERM.
    """
    part = options.part
    with exit_on_sigterm():
        request = prepare_request(options, report)
        with open_destination(options.out, request.known, request.reader, part, report) as out:
            if is_finished(out, request.known, request.reader, report):
                return
            _score_part(request, out, part, report)
        report(
            f"{out}: part {part} is done; when all {part.of} are, complete it with adpa signals merge {out}"
        )


def _score_part(request: ScoringRequest, out: Path, part: Part, report: Report) -> Workplace:
    """Score and write some of the shards; what this needs of the output folder is removed if it cannot begin."""
    rollouts = request.rollouts_by_pair()
    request.check_data(rollouts)
    place = Workplace.claim(out, request.known, part)
    run = _PartRun(request, place, rollouts, report)
    try:
        run.run()
    except AdpaError:
        if not run.has_results:
            place.abandon()
        raise
    return place


class _PartRun:
    """One run over one part of the dataset."""

    def __init__(
        self, request: ScoringRequest, place: Workplace, rollouts: RolloutsByPair | None, report: Report
    ) -> None:
        self.has_results = False
        self._request = request
        self._options = request.options
        self._place = place
        self._rollouts = rollouts
        self._report = report
        # Absolute, because workers need not run in this folder.
        self._cache = Path(self._options.pass_cache or adpa_home() / "passes").absolute()
        remove_stale_leftovers(self._cache)
        register_user(self._cache)
        self._teacher_plan, self._reference_plan = request.plans(self._cache)
        self._shards: list[EncodedShard] = []
        self._records: list[ShardRecord] = []
        self._scored_now: set[int] = set()

    def run(self) -> None:
        """Encode and run the teacher over what comes, then the reference, writing shards as they get complete."""
        request, options = self._request, self._options
        make_folder(self._cache)  # before the models are loaded, not after the first shard
        teacher_work = functools.partial(score_support, top_k=options.top_k)
        teacher = PassRun(self._engine(request.teacher), self._teacher_plan, teacher_work, self._report)
        for result in teacher.run(self._files(self._encoded(), self._teacher_plan)):
            self._note(result.file, result.positions)
        dataset = {**request.known, "data": request.reader.data_hash}
        name = fingerprint(dataset)
        if request.reference is not None:
            assert self._reference_plan is not None
            reference = PassRun(
                self._engine(request.reference), self._reference_plan, score_given_ids, self._report
            )
            files = self._files(iter(self._shards), self._reference_plan)
            for result in reference.run(files):
                self._note(result.file, result.positions)
                # All before this one are complete, and the engine goes on with the next ones meanwhile.
                self._write_shards(result.file.shard.index, name)
        self._write_shards(None, name)
        save_tokenizer(request.tokenizer, self._place.out / TOKENIZER_FOLDER)
        self._place.finish(dataset, self._records, self._created())

    def _note(self, file: PassFile, positions: int) -> None:
        self.has_results = True
        if positions:
            self._scored_now.add(file.shard.index)

    def _engine(self, model: FoundModel) -> EngineRequest:
        return request_engine(self._options, model, shared_folders=(self._place.folder, self._cache))

    def _encoded(self) -> Iterator[EncodedShard]:
        """Shards of token ids, as far ahead as they are taken; at the end, what became of the rows."""
        request, options = self._request, self._options
        rows = pair_rows(_encode(request), self._rollouts)
        shards = write_encoded_shards(
            rows,
            self._place.folder,
            roles=options.roles,
            shard_pairs=options.shard_pairs,
            wanted=self._place.part,
        )
        for shard in shards:
            self._shards.append(shard)
            yield shard
        self._report(request.reader.describe())
        self._report(request.encoder.describe())
        if self._rollouts is not None and (dropped := self._rollouts.describe()) is not None:
            self._report(dropped)
        request.encoder.require_rows()
        found = {task.role for shard in self._shards for task in shard.tasks}
        for role in options.roles:
            if self._place.part.is_whole and role not in found:
                raise DataError(
                    f"{options.data}: no {role} response is left to score; leave it out of --score"
                )

    @staticmethod
    def _files(shards: Iterable[EncodedShard], plan: PassPlan) -> Iterator[PassFile]:
        return (plan.file(shard, task) for shard in shards for task in shard.tasks)

    def _write_shards(self, before: int | None, dataset: str) -> None:
        """Write the shards whose passes are complete: those before an index, or all."""
        for shard in self._shards[len(self._records) :]:
            if before is not None and shard.index >= before:
                return
            record = None
            if shard.index not in self._scored_now:
                record = self._place.find(shard.index, dataset)
            if record is None:
                record = self._assemble(shard, dataset)
                self._place.keep(record, dataset)
            self._records.append(record)

    def _assemble(self, shard: EncodedShard, dataset: str) -> ShardRecord:
        request = self._request
        files = [
            {task.role: plan.file(shard, task) for task in shard.tasks} if plan is not None else {}
            for plan in (self._teacher_plan, self._reference_plan)
        ]
        return assemble_shard(
            ScoredShard(shard, *files),
            self._place.shard_path(shard.index),
            request.support_rule,
            fingerprint=dataset,
            precision=self._options.precision,
            encoding=self._options.encoding,
        )

    def _created(self) -> dict[str, Any]:
        """What is worth knowing of how the dataset came about but does not determine it; no times, no hosts."""
        options = self._options
        return {
            "by": f"adpa {version('adpa')}",
            "teacher": options.teacher,
            "reference": options.reference,
            "data": options.data,
            "rollouts": options.rollouts,
            # What verify --repair says to run; the folder is where the dataset lies by then.
            "command": command_line("score-teacher", options, determining=True, without=("out",)),
        }


def _encode(request: ScoringRequest) -> Iterator[EncodedPair]:
    return (pair for row in request.reader if (pair := request.encoder.encode(row)) is not None)
