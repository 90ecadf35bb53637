"""The statistics of a signal dataset: histograms, roles, margins of pairs, endings of answers."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.signals.dataset import SignalDataset

# Tails are floored at 1e-7; whole-vocabulary supports, which have none, count at the lower end.
_TAIL_EDGES = np.linspace(-8, 0, 41)

_KL_EDGES = np.linspace(-6, 2, 41)

_ADVANTAGE_EDGES = np.linspace(-5, 5, 51)

#: A position where the support covers less than this has a thin support.
THIN_COVERAGE = 0.9

#: An advantage of a token beyond this is an outlier, nats.
OUTLIER_NATS = 10.0

# A token that ends this share of the answers is one of those that end an answer.
_ENDING_SHARE = 0.01


@dataclass(slots=True)
class Histogram:
    """Counts of values between edges; a value outside them counts at the nearer end.

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

    def quantile(self, share: float) -> float:
        """The edge below which at least this share of the values is; the last edge for none."""
        cumulative = np.cumsum(self.counts)
        if not len(cumulative) or not cumulative[-1]:
            return float(self.edges[-1])
        return float(self.edges[1 + int(np.searchsorted(cumulative, share * cumulative[-1]))])


@dataclass(slots=True)
class RoleSummary:
    """Statistics of the responses of one role.

    Attributes:
        role: `chosen`, `rejected` or `student`.
        num_responses: scored responses that were looked at.
        num_positions: their positions.
        num_supported: those that have a distribution: all, but in translated datasets.
        num_support_tokens: their support tokens.
        tail_mass: log10 of the teacher's mass outside the support, per position with one.
        covered: the teacher's mass on the support, summed over positions.
        num_thin: positions with less than `THIN_COVERAGE` of it.
        num_outliers: positions whose token has an advantage beyond `OUTLIER_NATS`.
        kl: log10 of KL(teacher || reference) per position with a support, over that and the tail bucket, nats.
        kl_sum: that KL, summed over positions, nats.
        token_advantage: teacher minus reference log-probability of the response token, per position, nats.
        lengths: for some responses, (length in tokens, mean advantage of its tokens in nats).
    """

    role: str
    num_responses: int = 0
    num_positions: int = 0
    num_supported: int = 0
    num_support_tokens: int = 0
    tail_mass: Histogram = field(default_factory=lambda: Histogram(_TAIL_EDGES))
    covered: float = 0.0
    num_thin: int = 0
    num_outliers: int = 0
    kl: Histogram = field(default_factory=lambda: Histogram(_KL_EDGES))
    kl_sum: float = 0.0
    token_advantage: Histogram = field(default_factory=lambda: Histogram(_ADVANTAGE_EDGES))
    lengths: list[tuple[int, float]] = field(default_factory=list)

    @property
    def support_size(self) -> float:
        """Support tokens of a position that has a distribution, on average."""
        return self.num_support_tokens / max(1, self.num_supported)

    @property
    def coverage(self) -> float:
        """The teacher's mass on the support of such a position, on average."""
        return self.covered / max(1, self.num_supported)

    @property
    def mean_kl(self) -> float:
        """KL(teacher || reference) at such a position, on average, nats."""
        return self.kl_sum / max(1, self.num_supported)

    def to_json(self) -> dict[str, Any]:
        """Counts and means."""
        with_reference = bool(self.token_advantage.counts.any())
        return {
            "role": self.role,
            "responses": self.num_responses,
            "positions": self.num_positions,
            "support_tokens_per_position": self.support_size,
            "covered": self.coverage,
            "thin_positions": self.num_thin,
            "outliers": self.num_outliers,
            "mean_kl": self.mean_kl if with_reference else None,
            "mean_token_advantage": self.token_advantage.mean if with_reference else None,
        }


@dataclass(frozen=True, slots=True)
class TokenAdvantage:
    """How teacher and reference differ over one token, wherever a response has it."""

    token_id: int
    mean: float
    count: int


