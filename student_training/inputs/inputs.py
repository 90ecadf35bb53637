"""What a run trains on: opened, checked against the method and the student, split and weighted."""

import dataclasses
import functools
import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from data.errors import ConfigurationError, DataError
from data.model_identity import resolve_model
from data.signals.dataset import SignalDataset
from data.signals.rollouts import RolloutDataset
from data.storage.transfer import open_signals
from data.tokens.options import encoder_settings
from data.tokens.surprises import differing_templates, stored_template
from data.tokens.vocabulary import Vocabulary, check_agreement
from data.translation.dataset import translate_dataset
from student_training.inputs.pairs import (
    ConcatenatedPairs,
    EncodedPairs,
    PairSource,
    TokenLogprobs,
    read_encoded_pairs,
)
from student_training.methods import Needs
from student_training.options import TrainOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Pairs to train on and to evaluate on.

    Attributes:
        source: all of them, by index.
        train_blocks: for each dataset its blocks: indices of training pairs that are stored together.
        eval_indices: the held-out pairs.
        identity: what run.toml says of the inputs.
        largest_id: the largest id that a tokenizer of theirs has; rows may hold it.
        signals: the signal datasets, in order; none for `--data`.
        rollouts: the rollouts that they were scored on, if given.
    """

    source: PairSource
    train_blocks: list[list[np.ndarray]]
    eval_indices: np.ndarray
    identity: dict[str, Any]
    largest_id: int
    signals: tuple[SignalDataset, ...] = ()
    rollouts: tuple[RolloutDataset, ...] = ()

    @property
    def terminator_id(self) -> int | None:
        """The token that responses end with, from the first pair; None where it has only samples, which may be cut."""
        ends = (int(row.scored_ids[-1]) for row in self.source.pair(0) if row.role != "student")
        return next(ends, None)

    @property
    def has_plain_rollouts(self) -> bool:
        """Whether all rollouts were sampled at temperature 1 from the whole vocabulary."""
        requests = [rollouts.manifest.request for rollouts in self.rollouts]
        return all(request.get("temperature", 1) == request.get("top_p", 1) == 1 for request in requests)

    def behavior(self) -> TokenLogprobs:
        """Log-probabilities of the student rows under the student that sampled them; reads all rollouts.

        Raises:
            DataError: when the rollouts are not those that the signals were scored on.
        """
        found: TokenLogprobs = {}
        first_index = 0
        for signals, rollouts in zip(self.signals, self.rollouts, strict=True):
            found |= behavior_logprobs(signals, rollouts, first_index=first_index)
            first_index += signals.num_pairs
        return found

    def check_embeddings(self, num_embeddings: int, student_name: str) -> None:
        """Refuse rows that hold token ids for which the student has no embedding; reads rows only if there can be any.

        Args:
            num_embeddings: rows of the student's input embedding.
            student_name: what to call the student in messages.
        Raises:
            DataError: naming the first such row.
        """
        if self.largest_id < num_embeddings:
            return
        for _, row in self.source.iterate_ids():
            largest = max(row.prompt_ids.max(), row.response_ids.max())
            if largest >= num_embeddings:
                raise DataError(
                    f"pair {row.pair_id}: token id {largest}, but {student_name} has embeddings for 0 to "
                    f"{num_embeddings - 1:,}; give it more with resize_token_embeddings and save it again, or take "
                    "another student"
                )


def open_inputs(options: TrainOptions, needs: Needs, tokenizer: Any) -> Inputs:
    """Open what the options name and check that it holds what the method needs.

    Args:
        options: the run's.
        needs: the method's.
        tokenizer: the student's.
    Raises:
        AdpaError: for inputs that cannot be used, with this method or this student.
    """
    _check_options(options, needs)
    if options.data is not None:
        pairs, data_hash, described = read_encoded_pairs(
            options.data,
            tokenizer,
            reading=options,
            roles=needs.roles,
            max_length=options.max_length,
            truncate=options.truncate,
            encoding=encoder_settings(options),
        )
        for line in described:
            logger.info(line)
        largest = max(tokenizer.get_vocab().values())
        return _split(options, pairs, [pairs], {"data": data_hash}, largest)
    paths = (*options.signals, *options.eval_signals)
    opened, largest_ids = zip(*_open_signals(paths, options, needs, tokenizer), strict=True)
    signals, eval_signals = opened[: len(options.signals)], opened[len(options.signals) :]
    rollouts = tuple(
        RolloutDataset.open(path, check_shards=options.check_shards) for path in options.rollouts
    )
    identity = {"signals": [dataset.manifest.fingerprint for dataset in signals]}
    if rollouts:
        identity["rollouts"] = [dataset.manifest.fingerprint for dataset in rollouts]
    if eval_signals:
        identity["eval_signals"] = [dataset.manifest.fingerprint for dataset in eval_signals]
    source = opened[0] if len(opened) == 1 else ConcatenatedPairs(opened)
    inputs = _split(options, source, signals, identity, max(largest_ids), signals=signals, rollouts=rollouts)
    if not eval_signals:
        return inputs
    _log_shared(signals, eval_signals)
    first = sum(dataset.num_pairs for dataset in signals)
    return dataclasses.replace(inputs, eval_indices=np.arange(first, source.num_pairs))


def _log_shared(signals: Sequence[SignalDataset], eval_signals: Sequence[SignalDataset]) -> None:
    """Say how many pairs a run both trains and is evaluated on, by their ids."""
    held_out = {pair_id for dataset in eval_signals for pair_id in dataset.pair_ids}
    shared = held_out & {pair_id for dataset in signals for pair_id in dataset.pair_ids}
    logger.info("%s pairs are for evaluation", f"{len(held_out):,}")
    if shared:
        logger.warning(
            "%s of the pairs for evaluation are trained on too, such as %s; on those the evaluation says nothing about "
            "new pairs",
            f"{len(shared):,}",
            min(shared),
        )


def _check_options(options: TrainOptions, needs: Needs) -> None:
    if options.data is not None and needs.signals:
        raise ConfigurationError(
            f"method {options.method} learns from a teacher: give --signals (made by score-teacher), not --data"
        )
    if needs.behavior and not options.rollouts:
        raise ConfigurationError(
            f"method {options.method} needs the sampling student's log-probabilities: give --rollouts, the folder "
            "that score-teacher read, one for each --signals"
        )
    if options.rollouts and "student" not in needs.roles:
        raise ConfigurationError(
            f"--rollouts: method {options.method} learns from no sampled answers, so it does not read them; leave the "
            "option out"
        )
    if options.rollouts and options.eval_signals:
        raise ConfigurationError(
            "--eval-signals: --rollouts holds nothing for them; hold pairs out of --signals with --eval-fraction "
            "instead"
        )


def _open_signals(
    paths: Sequence[str],
    options: TrainOptions,
    needs: Needs,
    tokenizer: Any,
) -> Iterator[tuple[SignalDataset, int]]:
    """The datasets, each with the largest id that its tokenizer has."""
    student = Vocabulary.from_tokenizer(tokenizer)
    for path in paths:
        dataset = open_signals(path, check_shards=options.check_shards)
        teacher = Vocabulary.from_folder(dataset.tokenizer_folder)
        names = {"teacher_name": f"{path} (teacher)", "student_name": options.student}
        try:
            notes = check_agreement(teacher, student, **names)
        except DataError as error:
            if not options.translate:
                raise DataError(f"{error}, or add --translate (docs/cross_tokenizer.md)") from error
            dataset = _translated(dataset, options)
            teacher = Vocabulary.from_folder(dataset.tokenizer_folder)
            notes = check_agreement(teacher, student, **names)
        for note in notes:
            logger.info("note: %s", note)
        template = stored_template(dataset.tokenizer_folder)
        names = {"name": options.student, "other_name": path}
        if surprise := "\n".join(differing_templates(tokenizer, template, **names)):
            logger.warning("note: %s", surprise)
        logger.info(
            f"{path}: {dataset.num_pairs:,} pairs, {dataset.num_rows:,} responses, "
            f"{dataset.num_positions:,} scored positions"
        )
        _check_needs(needs, options.method, path, dataset)
        yield dataset, max(teacher.tokens.values())


def _translated(dataset: SignalDataset, options: TrainOptions) -> SignalDataset:
    """The dataset on the student's ids, from the store or made now."""
    folder, _ = resolve_model(
        options.student, revision=options.revision, option="--student", need_weights=False
    )
    load = functools.partial(AutoTokenizer.from_pretrained, trust_remote_code=options.trust_remote_code)
    result = translate_dataset(dataset, folder, load_tokenizer=load)
    logger.info(
        "%s: signals on the student's ids, %s; %.1f%% of the positions align, %.2f%% of the mass has a place",
        dataset.path,
        result.path,
        100 * result.aligned_share,
        100 * result.placed_mass,
    )
    return SignalDataset.open(result.path)


