"""What became of rows, positions and mass in a translation: counts, which are kept by shard and added up."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

# Reasons that are counted by themselves: some of a template's own name the row's words.
_MOST_REASONS, _OTHER_REASONS = 20, "for other reasons"

# Tokens without a place that are counted; of more, those with the most mass are kept.
_MOST_UNPLACED = 10_000

_SUMS = ("rows", "positions", "aligned", "source_positions", "placed", "exact", "supported")


@dataclass(slots=True)
class TranslationCounts:
    """What became of rows, positions and mass; sums over a part of a dataset, added with `+=`.

    Attributes:
        rows: scored responses that were translated.
        dropped: scored responses that were not, by reason.
        first_dropped: for each reason, the first pair that it held for.
        positions: the student's positions in them.
        aligned: of these, the ones that carry a distribution.
        source_positions: the teacher's positions in them.
        placed: the teacher's mass that found a place on the student's ids, summed over aligned positions.
        exact: that part of it for which the rule claims to be exact.
        supported: the teacher's mass on its own support, summed over aligned positions.
        unplaced: mass of tokens without a place, by the teacher's id.
    """

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: dict[str, str] = field(default_factory=dict)
    positions: int = 0
    aligned: int = 0
    source_positions: int = 0
    placed: float = 0.0
    exact: float = 0.0
    supported: float = 0.0
    unplaced: Counter[int] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON values."""
        values = {name: getattr(self, name) for name in _SUMS}
        dropped = {"dropped": dict(self.dropped), "first_dropped": self.first_dropped}
        return {**values, **dropped, "unplaced": list(self.unplaced.items())}

    def drop(self, pair_id: str, reason: str, responses: int = 1) -> None:
        """Count responses of a pair that are left out."""
        if responses:
            if reason not in self.dropped and len(self.dropped) >= _MOST_REASONS:
                reason = _OTHER_REASONS
            self.dropped[reason] += responses
            self.first_dropped.setdefault(reason, pair_id)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The counts as `as_json` gave them."""
        counters = {
            "dropped": Counter(content["dropped"]),
            "unplaced": Counter(dict(content["unplaced"])),
        }
        return cls(**{**content, **counters})

    def __iadd__(self, other: "TranslationCounts") -> "TranslationCounts":
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped += other.dropped
        self.first_dropped = {**other.first_dropped, **self.first_dropped}
        self.unplaced += other.unplaced
        if len(self.unplaced) > _MOST_UNPLACED:
            self.unplaced = Counter(dict(self.unplaced.most_common(_MOST_UNPLACED // 2)))
        return self


def describe_dropped(dropped: Mapping[str, int], first: Mapping[str, str]) -> str:
    """Why responses were left out, the most frequent reason first, each with the first pair that it held for."""
    reasons = sorted(dropped.items(), key=lambda item: -item[1])
    named = {reason: f" (pair {first[reason]} first)" if reason in first else "" for reason in dropped}
    return ", ".join(f"{count:,} {reason}{named[reason]}" for reason, count in reasons)
