"""From passes to a signal dataset: support, advantages, tails, shards, manifest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.manifest import ShardEntry
from data.schema import ResponseSignals
from data.shards import read_signal_shard, write_signal_shard
from data.support import tail_logprobs, truncate_top_p
from teacher_scoring.engine import GivenScores, SupportScores
from teacher_scoring.passes import PassFile, read_reference_pass, read_teacher_pass
from teacher_scoring.tasks import EncodedShard

__all__ = ["ScoredShard", "assemble_shard", "signals_of"]


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
    scored: ScoredShard,
    path: Path,
    *,
    top_p: float,
    teacher_vocab_size: int,
    reference_vocab_size: int | None,
    fingerprint: str,
    precision: str,
) -> ShardEntry:
    """Write one shard of the dataset from its passes.

    Args:
        scored: ids and passes.
        path: the shard's file.
        top_p: mass of the support to keep.
        teacher_vocab_size: width of the teacher's logits.
        reference_vocab_size: width of the reference's; None without one.
        fingerprint: the dataset's.
        precision: `rounded` or `exact`.
    """

    def rows() -> Iterator[ResponseSignals]:
        teacher = {role: read_teacher_pass(file) for role, file in scored.teacher.items()}
        reference = {role: read_reference_pass(file) for role, file in scored.reference.items()}
        for row in read_signal_shard(scored.shard.path):
            if row.role not in teacher:
                yield row
                continue
            yield signals_of(
                row,
                next(teacher[row.role]),
                next(reference[row.role]) if reference else None,
                top_p=top_p,
                teacher_vocab_size=teacher_vocab_size,
                reference_vocab_size=reference_vocab_size,
            )

    return write_signal_shard(path, rows(), fingerprint=fingerprint, precision=precision)


def signals_of(
    row: ResponseSignals,
    teacher: SupportScores,
    reference: GivenScores | None,
    *,
    top_p: float,
    teacher_vocab_size: int,
    reference_vocab_size: int | None,
) -> ResponseSignals:
    """The signals of one response from both models' answers.

    Tokens to which either model gives no probability at all (ids beyond the reference's embedding) leave the
    support and fold into both tails: their log-ratio is not a number that anything could be trained on.
    """
    _, keep = truncate_top_p(teacher.logprobs, top_p)
    keep &= np.isfinite(teacher.logprobs)
    if reference is not None:
        keep &= np.isfinite(reference.logprobs)
    sizes = keep.sum(axis=1).astype(np.uint16)
    logprobs = teacher.logprobs[keep]
    signals = {
        "support_sizes": sizes,
        "topk_ids": teacher.topk_ids[keep],
        "teacher_logprobs": logprobs,
        "teacher_tail_logprobs": tail_logprobs(logprobs, sizes, vocab_size=teacher_vocab_size),
        "teacher_token_logprobs": teacher.token_logprobs,
    }
    if reference is not None:
        assert reference_vocab_size is not None
        reference_logprobs = reference.logprobs[keep]
        signals |= {
            "advantages": logprobs - reference_logprobs,
            "reference_tail_logprobs": tail_logprobs(
                reference_logprobs, sizes, vocab_size=reference_vocab_size
            ),
            "reference_token_logprobs": reference.token_logprobs,
        }
    return ResponseSignals(
        row.pair_id, row.role, row.sample_index, row.prompt_ids, row.response_ids, **signals
    )


def missing(files: Sequence[PassFile]) -> list[PassFile]:
    """Those pass files that have not been written yet; each path once."""
    seen: dict[Path, PassFile] = {}
    for file in files:
        seen.setdefault(file.path, file)
    return [file for path, file in seen.items() if not path.exists()]
