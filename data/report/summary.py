"""What a signal dataset looks like: coverage, tails, divergences and advantages by role."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.signals.dataset import SignalDataset
from data.signals.schema import ROLES
from data.signals.shards import SignalGroup
from data.signals.support import span_sums

__all__ = ["DatasetSummary", "Histogram", "RoleSummary", "TokenAdvantage", "summarize_dataset"]


# Tails are floored at 1e-7; whole-vocabulary supports, which have none, count at the lower end.
_TAIL_EDGES = np.linspace(-8, 0, 41)

_KL_EDGES = np.linspace(-6, 2, 41)

_ADVANTAGE_EDGES = np.linspace(-5, 5, 51)

_MAX_POINTS = 400

# Below so many occurrences a token's mean is chance.
_MIN_OCCURRENCES = 5


@dataclass(slots=True)
class Histogram:
    """Counts of values between edges; what lies outside counts at the nearer end.

    Attributes:
        edges: bin edges, shape [bins + 1].
        counts: int64 [bins].
        total: sum of the values that were counted, as they came.
    """

    edges: np.ndarray
    counts: np.ndarray = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.edges) - 1, dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count values."""
        inside = np.clip(values, self.edges[0], self.edges[-1])
        self.counts += np.histogram(inside, self.edges)[0]
        self.total += float(values.sum(dtype=np.float64))

    @property
    def mean(self) -> float:
        """Mean of the counted values; NaN for none."""
        count = int(self.counts.sum())
        return self.total / count if count else float("nan")


