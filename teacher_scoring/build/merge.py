"""Completes a dataset from its shards, or from parts that several runs have finished.

The manifest comes last, so that its presence means complete. A part that is finished leaves one file in its folder,
`<out>/.work/I-of-N/done.json`; once all N are there, merging needs neither the data nor the models.
"""

import dataclasses
import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import ScoringError, ShardError
from data.files import remove_leftovers, sha256_file, write_atomic
from data.options.results import Rendered
from data.signals.card import write_card
from data.signals.dataset import TOKENIZER_FOLDER, SignalDataset
from data.signals.fingerprint import compare_requests
from data.signals.manifest import MANIFEST_NAME, FileEntry, Manifest, describe_files, write_manifest
from data.signals.shards import unify_formats
from teacher_scoring.build.records import LostResponse, ShardRecord
from teacher_scoring.options import MergeOptions

#: Responses that got no scores, one JSON object a line; only there when there are any.
FAILED_NAME = "failed.jsonl"

#: The hidden folder of what a dataset needs until it is complete.
WORK_NAME = ".work"

_DONE_NAME = "done.json"

logger = logging.getLogger(__name__)


def complete_dataset(
    out: Path,
    kind: str,
    request: Mapping[str, Any],
    records: Sequence[ShardRecord],
    created: Mapping[str, Any],
) -> None:
    """Write all that makes shards a dataset: `failed.jsonl`, the card, and the manifest last.

    Args:
        out: the dataset's folder, which holds the shards.
        kind: `signals` or `rollouts`.
        request: what determines the dataset, with the hash of its data.
        records: of all its shards, in their order.
        created: what is worth knowing of how the dataset came about, but does not determine it.
    Raises:
        ScoringError: no pair is left.
    """
    lost = [response for record in records for response in record.lost]
    if not any(record.entry.rows for record in records):
        raise ScoringError(
            f"{out}: no pair is left, all of them lost a response; the first: {lost[0].model}, {lost[0].reason}"
            if lost
            else f"{out}: no pair is left"
        )
    shards, format_version = tuple(record.entry for record in records), 1
    if kind == SignalDataset.kind:
        shards, format_version = unify_formats(out, shards, encoding=request["encoding"])
    manifest = Manifest(
        kind=kind,
        request=dict(request),
        shards=shards,
        files=(*_write_failed(out, lost), *describe_files(out, TOKENIZER_FOLDER)),
        created=dict(created),
        format_version=format_version,
    )
    write_card(out, manifest)
    write_manifest(out, manifest)


def finish_part(
    folder: Path, request: Mapping[str, Any], records: Sequence[ShardRecord], created: Mapping[str, Any]
) -> None:
    """Note that a part's shards are all written, for `merge_parts`.

    Args:
        folder: the part's folder, `<out>/.work/I-of-N`.
        request: what determines the dataset, with the hash of its data.
        records: of the part's shards, in their order.
        created: what is worth knowing of how the part came about, but does not determine it.
    """
    content = {
        "request": request,
        "created": created,
        "records": [record.as_json() for record in records],
    }
    write_atomic(folder / _DONE_NAME, json.dumps(content))


def merge_dataset(options: MergeOptions) -> Rendered:
    """`signals merge`: complete the dataset, and say what it holds.

    Raises:
        AdpaError: as `merge_parts`.
    """
    merged = merge_parts(Path(options.dataset))
    counts = {"out": options.dataset, "responses": merged.num_rows, "pairs": merged.num_pairs}
    return Rendered(counts, f"{options.dataset}: {merged.num_rows:,} responses of {merged.num_pairs:,} pairs")


def merge_parts(out: Path) -> SignalDataset:
    """Write the manifest of a dataset whose parts are all finished.

    Args:
        out: the folder that the parts were written into.
    Raises:
        ShardError: naming the parts that are missing, or that were made from different data.
        ScoringError: no pair is left.
    """
    if (out / MANIFEST_NAME).exists():
        logger.info("%s is complete already; nothing to do", out)
        return SignalDataset.open(out)
    parts: dict[int, dict[int, dict[str, Any]]] = {}
    for done in (out / WORK_NAME).glob(f"*-of-*/{_DONE_NAME}"):
        number, of = map(int, done.parent.name.split("-of-"))
        parts.setdefault(of, {})[number] = json.loads(done.read_text())
    if not parts:
        raise ShardError(
            f"{out}: no finished part; run score-teacher with --shard-range I/N for each I first"
        )
    # Runs with different N may have been begun; the one that is furthest counts.
    of, finished = min(parts.items(), key=lambda entry: (entry[0] - len(entry[1]), entry[0]))
    if missing := sorted(set(range(1, of + 1)) - finished.keys()):
        shown = ", ".join(f"{number}/{of}" for number in missing)
        raise ShardError(f"{out}: parts {shown} are not finished; run score-teacher with that --shard-range")
    first = finished[1]
    for number, other in sorted(finished.items()):
        if differing := compare_requests(first["request"], other["request"]):
            raise ShardError(
                f"{out}: part {number}-of-{of} differs from part 1-of-{of} in {', '.join(differing)}; run it again on "
                "the same data"
            )
    remove_leftovers(out)
    records = [
        ShardRecord.from_json(record) for content in finished.values() for record in content["records"]
    ]
    records.sort(key=lambda record: record.index)
    complete_dataset(out, SignalDataset.kind, first["request"], records, first["created"])
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)
    return SignalDataset.open(out)


def _write_failed(out: Path, lost: Sequence[LostResponse]) -> tuple[FileEntry, ...]:
    """List what was lost in `failed.jsonl` and say so; nothing lost, no file."""
    path = out / FAILED_NAME
    if not lost:
        path.unlink(missing_ok=True)
        return ()
    write_atomic(path, "".join(json.dumps(dataclasses.asdict(response)) + "\n" for response in lost))
    roles = ", ".join(f"{count:,} {role}" for role, count in Counter(r.role for r in lost).items())
    reason, _ = Counter(response.reason for response in lost).most_common(1)[0]
    num_pairs = len({response.pair_id for response in lost})
    logger.warning(
        f"{len(lost):,} responses got no scores ({roles}), most often because of {reason}: their {num_pairs:,} pairs "
        f"are left out and listed in {path}; to ask for them once more, remove {out} and run the same command: the "
        "rest is found in the cache"
    )
    return (FileEntry(FAILED_NAME, path.stat().st_size, sha256_file(path)),)
