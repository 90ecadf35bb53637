"""What a signal dataset says before any training about teacher, chosen answers and student answers."""

from pathlib import Path

import numpy as np

from adpa import DataError, SignalDataset
from data.signals.schema import ResponseIds


def describe_signals(folder: Path) -> dict[str, float]:
    """Figures of one signal dataset with chosen, rejected and student rows, all scored with a reference.

    Args:
        folder: the dataset.
    Returns:
        `advantage_chosen`, `advantage_rejected`, `advantage_student`: teacher minus reference log-probability of a
        row's own tokens, nats, mean over positions. `ranking_accuracy`: share of pairs whose chosen answer has the
        higher sum of these. `nll_chosen`, `nll_rejected`, `nll_student`: the teacher's, nats per position.
        `entropy_teacher`: at the chosen rows, of support and tail, nats per position. `outside_chosen`: share of
        chosen tokens outside the support. `expected_advantage`: the teacher's own, at chosen rows, nats.
    """
    rows = list(SignalDataset.open(folder).iterate())
    by_role = {role: [row for row in rows if row.role == role] for role in ("chosen", "rejected", "student")}
    found: dict[str, float] = {}
    for role, members in by_role.items():
        teacher = np.concatenate([_column(row, "teacher_token_logprobs") for row in members])
        reference = np.concatenate([_column(row, "reference_token_logprobs") for row in members])
        found[f"nll_{role}"] = -float(teacher.mean())
        found[f"advantage_{role}"] = float((teacher - reference).mean())
    summed = {role: _summed_advantages(by_role[role]) for role in ("chosen", "rejected")}
    shared = summed["chosen"].keys() & summed["rejected"].keys()
    gaps = np.array([summed["chosen"][pair] - summed["rejected"][pair] for pair in shared])
    found["ranking_accuracy"] = float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    chosen = by_role["chosen"]
    found["outside_chosen"] = float(np.mean(np.concatenate([_outside(row) for row in chosen])))
    positions = sum(row.num_scored for row in chosen)
    found["entropy_teacher"] = (
        -sum(_sum_of(row, "teacher_logprobs") + _tail(row) for row in chosen) / positions
    )
    found["expected_advantage"] = sum(_sum_of(row, "advantages") for row in chosen) / positions
    return {name: round(value, 5) for name, value in found.items()}


def _column(row: ResponseIds, name: str) -> np.ndarray:
    """A column that scored rows have.

    Raises:
        DataError: for a row without it.
    """
    values = getattr(row, name, None)
    if values is None:
        raise DataError(f"{row.role} row of {row.pair_id}: no {name}; score it with --reference")
    return values


def _summed_advantages(rows: list[ResponseIds]) -> dict[str, float]:
    return {
        row.pair_id: float(
            (_column(row, "teacher_token_logprobs") - _column(row, "reference_token_logprobs")).sum()
        )
        for row in rows
    }


def _outside(row: ResponseIds) -> np.ndarray:
    """Whether each scored token is outside its position's support."""
    owners = np.repeat(np.arange(row.num_scored), _column(row, "support_sizes"))
    inside = np.zeros(row.num_scored, dtype=bool)
    inside[owners[_column(row, "topk_ids") == row.scored_ids[owners]]] = True
    return ~inside


def _sum_of(row: ResponseIds, name: str) -> float:
    """Sum over support tokens of teacher probability times a column."""
    probabilities = np.exp(_column(row, "teacher_logprobs").astype(np.float64))
    return float((probabilities * _column(row, name)).sum())


def _tail(row: ResponseIds) -> float:
    """Sum over positions of tail mass times its logarithm."""
    logs = _column(row, "teacher_tail_logprobs").astype(np.float64)
    present = np.isfinite(logs)
    return float((np.exp(logs[present]) * logs[present]).sum())
