"""A finished dataset that has lost files becomes an unfinished one again, whose sound shards are kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.dataset import is_sound
from data.manifest import MANIFEST_NAME, read_manifest
from teacher_scoring.complete import FAILED_NAME
from teacher_scoring.request import Report
from teacher_scoring.workplace import Part, ShardRecord, Workplace

__all__ = ["is_whole", "reopen_damaged"]


def is_whole(out: Path) -> bool:
    """Whether a finished dataset has all its files, each of the right size. Contents are not compared.

    Raises:
        ShardError: for a folder without a manifest, or a damaged one.
    """
    manifest = read_manifest(out)
    return all(is_sound(out, entry, content=False) for entry in (*manifest.shards, *manifest.files))


def reopen_damaged(out: Path, known: Mapping[str, Any], report: Report) -> bool:
    """Make an unfinished dataset of a finished one with missing or truncated files; leave a whole one alone.

    Killed anywhere in between, it is done again by the next call.

    Args:
        out: the dataset's folder.
        known: its request, without the hash of its data.
        report: takes lines for the user.
    Returns:
        Whether there is something to make again now.
    Raises:
        ShardError: for a damaged manifest, or a folder that cannot be written.
    """
    if is_whole(out):
        return False
    manifest = read_manifest(out)
    place = Workplace(out, Part())
    place.folder.mkdir(parents=True, exist_ok=True)
    place.note_request(known)
    # What a shard's responses were lost to is known of all shards together only; then all are put together anew.
    has_lost = any(entry.file == FAILED_NAME for entry in manifest.files)
    sound = 0
    for index, entry in enumerate(manifest.shards):
        if is_sound(out, entry, content=True):
            sound += 1
            if not has_lost:
                place.keep(ShardRecord(index, entry), manifest.fingerprint)
        else:
            (out / entry.file).unlink(missing_ok=True)
    report(
        f"{out}: {sound} of {len(manifest.shards)} shards are sound; making again what is missing or damaged"
    )
    (out / MANIFEST_NAME).unlink()
    return True
