"""Finds what determines a signal dataset and checks it: models, tokenizers, data, rollouts, options."""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError, DataError
from data.files import adpa_home
from data.preferences.reader import read_preferences
from data.signals.rollouts import RolloutDataset
from data.signals.rounding import describe_rounding
from data.storage.store import local_folder
from data.tokens.encoder import PairEncoder
from data.tokens.options import encoding_request
from data.tokens.vocabulary import Vocabulary, check_agreement
from teacher_scoring.engines.models import ResolvedModel, engine_request, find_model, longest_sequence
from teacher_scoring.engines.tokenizer import load_tokenizer
from teacher_scoring.options import ScoreOptions
from teacher_scoring.request import ScoringRequest, row_encoder, settle_engine

logger = logging.getLogger(__name__)


def prepare_request(options: ScoreOptions, *, need_weights: bool = True) -> ScoringRequest:
    """Find models, tokenizers, data and rollouts, and check them against each other.

    Args:
        options: the command's.
        need_weights: whether model folders have to hold weights, too; a plan does without.
    Raises:
        AdpaError: for whatever is missing or does not fit.
    """
    options = settle_engine(options)
    if options.translate:
        # What is translated afterwards is rendered anew from its conversations.
        options = dataclasses.replace(options, store_conversations=True)
    teacher, reference = _find_models(options, need_weights)
    tokenizer = load_tokenizer(
        teacher.folder, option="--teacher", trust_remote_code=options.trust_remote_code
    )
    _check_models(options, teacher, reference, tokenizer)
    rollouts = None
    if options.rollouts is not None:
        rollouts = RolloutDataset.open(local_folder(options.rollouts))
        _check_rollouts(options, rollouts, tokenizer)
    longest, _ = longest_sequence(options.max_length, (teacher, reference))
    encoder = row_encoder(options, tokenizer, (teacher, reference))
    _check_terminator(encoder, (teacher, reference))
    if note := encoder.unheeded_terminator(teacher.folder):
        logger.warning("note: %s", note)
    return ScoringRequest(
        options=options,
        teacher=teacher,
        reference=reference,
        tokenizer=tokenizer,
        encoder=encoder,
        max_length=longest,
        reader=read_preferences(options.data, options, need="chosen"),
        rollouts=rollouts,
        known={
            **engine_request(options),
            "teacher": teacher.describe(),
            "reference": reference.describe() if reference is not None else None,
            "tokenizer": encoder.tokenizer_hash,
            "chat_template": encoder.template_hash,
            **encoding_request(options),
            "rollouts": rollouts.manifest.fingerprint if rollouts is not None else None,
            **_student_tokenizer(options, rollouts),
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
        cache=Path(options.pass_cache or adpa_home() / "passes").absolute(),
    )


def _student_tokenizer(options: ScoreOptions, rollouts: RolloutDataset | None) -> dict[str, Any]:
    """The tokenizer of rollouts whose text is scored; nothing where their ids are."""
    if not options.translate or rollouts is None:
        return {}
    return {"rollouts_tokenizer": rollouts.manifest.request["tokenizer"]}


def _check_rollouts(options: ScoreOptions, rollouts: RolloutDataset, tokenizer: Any) -> None:
    """Refuse rollouts whose ids are not the teacher's, or with --translate those that need none."""
    folder = rollouts.tokenizer_folder
    if not (folder / "tokenizer.json").is_file():
        if options.translate:
            raise DataError(
                f"{options.rollouts}: these rollouts hold no tokenizer, as sample-student writes it since --translate "
                "exists; sample again into another folder"
            )
        return
    teacher = Vocabulary.from_tokenizer(tokenizer)
    student = Vocabulary.from_folder(folder)
    names = {"teacher_name": options.teacher, "student_name": f"{options.rollouts} (student)"}
    try:
        check_agreement(teacher, student, **names)
    except DataError as error:
        if not options.translate:
            raise DataError(
                f"{error}, or add --translate: the teacher then scores the answers' text, and its signals are put on "
                "the student's ids (docs/cross_tokenizer.md)"
            ) from error
        return
    if options.translate:
        raise ConfigurationError(
            f"--translate: {options.rollouts} is in the teacher's token ids already; leave the option out"
        )


def _find_models(options: ScoreOptions, need_weights: bool) -> tuple[ResolvedModel, ResolvedModel | None]:
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


def _check_terminator(encoder: PairEncoder, models: Iterable[ResolvedModel | None]) -> None:
    """Refuse a model without the token that every answer ends with."""
    for model in models:
        if model is not None and encoder.terminator_id >= model.vocab_size:
            raise ConfigurationError(
                f"{model.option}: {model.identity['source']} has token ids 0 to {model.vocab_size - 1:,}, but answers "
                f"end with id {encoder.terminator_id:,} of the teacher's tokenizer; take a model whose embedding has "
                "the tokens that were added for chats"
            )


def _check_models(
    options: ScoreOptions, teacher: ResolvedModel, reference: ResolvedModel | None, tokenizer: Any
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
        logger.info("note: %s", note)
