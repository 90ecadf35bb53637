"""The last step of a dataset: failed.jsonl, card and manifest, from one run or from several parts."""

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from data.errors import ShardError
from data.files import remove_leftovers, sha256_file, write_atomic
from data.signals.card import write_card
from data.signals.dataset import TOKENIZER_FOLDER, SignalDataset
from data.signals.fingerprint import compare_requests
from data.signals.manifest import FileEntry, Manifest, describe_files, write_manifest
from data.signals.shards import unify_formats
from teacher_scoring.build.work_folder import (
    FAILED_NAME,
    LostResponse,
    Workplace,
    finished_places,
    has_dataset,
)
from teacher_scoring.options import Report

__all__ = ["complete_dataset", "merge_parts", "write_failed"]


def complete_dataset(out: Path, places: Sequence[Workplace], report: Report) -> SignalDataset:
    """Make a dataset of its finished parts.

    Args:
        out: the dataset's folder, with all shards and the tokenizer in it.
        places: the work folders of the parts.
        report: takes lines for the user.
    Raises:
        ShardError: parts that are not finished, or were made from different data.
    """
    finished = []
    for place in places:
        content = place.finished()
        if content is None:
            raise ShardError(f"{out}: part {place.part} is not finished; run its command again")
        finished.append(content)
    request, _, created = finished[0]
    for place, (other, _, _) in zip(places, finished, strict=True):
        if differing := compare_requests(request, other):
            raise ShardError(
                f"{out}: part {place.part} differs from part {places[0].part} in {', '.join(differing)}; "
                "run it again on the same data"
            )
    records = sorted((record for _, part, _ in finished for record in part), key=lambda record: record.index)
    shards, format_version = unify_formats(
        out, [record.entry for record in records], encoding=request["encoding"]
    )
    lost = [response for record in records for response in record.lost]
    failed = write_failed(out, lost, report)
    manifest = Manifest(
        kind=SignalDataset.kind,
        request=request,
        shards=shards,
        files=(*failed, *describe_files(out, TOKENIZER_FOLDER)),
        created=created,
        format_version=format_version,
    )
    write_card(out, manifest)
    write_manifest(out, manifest)
    places[0].release()
    return SignalDataset.open(out)


def write_failed(out: Path, lost: Sequence[LostResponse], report: Report) -> tuple[FileEntry, ...]:
    """List what was lost in `failed.jsonl` and say so; nothing lost, no file.

    Returns:
        The file's entry for the manifest, if there is one.
    """
    path = out / FAILED_NAME
    if not lost:
        path.unlink(missing_ok=True)
        return ()
    write_atomic(path, "".join(json.dumps(dataclasses.asdict(response)) + "\n" for response in lost))
    roles = ", ".join(f"{count:,} {role}" for role, count in Counter(r.role for r in lost).items())
    num_pairs = len({response.pair_id for response in lost})
    report(
        f"{len(lost):,} responses got no scores ({roles}): their {num_pairs:,} pairs are left out and listed in "
        f"{path}; to ask for them once more, remove {out} and run the same command: the rest is found in the cache"
    )
    return (FileEntry(FAILED_NAME, path.stat().st_size, sha256_file(path)),)


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
