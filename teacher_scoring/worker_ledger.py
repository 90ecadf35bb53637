"""Which worker has which items, which results are there, and what a lost worker leaves to be done again."""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from data.errors import ScoringError

__all__ = ["WorkLedger"]

# So often may an item be in the hands of a worker that is lost: it has to be assumed then that the item is the reason.
_MAX_LOSSES = 3


@dataclass(slots=True)
class _Entry:
    place: int
    item: Any
    losses: int = 0


class WorkLedger:
    """Hands items out to workers that come and go, and gives results back in the items' order.

    Every worker works on its items in the order in which it got them.
    """

    def __init__(self, items: Iterator[Any], *, max_open: int) -> None:
        """Start with nothing handed out.

        Args:
            items: taken when a worker can have one.
            max_open: items that may be out, or done but waiting for earlier ones, at a time.
        """
        self._items = items
        self._max_open = max_open
        self._is_exhausted = False
        self._num_taken = self._num_returned = 0
        self._again: deque[_Entry] = deque()
        self._in_hand: dict[Hashable, deque[_Entry]] = {}
        self._done: dict[int, Any] = {}

    def count(self, worker: Hashable) -> int:
        """Items in a worker's hands."""
        return len(self._in_hand.get(worker, ()))

    def take(self, worker: Hashable) -> Any | None:
        """The next item for a worker; None when there is none, or none before earlier ones are done."""
        if not self._again and not self._take_new():
            return None
        entry = self._again.popleft()
        self._in_hand.setdefault(worker, deque()).append(entry)
        return entry.item

    def done(self, worker: Hashable, result: Any) -> None:
        """Note a worker's result for the first of its items."""
        self._done[self._in_hand[worker].popleft().place] = result

    def lost(self, worker: Hashable, reason: str) -> None:
        """Take a lost worker's items back; the next workers to ask get them.

        Args:
            worker: the one that is gone.
            reason: what it died of, for the message.
        Raises:
            ScoringError: when one of the items has been with too many workers that were lost.
        """
        entries = self._in_hand.pop(worker, deque())
        for entry in entries:
            entry.losses += 1
            if entry.losses == _MAX_LOSSES:
                raise ScoringError(
                    f"{reason}; that was the {_MAX_LOSSES}rd worker lost with {entry.item} in its hands; all that was "
                    "finished before is kept, run the same command again to continue"
                )
        self._again = deque(sorted([*entries, *self._again], key=lambda entry: entry.place))

    def results(self) -> Iterator[Any]:
        """Results that are there and whose predecessors have all been returned."""
        while self._num_returned in self._done:
            result = self._done.pop(self._num_returned)
            self._num_returned += 1
            yield result

    @property
    def is_over(self) -> bool:
        """Whether every item's result has been returned."""
        return self._is_exhausted and self._num_returned == self._num_taken

    def _take_new(self) -> bool:
        if self._is_exhausted or self._num_taken - self._num_returned >= self._max_open:
            return False
        item = next(self._items, None)
        self._is_exhausted = item is None
        if item is None:
            return False
        self._again.append(_Entry(self._num_taken, item))
        self._num_taken += 1
        return True
