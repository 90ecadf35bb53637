"""The hidden folder in which an unfinished dataset grows, and whose it is."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import ShardError
from data.files import remove_leftovers, write_atomic
from data.manifest import MANIFEST_NAME, compare_requests, read_manifest

__all__ = ["claim_folder", "refuse_other_dataset", "release_folder"]

_WORK, _REQUEST = ".work", "request.json"


def refuse_other_dataset(out: Path, known: Mapping[str, Any]) -> None:
    """Stop when a folder holds a finished dataset that another request made.

    Args:
        out: the output folder.
        known: the request, or as many of its fields as are known so far.
    Raises:
        ShardError: naming the fields that differ.
    """
    if not (out / MANIFEST_NAME).exists():
        return
    found = read_manifest(out).request
    differing = compare_requests({name: found.get(name) for name in known}, known)
    if differing:
        raise ShardError(
            f"{out} holds a different dataset: {', '.join(differing)} differ from its manifest; "
            "choose another --out or remove the folder"
        )


def claim_folder(out: Path, known: Mapping[str, Any]) -> Path:
    """Make the work folder of a request, or find the one that an interrupted run left.

    Args:
        out: the output folder; made if need be.
        known: the request, as far as it is known before the data have been read.
    Returns:
        The work folder.
    Raises:
        ShardError: when it belongs to another request, or `out` holds foreign files.
    """
    work = out / _WORK
    request = work / _REQUEST
    if request.exists():
        differing = compare_requests(json.loads(request.read_text()), known)
        if differing:
            raise ShardError(
                f"{out} holds another, unfinished dataset: {', '.join(differing)} differ; "
                "choose another --out or remove the folder"
            )
    elif out.exists() and any(path.name != _WORK for path in out.iterdir()):
        raise ShardError(f"{out} is not empty and holds no dataset; choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    remove_leftovers(work)
    write_atomic(request, json.dumps(known, indent=2) + "\n")
    return work


def release_folder(out: Path) -> None:
    """Remove the work folder of a finished dataset."""
    shutil.rmtree(out / _WORK, ignore_errors=True)