@dataclass(slots=True)
class PairMargins:
    """By how much the teacher ranks chosen above rejected, for the pairs that have both scored.

    Attributes:
        pairs: pair indices.
        pair_ids: their ids.
        values: margins in nats: with a reference, the advantage of the whole chosen response minus that of the
            rejected one; without, the difference of the teacher's mean log-probabilities of a token.
    """

    pairs: list[int] = field(default_factory=list)
    pair_ids: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.values)

    @property
    def agreement(self) -> float:
        """Share of pairs with a positive margin; a margin of 0 counts half. NaN for none."""
        values = np.array(self.values)
        return float((np.sign(values) / 2 + 0.5).mean()) if len(values) else float("nan")

    @property
    def mean(self) -> float:
        """Mean margin, nats; NaN for none."""
        return float(np.mean(self.values)) if self.values else float("nan")

    @property
    def limit(self) -> float:
        """What 98% of the margins are below either way, nats, rounded up to a whole number; 0 for none."""
        return float(np.ceil(np.abs(np.percentile(self.values, [1, 99])).max())) if self.values else 0.0

    def histogram(self, limit: float) -> Histogram:
        """The margins from minus to plus a limit; those beyond it count at the ends."""
        histogram = Histogram(np.linspace(-limit, limit, 41))
        histogram.add(np.array(self.values))
        return histogram

    def strongest_disagreements(self, number: int) -> list[tuple[str, float]]:
        """Ids and margins of the pairs whose label the teacher disagrees with most, the strongest first."""
        order = np.argsort(np.array(self.values), kind="stable")[:number].tolist()
        return [(self.pair_ids[i], self.values[i]) for i in order if self.values[i] < 0]

    def extremes(self, number: int) -> list[int]:
        """Indices of the pairs with the smallest and the largest margins, this many in all."""
        order = np.argsort(np.array(self.values), kind="stable").tolist()
        low, high = order[: -(-number // 2)], order[len(order) - number // 2 :]
        return [self.pairs[i] for i in dict.fromkeys([*low, *high])]


@dataclass(slots=True)
class Endings:
    """The last tokens of responses, which tell answers that were cut from those that ended.

    Attributes:
        labelled: how often chosen and rejected responses end with each token; they all ended.
        sampled: the same for the student's responses.
    """

    labelled: Counter[int] = field(default_factory=Counter)
    sampled: Counter[int] = field(default_factory=Counter)

    @property
    def student(self) -> int:
        """Number of student responses."""
        return self.sampled.total()

    @property
    def cut(self) -> int | None:
        """How many student responses do not end as responses do; None where that cannot be told."""
        known, least = (self.labelled, _ENDING_SHARE) if self.labelled else (self.sampled, 0.5)
        terminators = {token for token, count in known.items() if count >= least * known.total()}
        if not terminators:
            return None
        return sum(count for token, count in self.sampled.items() if token not in terminators)


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """Statistics of a signal dataset.

    Attributes:
        dataset: the dataset.
        num_groups: row groups that were read.
        num_all_groups: row groups that there are.
        roles: statistics of each scored role.
        raised: the tokens with the largest mean advantage, largest first; empty without a reference.
        lowered: the tokens with the smallest, smallest first.
        margins: by how much the teacher ranks chosen above rejected.
        endings: the last tokens of responses.
        colour_scale: an advantage that 95% of the tokens stay below either way, nats.
    """

    dataset: SignalDataset
    num_groups: int
    num_all_groups: int
    roles: Sequence[RoleSummary]
    raised: Sequence[TokenAdvantage]
    lowered: Sequence[TokenAdvantage]
    margins: PairMargins
    endings: Endings
    colour_scale: float

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
            "kind": manifest.kind,
            "fingerprint": manifest.fingerprint,
            "pairs": manifest.pairs,
            "responses": manifest.rows,
            "positions": manifest.positions,
            "bytes_per_position": self.bytes_per_position,
            "created": manifest.created,
            "request": manifest.request,
            "row_groups": {"read": self.num_groups, "all": self.num_all_groups},
            "chosen_above_rejected": {
                "pairs": len(self.margins),
                "share": self.margins.agreement if len(self.margins) else None,
                "mean_margin": self.margins.mean if len(self.margins) else None,
            },
            "cut_answers": self.endings.cut,
            "roles": [role.to_json() for role in self.roles],
            "raised": [dataclasses.asdict(token) for token in self.raised],
            "lowered": [dataclasses.asdict(token) for token in self.lowered],
        }