@dataclass(slots=True)
class RoleSummary:
    """Statistics of the responses of one role.

    Attributes:
        role: `chosen`, `rejected` or `student`.
        num_responses: scored responses that were looked at.
        num_positions: their positions.
        num_support_tokens: their support tokens.
        tail_mass: log10 of the teacher's mass outside the support, per position.
        covered: the teacher's mass on the support, summed over positions.
        kl: log10 of KL(teacher || reference) per position, over the support and the tail bucket, nats.
        kl_sum: that KL, summed over positions, nats.
        token_advantage: teacher minus reference log-probability of the response token, per position, nats.
        lengths: for some responses, (length in tokens, mean advantage of its tokens in nats).
    """

    role: str
    num_responses: int = 0
    num_positions: int = 0
    num_support_tokens: int = 0
    tail_mass: Histogram = field(default_factory=lambda: Histogram(_TAIL_EDGES))
    covered: float = 0.0
    kl: Histogram = field(default_factory=lambda: Histogram(_KL_EDGES))
    kl_sum: float = 0.0
    token_advantage: Histogram = field(default_factory=lambda: Histogram(_ADVANTAGE_EDGES))
    lengths: list[tuple[int, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Counts and means."""
        with_reference = bool(self.token_advantage.counts.any())
        return {
            "role": self.role,
            "responses": self.num_responses,
            "positions": self.num_positions,
            "support_tokens_per_position": self.num_support_tokens / self.num_positions,
            "covered": self.covered / self.num_positions,
            "mean_kl": self.kl_sum / self.num_positions if with_reference else None,
            "mean_token_advantage": self.token_advantage.mean if with_reference else None,
        }


@dataclass(frozen=True, slots=True)
class TokenAdvantage:
    """How teacher and reference differ over one token, wherever a response has it."""

    token_id: int
    mean: float
    count: int


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """Statistics of a signal dataset.

    Attributes:
        dataset: the dataset.
        num_groups: row groups that were looked at.
        num_all_groups: row groups that there are.
        roles: statistics of each scored role.
        raised: the tokens with the largest mean advantage, largest first; empty without a reference.
        lowered: the tokens with the smallest, smallest first.
    """

    dataset: SignalDataset
    num_groups: int
    num_all_groups: int
    roles: Sequence[RoleSummary]
    raised: Sequence[TokenAdvantage]
    lowered: Sequence[TokenAdvantage]

    @property
    def bytes_per_position(self) -> float:
        """Size of all shards over the number of scored positions."""
        size = sum(shard.size_bytes for shard in self.dataset.manifest.shards)
        return size / max(1, self.dataset.num_positions)

    def to_json(self) -> dict[str, Any]:
        """The numbers that people are shown, as JSON values; histograms are left out."""
        manifest = self.dataset.manifest
        return {
            "path": str(self.dataset.path),
            "fingerprint": manifest.fingerprint,
            "pairs": manifest.pairs,
            "responses": manifest.rows,
            "positions": manifest.positions,
            "bytes_per_position": self.bytes_per_position,
            "created": manifest.created,
            "request": manifest.request,
            "row_groups": {"read": self.num_groups, "all": self.num_all_groups},
            "roles": [role.to_json() for role in self.roles],
            "raised": [dataclasses.asdict(token) for token in self.raised],
            "lowered": [dataclasses.asdict(token) for token in self.lowered],
        }


def summarize_dataset(
    dataset: SignalDataset, *, max_groups: int | None = None, num_tokens: int = 15
) -> DatasetSummary:
    """Collect the statistics of a dataset.

    Args:
        dataset: what to look at.
        max_groups: look at so many row groups, evenly spread, instead of at all.
        num_tokens: how many tokens to list either way.
    Raises:
        ShardError: when a shard cannot be read.
    """
    num_all = len(dataset.blocks)
    num_groups = num_all if max_groups is None else min(max_groups, num_all)
    roles = {role: RoleSummary(role) for role in ROLES}
    sums, counts = np.zeros(0), np.zeros(0, dtype=np.int64)
    for index in range(num_groups):
        group = dataset.group(index * num_all // num_groups)
        for role in roles.values():
            _add_role(role, group)
        if dataset.has_advantages:
            sums, counts = _add_tokens(group, sums, counts)
    raised, lowered = _extremes(sums, counts, num_tokens)
    scored = [role for role in roles.values() if role.num_responses]
    return DatasetSummary(dataset, num_groups, num_all, scored, raised, lowered)


def _add_role(summary: RoleSummary, group: SignalGroup) -> None:
    columns = group.columns
    sizes_column = columns["support_sizes"]
    rows = (np.array(group.roles) == summary.role) & sizes_column.valid_rows
    positions = np.repeat(rows, sizes_column.lengths)
    sizes = sizes_column.values.astype(np.int64)
    if not positions.any():
        return
    tails = columns["teacher_tail_logprobs"].values
    tail_mass = np.exp(tails, dtype=np.float64)
    summary.num_responses += int(rows.sum())
    summary.num_positions += int(positions.sum())
    summary.num_support_tokens += int(sizes[positions].sum())
    summary.covered += float((1 - tail_mass[positions]).sum())
    summary.tail_mass.add(np.log10(np.maximum(tail_mass[positions], 1e-8)))
    advantages = columns["advantages"].values
    if not len(advantages):
        return
    probabilities = np.exp(columns["teacher_logprobs"].values, dtype=np.float64)
    kl = span_sums(probabilities * advantages, sizes)
    finite = np.isfinite(tails)
    kl[finite] += tail_mass[finite] * (tails - columns["reference_tail_logprobs"].values)[finite]
    # Rounding for storage can take a KL of next to nothing below zero.
    kl = np.maximum(kl[positions], 1e-6)
    summary.kl.add(np.log10(kl))
    summary.kl_sum += float(kl.sum())
    differences = token_advantages(group)
    summary.token_advantage.add(differences[positions])
    means = span_sums(differences, sizes_column.lengths) / np.maximum(sizes_column.lengths, 1)
    for row in np.flatnonzero(rows)[: max(0, _MAX_POINTS - len(summary.lengths))]:
        summary.lengths.append((int(sizes_column.lengths[row]), float(means[row])))


def token_advantages(group: SignalGroup) -> np.ndarray:
    """Teacher minus reference log-probability of each scored response token, nats, -20 to 20."""
    columns = group.columns
    difference = columns["teacher_token_logprobs"].values - columns["reference_token_logprobs"].values
    # A reference without the token would make it infinite.
    return np.clip(difference, -20, 20)


def _add_tokens(group: SignalGroup, sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    response = group.columns["response_ids"]
    of_scored_rows = np.repeat(group.columns["support_sizes"].valid_rows, response.lengths)
    ids = response.values[of_scored_rows & group.scored_positions]
    if not len(ids):
        return sums, counts
    width = max(len(sums), int(ids.max()) + 1)
    total = np.bincount(ids, weights=token_advantages(group), minlength=width)
    count = np.bincount(ids, minlength=width)
    total[: len(sums)] += sums
    count[: len(counts)] += counts
    return total, count


def _extremes(
    sums: np.ndarray, counts: np.ndarray, num_tokens: int
) -> tuple[list[TokenAdvantage], list[TokenAdvantage]]:
    ids = np.flatnonzero(counts >= min(_MIN_OCCURRENCES, counts.max(initial=0)))
    ids = ids[counts[ids] > 0]
    means = sums[ids] / counts[ids]
    order = np.argsort(-means, kind="stable")
    ranked = [TokenAdvantage(int(ids[i]), float(means[i]), int(counts[ids[i]])) for i in order]
    raised = [token for token in ranked[:num_tokens] if token.mean > 0]
    lowered = [token for token in ranked[::-1][:num_tokens] if token.mean < 0]
    return raised, lowered
