"""All that a run of score-teacher works with: models, tokenizer, data, rollouts, passes; and the engine's name."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from data.errors import ConfigurationError, DataError
from data.options.command_line import command_line
from data.preferences.reader import PreferenceReader
from data.signals.rollouts import RolloutDataset
from data.signals.schema import ResponseIds
from data.tokens.encoder import PairEncoder
from data.tokens.options import encoder_settings
from teacher_scoring.build.dataset_build import recorded_engine
from teacher_scoring.engines.models import ResolvedModel, engine_request, longest_sequence
from teacher_scoring.engines.open import engine_version, is_installed
from teacher_scoring.engines.tokenizer import load_tokenizer
from teacher_scoring.options import SampleOptions, ScoreOptions
from teacher_scoring.passes.cache import PassPlan
from teacher_scoring.passes.rollout_texts import RolloutTexts
from teacher_scoring.passes.rollouts_by_pair import RolloutRows, RolloutsByPair
from teacher_scoring.passes.run import Pass
from teacher_scoring.passes.scoring import score_given_ids, score_support
from teacher_scoring.passes.tasks import EncodedShard, SupportRule, pair_rows
from teacher_scoring.workers.run import request_engine

logger = logging.getLogger(__name__)

_Options = TypeVar("_Options", ScoreOptions, SampleOptions)


def settle_engine(options: _Options) -> _Options:
    """Options with a named engine: for `auto` the one that the folder is made with, else the best one installed.

    Raises:
        ConfigurationError: the folder's engine is not installed.
    """
    if options.engine != "auto":
        return options
    recorded = recorded_engine(options.out)
    if recorded is None:
        return dataclasses.replace(options, engine="vllm" if is_installed("vllm") else "transformers")
    name = recorded["name"]
    if not is_installed(name):
        raise ConfigurationError(
            f"--engine: {options.out} is made with {name} {recorded['version']}, which is not installed here; install "
            f"that version with the extra [{name}] and run the same command, or choose another --out; all is as it was"
        )
    return dataclasses.replace(options, engine=name)


def describe_engine(options: ScoreOptions | SampleOptions, models: Iterable[ResolvedModel]) -> str:
    """One line: engine, version, dtype of each model, device."""
    import torch  # noqa: PLC0415  (the command line imports this file's neighbours before it knows the command)

    dtypes = ", ".join(
        f"{model.option.removeprefix('--')} in {model.dtype if options.dtype == 'auto' else options.dtype}"
        for model in models
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    workers = f", {options.workers} workers" if options.workers > 1 else ""
    return f"{options.engine} {engine_version(options.engine)} on {device}{workers}: {dtypes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """All that a run of score-teacher needs, checked before it does anything.

    Attributes:
        options: the command's, with a named engine.
        teacher: the model that chooses the support.
        reference: the model that is asked about it; None without one.
        tokenizer: the teacher's.
        encoder: turns rows into ids; counts what it drops.
        max_length: longest prompt plus response that is scored, tokens; of the options or of the models.
        reader: the preference rows.
        rollouts: the student's samples; None without any.
        known: the determining part of the manifest, but for the hash of data that have not been read yet.
        cache: folder of pass files; absolute, because workers may run elsewhere.
    """

    options: ScoreOptions
    teacher: ResolvedModel
    reference: ResolvedModel | None
    tokenizer: Any
    encoder: PairEncoder
    max_length: int
    reader: PreferenceReader
    rollouts: RolloutDataset | None
    known: dict[str, Any]
    cache: Path

    @property
    def models(self) -> list[ResolvedModel]:
        """Teacher and, where there is one, reference."""
        return [self.teacher] if self.reference is None else [self.teacher, self.reference]

    @property
    def support_rule(self) -> SupportRule:
        """What of the scored tokens goes into the dataset."""
        return SupportRule(
            top_p=self.options.top_p,
            teacher_vocab_size=self.teacher.vocab_size,
            reference_vocab_size=self.reference.vocab_size if self.reference is not None else None,
        )

    def plans(self) -> list[PassPlan]:
        """Where the results of the teacher's and, where there is one, the reference's pass are."""
        engine = engine_request(self.options)
        teacher = PassPlan(
            self.cache, {**engine, "model": self.teacher.identity, "top_k": self.options.top_k}
        )
        if self.reference is None:
            return [teacher]
        return [teacher, PassPlan(self.cache, {**engine, "model": self.reference.identity}, teacher=teacher)]

    def passes(self, work_folder: Path) -> list[Pass]:
        """The passes to run, in order.

        Args:
            work_folder: where the token ids are.
        """
        work = [functools.partial(score_support, top_k=self.options.top_k), score_given_ids]
        return [
            Pass(request_engine(self.options, model, shared_folders=(work_folder, self.cache)), plan, do)
            for model, plan, do in zip(self.models, self.plans(), work, strict=False)
        ]

    def rollouts_by_pair(self) -> RolloutRows | None:
        """The rollouts, ready to be looked up by pair."""
        if self.rollouts is None:
            return None
        if self.options.translate:
            student_tokenizer = load_tokenizer(
                self.rollouts.tokenizer_folder,
                option="--rollouts",
                trust_remote_code=self.options.trust_remote_code,
            )
            encoder = row_encoder(self.options, self.tokenizer, self.models)
            return RolloutTexts(self.rollouts, student_tokenizer, self.tokenizer, encoder)
        return RolloutsByPair(
            self.rollouts,
            truncated=self.options.truncate,
            max_length=self.max_length,
            vocab_size=min(model.vocab_size for model in self.models),
        )

    def check_data(self, rollouts: RolloutRows | None) -> None:
        """Refuse data or rollouts that cannot give what was asked for, as far as the first rows tell.

        Raises:
            DataError: no row at all, a role that no row has, or rollouts for other prompts.
        """
        first = next(iter(self.reader))
        roles = self.options.roles
        there = [role for role in roles if role == "student" or getattr(first, role) is not None]
        if there != list(roles):
            missing = " or ".join(role for role in roles if role not in there)
            advice = f"give --score {','.join(there)}" if there else "choose other roles in --score"
            raise DataError(f"{self.options.data}: no {missing} response to score; {advice}")
        if rollouts is not None and not any(row.pair_id in rollouts for row in self.reader):
            raise DataError(
                f"{self.options.rollouts}: none of its pairs is in {self.options.data}; sample from the same data"
            )

    def rows(self, rollouts: RolloutRows | None) -> Iterator[list[ResponseIds]]:
        """The rows of each pair, ids only; what became of the data is known after the last one."""
        rows = self.reader.iterate_with_progress("encoding")
        pairs = ((row, pair) for row in rows if (pair := self.encoder.encode(row)) is not None)
        return pair_rows(pairs, rollouts)

    def report_rows(self, rollouts: RolloutRows | None) -> None:
        """Say what became of the rows.

        Raises:
            DataError: no row is left.
        """
        logger.info("%s", self.reader.describe())
        logger.info("%s", self.encoder.describe())
        if rollouts is not None and (dropped := rollouts.describe()) is not None:
            logger.info("%s", dropped)
        self.encoder.require_rows()

    def check_shards(self, shards: Sequence[EncodedShard]) -> None:
        """Refuse a dataset in which a role that was asked for has no response left.

        Raises:
            DataError: naming the role.
        """
        found = {task.role for shard in shards for task in shard.tasks}
        for role in self.options.roles:
            if role not in found:
                raise DataError(
                    f"{self.options.data}: no {role} response is left to score; leave it out of --score"
                )

    def created(self) -> dict[str, Any]:
        """What is worth knowing of how the dataset came about but does not determine it; no times, no hosts."""
        options = self.options
        created = {
            "by": f"adpa {version('adpa')}",
            "teacher": options.teacher,
            "reference": options.reference,
            "data": options.data,
            "rollouts": options.rollouts,
        }
        # What verify --repair says to run; it adds the folder that the dataset is in by then. With --translate the
        # command makes another dataset there.
        return created if options.translate else {**created, "command": score_command(options)}


def score_command(options: ScoreOptions) -> str:
    """The command line that makes a dataset, without its folder."""
    return command_line("score-teacher", options, determining=True, without=("out",))


def row_encoder(options: ScoreOptions, tokenizer: Any, models: Iterable[ResolvedModel | None]) -> PairEncoder:
    """What turns rows into the teacher's token ids, as the options say and no longer than all models can hold."""
    longest, limited_by = longest_sequence(options.max_length, models)
    return PairEncoder(
        tokenizer,
        max_length=longest,
        limited_by=limited_by,
        truncate=options.truncate,
        **encoder_settings(options),
    )
