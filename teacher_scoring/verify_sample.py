"""--verify-sample: score some rows of a dataset again with transformers and compare every column."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from data.schema import ResponseSignals
from data.signals import SignalDataset
from teacher_scoring.assemble import SupportRule, signals_of
from teacher_scoring.engine import Engine, GivenScores, SupportScores, TokenSequence
from teacher_scoring.engine_run import EngineRequest, run_on_engine

__all__ = ["largest_differences", "sample_rows"]

_COLUMNS = (
    "teacher_logprobs",
    "teacher_tail_logprobs",
    "teacher_token_logprobs",
    "advantages",
    "reference_tail_logprobs",
    "reference_token_logprobs",
)


def sample_rows(dataset: SignalDataset, number: int) -> list[ResponseSignals]:
    """Scored rows of pairs drawn at random, always the same ones of the same dataset."""
    draw = random.Random(dataset.manifest.fingerprint)
    rows: list[ResponseSignals] = []
    for pair in draw.sample(range(dataset.num_pairs), min(number, dataset.num_pairs)):
        scored = [row for row in dataset.pair(pair) if row.is_scored]
        rows += draw.sample(scored, min(1, len(scored)))
    return rows


def largest_differences(
    rows: list[ResponseSignals],
    teacher: EngineRequest,
    reference: EngineRequest | None,
    rule: SupportRule,
) -> dict[str, float]:
    """Score rows at their own support ids and compare.

    Args:
        rows: scored rows of a dataset.
        teacher: its teacher on the transformers engine.
        reference: likewise; None without one.
        rule: how signals follow from scores; no further cut is made.
    Returns:
        By column the largest absolute difference, nats; and `support`, by how much a token outside a row's support
        is more probable than the least probable one in it, 0 where none is. Rounded datasets differ by their
        rounding, too (docs/format.md).
    Raises:
        ScoringError: an engine that fails.
    """
    found = list(run_on_engine(teacher, _score, rows))
    others = (
        [None] * len(rows)
        if reference is None
        else [given for given, _ in run_on_engine(reference, _score, rows)]
    )
    # The stored support is taken as it is, however it was cut.
    rule = replace(rule, top_p=1.0)
    columns = _COLUMNS if reference is not None else _COLUMNS[:3]
    largest: dict[str, float] = {**dict.fromkeys(columns, 0.0), "support": 0.0}
    for row, (given, best), other in zip(rows, found, others, strict=True):
        ids = _padded_ids(row)
        support = SupportScores(ids, given.logprobs, given.token_logprobs)
        again = signals_of(row, support, other, rule)
        for column in columns:
            largest[column] = max(largest[column], _difference(getattr(row, column), getattr(again, column)))
        in_support = np.where(ids >= 0, given.logprobs, np.inf)
        # Rank for rank: the n-th best of all tokens cannot be above the n-th best of a right support.
        ranks = np.minimum(np.sum(ids >= 0, axis=1), best.shape[1]) - 1
        excess = best[np.arange(len(ranks)), ranks] - in_support.min(axis=1)
        largest["support"] = max(largest["support"], float(excess.max()))
    return largest


def _score(engine: Engine, rows: Iterable[ResponseSignals]) -> Iterator[tuple[GivenScores, np.ndarray]]:
    """Scores at the stored ids, and the same number of best log-probabilities of all tokens."""
    for row in rows:
        sequence = TokenSequence(row.prompt_ids, row.response_ids)
        ids = _padded_ids(row)
        (given,) = engine.score_given([sequence], [ids])
        (best,) = engine.score_support([sequence], ids.shape[1])
        yield given, best.logprobs


def _padded_ids(row: ResponseSignals) -> np.ndarray:
    """The support as a rectangle, int32 (T, K), filled up with -1."""
    assert row.support_sizes is not None
    assert row.topk_ids is not None
    width = int(row.support_sizes.max())
    ids = np.full((len(row.support_sizes), width), -1, dtype=np.int32)
    ids[np.arange(width) < row.support_sizes[:, None]] = row.topk_ids
    return ids


def _difference(stored: np.ndarray | None, again: np.ndarray | None) -> float:
    assert stored is not None
    assert again is not None
    # Both tails may be -inf, which differ by nothing.
    different = stored != again
    return float(np.abs(stored[different].astype(np.float64) - again[different]).max(initial=0.0))
