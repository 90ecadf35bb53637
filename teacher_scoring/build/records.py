"""Records of finished shards: their manifest entries, and the responses that they lost."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from data.signals.manifest import RoleCount, RowGroup, ShardEntry


@dataclass(frozen=True, slots=True)
class LostResponse:
    """A response that got no scores; one line of `failed.jsonl`.

    Attributes:
        pair_id: the pair, all of which the dataset leaves out.
        role: `chosen`, `rejected` or `student`.
        sample_index: which of several samples.
        model: `teacher`, `reference` or `student`: who gave no valid answer.
        reason: what was wrong with the last answer.
    """

    pair_id: str
    role: str
    sample_index: int
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard of the dataset that has been written.

    Attributes:
        index: its number among the shards.
        entry: what the manifest will say of it.
        lost: responses without scores.
    """

    index: int
    entry: ShardEntry
    lost: tuple[LostResponse, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The record as it is stored."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The record as it was stored."""
        entry = dict(content["entry"])
        groups = tuple(RowGroup(**group) for group in entry.pop("row_groups"))
        roles = {role: RoleCount(**count) for role, count in entry.pop("roles").items()}
        lost = tuple(LostResponse(**response) for response in content["lost"])
        return cls(content["index"], ShardEntry(**entry, row_groups=groups, roles=roles), lost)