def _check_needs(needs: Needs, method: str, path: str, dataset: SignalDataset) -> None:
    present = [role for role, count in dataset.manifest.roles.items() if count.rows]
    missing = sorted(needs.roles - set(present))
    if missing:
        hint = "; add --rollouts (made by sample-student) and" if "student" in missing else ";"
        raise DataError(
            f"{path}: method {method} needs {' and '.join(missing)} responses, this dataset has "
            f"{' and '.join(present) or 'none'}{hint} score it with --score {','.join(sorted(needs.roles))}"
        )
    unscored = sorted(needs.signals - set(dataset.roles))
    if unscored:
        raise DataError(
            f"{path}: method {method} needs the teacher's signals on {' and '.join(unscored)} responses, here they "
            f"carry ids only; score again with --score {','.join(sorted(needs.signals))}"
        )
    aligned_share = dataset.manifest.created.get("translation", {}).get("aligned_share", 1.0)
    if needs.own_tokens and aligned_share < 1:
        raise DataError(
            f"{path}: method {method} needs the teacher's log-ratio of each token, and these signals, translated from "
            f"another tokenizer, have none of its own at {1 - aligned_share:.1%} of the positions; take "
            f"{method.replace('token', 'sequence')}, which needs their sum alone"
        )
    if needs.advantages and not dataset.has_advantages:
        raise DataError(
            f"{path}: method {method} needs advantages, but no reference was scored; "
            "run score-teacher again with --reference"
        )


def _split(
    options: TrainOptions,
    source: PairSource,
    parts: Sequence[SignalDataset | EncodedPairs],
    identity: dict[str, Any],
    largest_id: int,
    **opened: Any,
) -> Inputs:
    """Hold pairs out by a hash of their ids: the same ones in every run and dataset that has them."""
    held_out = np.zeros(source.num_pairs, dtype=bool)
    if options.eval_fraction:
        pair_ids = itertools.chain.from_iterable(part.pair_ids for part in parts)
        held_out[:] = [_hash_fraction(pair_id) < options.eval_fraction for pair_id in pair_ids]
        if not held_out.any() or held_out.all():
            raise ConfigurationError(
                f"--eval-fraction: {options.eval_fraction:g} of {source.num_pairs:,} pairs leaves none to "
                f"{'train on' if held_out.all() else 'evaluate on'}; choose another share"
            )
        logger.info(f"{int(held_out.sum()):,} of {source.num_pairs:,} pairs are held out for evaluation")
    train_blocks, first = [], 0
    for part in parts:
        blocks = (np.arange(first + block.start, first + block.stop) for block in part.blocks)
        train_blocks.append([kept for kept in (block[~held_out[block]] for block in blocks) if len(kept)])
        first += part.num_pairs
    return Inputs(source, train_blocks, np.flatnonzero(held_out), identity, largest_id, **opened)


def _hash_fraction(pair_id: str) -> float:
    """A pair's own number in [0, 1), the same everywhere."""
    return int.from_bytes(hashlib.sha256(pair_id.encode()).digest()[:8], "big") / 2**64


def behavior_logprobs(
    signals: SignalDataset, rollouts: RolloutDataset, *, first_index: int = 0
) -> TokenLogprobs:
    """Join rollouts to the student rows of the signals that were scored on them, by id, and compare the tokens.

    All rollouts are in memory while they are joined, their log-probabilities as long as training lasts.

    Args:
        signals: a dataset with `student` rows.
        rollouts: what `sample-student` wrote and `score-teacher --rollouts` read.
        first_index: the index of the dataset's first pair among all that are trained on.
    Returns:
        Nats at temperature 1 by (pair index, "student", sample index), float32 of shape (T,).
    Raises:
        DataError: for a student row that is not among the rollouts, or with other tokens.
    """
    sampled = {(row.pair_id, row.sample_index): row for row in rollouts.iterate()}
    found: TokenLogprobs = {}
    for pair, row in signals.iterate_ids():
        if row.role != "student":
            continue
        rollout = sampled.get((row.pair_id, row.sample_index))
        if rollout is None:
            raise DataError(
                f"{rollouts.path}: no sample {row.sample_index} of pair {row.pair_id}, which {signals.path} has; "
                "give the rollouts that these signals were scored on"
            )
        if not np.array_equal(rollout.response_ids, row.response_ids):
            raise DataError(
                f"{rollouts.path}: sample {row.sample_index} of pair {row.pair_id} has other tokens than in "
                f"{signals.path}; give the rollouts that these signals were scored on"
            )
        found[first_index + pair, row.role, row.sample_index] = rollout.token_logprobs
    return found
