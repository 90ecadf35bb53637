"""Assembles signal shards from passes: supports, advantages, tails; pairs that lost scores are left out."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import ShardError
from data.signals.schema import ResponseIds, ResponseSignals
from data.signals.shards import read_signal_shard, shard_format_version, write_signal_shard
from data.signals.support import tail_logprobs, truncate_top_p
from teacher_scoring.build.records import LostResponse, ShardRecord
from teacher_scoring.engines.contract import GivenScores, SupportScores
from teacher_scoring.passes.cache import Lost, PassFile, read_reference, read_teacher
from teacher_scoring.passes.tasks import EncodedShard, SupportRule


@dataclass(frozen=True, slots=True)
class ScoredShard:
    """One shard whose passes are complete.

    Attributes:
        shard: token ids of its rows.
        teacher: the teacher's pass files by role.
        reference: the reference's by role; empty without a reference.
    """

    shard: EncodedShard
    teacher: Mapping[str, PassFile]
    reference: Mapping[str, PassFile]


def assemble_shard(
    scored: ScoredShard, path: Path, rule: SupportRule, *, fingerprint: str, precision: str, encoding: str
) -> ShardRecord:
    """Write one shard of the dataset from its passes.

    A pair with a response that lost its scores is left out whole: no method may mistake half a pair for one.

    Args:
        scored: ids and passes.
        path: the shard's file.
        rule: what to keep.
        fingerprint: the dataset's.
        precision: `rounded` or `exact`.
        encoding: `compact` or `plain`.
    Raises:
        ShardError: a pass file that has been damaged since it was checked; it is removed.
    """
    lost: list[LostResponse] = []

    def rows() -> Iterator[ResponseIds]:
        for _, pair in itertools.groupby(_scored_rows(scored, rule), key=lambda row: row[0].pair_id):
            responses = list(pair)
            failures = [failure for _, failure in responses if failure is not None]
            lost.extend(failures)
            if not failures:
                yield from (row for row, _ in responses)

    entry = write_signal_shard(
        path,
        rows(),
        fingerprint=fingerprint,
        precision=precision,
        encoding=encoding,
        format_version=shard_format_version(scored.shard.path),
    )
    return ShardRecord(scored.shard.index, entry, tuple(lost))


def _scored_rows(scored: ScoredShard, rule: SupportRule) -> Iterator[tuple[ResponseIds, LostResponse | None]]:
    """The shard's rows with their signals, or with what was lost."""
    answers = {role: _answers(file, scored.reference.get(role)) for role, file in scored.teacher.items()}
    for row in read_signal_shard(scored.shard.path):
        if row.role not in answers:
            yield row, None
            continue
        teacher, reference = next(answers[row.role])
        if isinstance(teacher, Lost):
            yield row, LostResponse(row.pair_id, row.role, row.sample_index, "teacher", teacher.reason)
        elif isinstance(reference, Lost):
            yield row, LostResponse(row.pair_id, row.role, row.sample_index, "reference", reference.reason)
        else:
            yield signals_of(row, teacher, reference, rule), None


def _answers(
    teacher: PassFile, reference: PassFile | None
) -> Iterator[tuple[SupportScores | Lost, GivenScores | Lost | None]]:
    try:
        if reference is None:
            yield from ((scores, None) for scores in read_teacher(teacher.path))
        else:
            supports, copies = itertools.tee(read_teacher(teacher.path))
            yield from zip(supports, read_reference(reference.path, copies), strict=True)
    except ShardError as error:
        # Both had been checked before; whichever it is, the next run finds out and scores it again.
        raise ShardError(f"{error}; it was whole when this run began") from error


def signals_of(
    row: ResponseIds, teacher: SupportScores, reference: GivenScores | None, rule: SupportRule
) -> ResponseSignals:
    """The signals of one response from both models' answers.

    Tokens to which either model gives no probability at all (ids beyond the reference's embedding) leave the
    support and fold into both tails: their log-ratio is infinite, and nothing could be trained on it.
    """
    _, keep = truncate_top_p(teacher.logprobs, rule.top_p)
    keep &= np.isfinite(teacher.logprobs)
    if reference is not None:
        keep &= np.isfinite(reference.logprobs)
    sizes = keep.sum(axis=1).astype(np.uint16)
    logprobs = teacher.logprobs[keep]
    signals = {
        "support_sizes": sizes,
        "topk_ids": teacher.topk_ids[keep],
        "teacher_logprobs": logprobs,
        "teacher_tail_logprobs": tail_logprobs(logprobs, sizes, vocab_size=rule.teacher_vocab_size),
        "teacher_token_logprobs": teacher.token_logprobs,
    }
    if reference is not None:
        assert rule.reference_vocab_size is not None
        reference_logprobs = reference.logprobs[keep]
        signals |= {
            "advantages": logprobs - reference_logprobs,
            "reference_tail_logprobs": tail_logprobs(
                reference_logprobs, sizes, vocab_size=rule.reference_vocab_size
            ),
            "reference_token_logprobs": reference.token_logprobs,
        }
    return row.with_signals(**signals)
