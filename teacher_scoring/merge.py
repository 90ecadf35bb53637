"""Complete a dataset whose shards were written by several runs of score-teacher --shard-range."""

from collections import defaultdict
from pathlib import Path

from data.errors import ShardError
from data.files import remove_leftovers
from data.signals import SignalDataset
from teacher_scoring.complete import complete_dataset
from teacher_scoring.request import Report
from teacher_scoring.workplace import Workplace, finished_places, has_dataset

__all__ = ["merge_parts"]


def merge_parts(out: Path, *, report: Report) -> SignalDataset:
    """Write the manifest of a dataset whose parts are all there.

    Args:
        out: the folder that the parts were written into.
        report: takes lines for the user.
    Raises:
        ShardError: naming the parts that are missing, or that were made from different data.
    """
    if has_dataset(out):
        report(f"{out} is complete already; nothing to do")
        return SignalDataset.open(out)
    by_number: dict[int, list[Workplace]] = defaultdict(list)
    for place in finished_places(out):
        by_number[place.part.of].append(place)
    if not by_number:
        raise ShardError(
            f"{out}: no finished part; run score-teacher with --shard-range I/N for each I first"
        )
    # Runs with different N may have been begun; the one that is furthest counts.
    of, places = min(by_number.items(), key=lambda entry: (entry[0] - len(entry[1]), entry[0]))
    if missing := sorted(set(range(1, of + 1)) - {place.part.number for place in places}):
        shown = ", ".join(f"{number}/{of}" for number in missing)
        raise ShardError(f"{out}: parts {shown} are not finished; run score-teacher with that --shard-range")
    remove_leftovers(out)
    return complete_dataset(out, sorted(places, key=lambda place: place.part.number), report)
