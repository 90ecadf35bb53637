"""Requests (what determines a dataset's numbers): their fingerprints, and how two of them differ."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Enough to tell two hashes apart.
_SHOWN_LENGTH = 20


def fingerprint(request: Mapping[str, Any]) -> str:
    """SHA-256 of a request in canonical JSON (sorted keys, no blanks, ASCII), hexadecimal.

    Raises:
        ValueError: for NaN or infinity, which have no JSON form.
    """
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def compare_requests(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the fields in which two requests differ, nested ones dotted (`teacher.revision`), sorted."""
    return sorted(_differences(old, new, prefix=""))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str) -> list[str]:
    names = []
    for key in old.keys() | new.keys():
        if key not in old or key not in new:
            names.append(prefix + key)
        elif isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            names += _differences(old[key], new[key], prefix=f"{prefix}{key}.")
        # Through JSON, because a request read back has lists where the new one may have tuples.
        elif json.dumps(old[key], sort_keys=True) != json.dumps(new[key], sort_keys=True):
            names.append(prefix + key)
    return names


def explain_differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In which fields a request that was found differs from the one asked for: `top_k is 50 there, 20 here`.

    Args:
        found: what a folder holds.
        asked: what is wanted of it.
    Returns:
        The differing fields with both values, long ones shortened; empty where there are none.
    """
    return ", ".join(
        f"{name} is {_shown(found, name)} there, {_shown(asked, name)} here"
        for name in compare_requests(found, asked)
    )


def _shown(request: Mapping[str, Any], name: str) -> str:
    value: Any = request
    for key in name.split("."):
        if key not in value:
            return "absent"
        value = value[key]
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        # One side has a model where the other has none.
        return str(value.get("source", "given"))
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


def describe_request(request: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A request's fields with dotted names, nested ones flattened."""
    pairs: list[tuple[str, Any]] = []
    for name, value in request.items():
        if isinstance(value, Mapping):
            pairs += describe_request(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs
