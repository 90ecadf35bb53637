"""The last step of a dataset: failed.jsonl, card and manifest, from the parts that have been written."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.card import write_card
from data.errors import ShardError
from data.files import sha256_file, write_atomic
from data.manifest import FileEntry, Manifest, describe_files, write_manifest
from data.requests import compare_requests
from data.signals import TOKENIZER_FOLDER, SignalDataset
from teacher_scoring.request import Report
from teacher_scoring.workplace import LostResponse, Workplace

__all__ = ["FAILED_NAME", "complete_dataset", "write_failed"]

#: Responses that got no scores, one JSON object a line; only there when there are any.
FAILED_NAME = "failed.jsonl"


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
    lost = [response for record in records for response in record.lost]
    failed = write_failed(out, lost, report)
    manifest = Manifest(
        kind=SignalDataset.kind,
        request=request,
        shards=tuple(record.entry for record in records),
        files=(*failed, *describe_files(out, TOKENIZER_FOLDER)),
        created=created,
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
