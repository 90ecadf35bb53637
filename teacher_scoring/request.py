"""What determines a signal dataset's numbers: models, tokenizer, rollouts, options; found and checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError, DataError
from data.preferences.options import reading
from data.preferences.reader import PreferenceReader, read_preferences
from data.signals.rollouts import RolloutDataset
from data.signals.rounding import describe_rounding
from data.storage.store import local_folder
from data.tokens.encoder import PairEncoder
from data.tokens.vocabulary import Vocabulary, check_agreement
from teacher_scoring.engines.models import FoundModel, engine_request, find_model, longest_sequence
from teacher_scoring.engines.tokenizer import load_tokenizer
from teacher_scoring.options import Report, ScoreOptions
from teacher_scoring.passes.cache import PassPlan
from teacher_scoring.passes.rollouts_by_pair import RolloutsByPair
from teacher_scoring.passes.tasks import SupportRule

__all__ = ["ScoringRequest", "prepare_request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """All that a run of score-teacher needs, checked before it does anything.

    Attributes:
        options: the command's.
        teacher: the model that chooses the support.
        reference: the model that is asked about it; None without one.
        tokenizer: the teacher's.
        encoder: turns rows into ids; counts what it drops.
        max_length: longest prompt plus response that is scored, tokens; of the options or of the models.
        reader: the preference rows.
        rollouts: the student's samples; None without any.
        known: the determining part of the manifest, but for the hash of data that have not been read yet.
    """

    options: ScoreOptions
    teacher: FoundModel
    reference: FoundModel | None
    tokenizer: Any
    encoder: PairEncoder
    max_length: int
    reader: PreferenceReader
    rollouts: RolloutDataset | None
    known: dict[str, Any]

    @property
    def support_rule(self) -> SupportRule:
        """What of the scored tokens goes into the dataset."""
        return SupportRule(
            top_p=self.options.top_p,
            teacher_vocab_size=self.teacher.vocab_size,
            reference_vocab_size=self.reference.vocab_size if self.reference is not None else None,
        )

    def plans(self, cache: Path) -> tuple[PassPlan, PassPlan | None]:
        """Where the results of the teacher's and the reference's pass lie."""
        engine = engine_request(self.options)
        teacher = PassPlan(cache, {**engine, "model": self.teacher.identity, "top_k": self.options.top_k})
        if self.reference is None:
            return teacher, None
        return teacher, PassPlan(cache, {**engine, "model": self.reference.identity}, teacher=teacher)

    def rollouts_by_pair(self) -> RolloutsByPair | None:
        """The rollouts, ready to be looked up by pair."""
        if self.rollouts is None:
            return None
        models = [self.teacher] if self.reference is None else [self.teacher, self.reference]
        return RolloutsByPair(
            self.rollouts,
            truncated=self.options.truncate,
            max_length=self.max_length,
            vocab_size=min(model.vocab_size for model in models),
        )

    def check_data(self, rollouts: RolloutsByPair | None) -> None:
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


def prepare_request(options: ScoreOptions, report: Report, *, need_weights: bool = True) -> ScoringRequest:
    """Find models, tokenizers, data and rollouts, and check them against each other.

    Args:
        options: the command's.
        report: takes notes for the user.
        need_weights: whether model folders have to hold weights, too; a plan does without.
    Raises:
        AdpaError: for whatever is missing or does not fit.
    """
    teacher, reference = _find_models(options, need_weights)
    tokenizer = load_tokenizer(
        teacher.folder, option="--teacher", trust_remote_code=options.trust_remote_code
    )
    _check_models(options, teacher, reference, tokenizer, report)
    rollouts = None
    if options.rollouts is not None:
        rollouts = RolloutDataset.open(local_folder(options.rollouts))
    longest, limited_by = longest_sequence(options.max_length, (teacher, reference))
    encoder = PairEncoder(tokenizer, max_length=longest, limited_by=limited_by, truncate=options.truncate)
    _check_terminator(encoder, (teacher, reference))
    return ScoringRequest(
        options=options,
        teacher=teacher,
        reference=reference,
        tokenizer=tokenizer,
        encoder=encoder,
        max_length=longest,
        reader=read_preferences(options.data, reading(options), need="chosen"),
        rollouts=rollouts,
        known={
            **engine_request(options),
            "teacher": teacher.describe(),
            "reference": reference.describe() if reference is not None else None,
            "tokenizer": encoder.tokenizer_hash,
            "chat_template": encoder.template_hash,
            "rollouts": rollouts.manifest.fingerprint if rollouts is not None else None,
            "roles": list(options.roles),
            "top_k": options.top_k,
            "top_p": options.top_p,
            "max_length": options.max_length,
            "truncate": options.truncate,
            "precision": options.precision,
            "rounding": describe_rounding(options.precision),
            "encoding": options.encoding,
            "shard_pairs": options.shard_pairs,
        },
    )


def _find_models(options: ScoreOptions, need_weights: bool) -> tuple[FoundModel, FoundModel | None]:
    teacher = find_model(
        "--teacher",
        options.teacher,
        revision=options.teacher_revision,
        adapter=options.teacher_adapter,
        trust_remote_code=options.trust_remote_code,
        need_weights=need_weights,
    )
    if options.reference is None:
        return teacher, None
    reference = find_model(
        "--reference",
        options.reference,
        revision=options.reference_revision,
        adapter=options.reference_adapter,
        trust_remote_code=options.trust_remote_code,
        need_weights=need_weights,
    )
    return teacher, reference


def _check_terminator(encoder: PairEncoder, models: Iterable[FoundModel | None]) -> None:
    """Refuse a model that has no place for the token that every answer ends with."""
    for model in models:
        if model is not None and encoder.terminator_id >= model.vocab_size:
            raise ConfigurationError(
                f"{model.option}: {model.identity['source']} has token ids 0 to {model.vocab_size - 1:,}, but answers "
                f"end with id {encoder.terminator_id:,} of the teacher's tokenizer; take a model whose embedding has "
                "the tokens that were added for chats"
            )


def _check_models(
    options: ScoreOptions, teacher: FoundModel, reference: FoundModel | None, tokenizer: Any, report: Report
) -> None:
    """Refuse before any work what would fail or mislead after hours of it."""
    if options.top_k > teacher.vocab_size:
        raise ConfigurationError(
            f"--top-k: {options.top_k} is above the teacher's vocabulary of {teacher.vocab_size} tokens"
        )
    if reference is None:
        return
    other = load_tokenizer(
        reference.folder, option="--reference", trust_remote_code=options.trust_remote_code
    )
    notes = check_agreement(
        Vocabulary.from_tokenizer(tokenizer),
        Vocabulary.from_tokenizer(other),
        teacher_name=options.teacher,
        student_name=str(options.reference),
        role="reference",
    )
    for note in notes:
        report(f"note: {note}")
