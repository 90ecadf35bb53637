"""Requests: a fingerprint of everything that counts, and differences that people can read."""

import pytest

from data.signals.fingerprint import compare_requests, explain_differences, fingerprint


def test_the_fingerprint_sees_every_value_but_no_key_order():
    assert fingerprint({"a": 1, "b": {"c": [1, 2], "d": "é"}}) == fingerprint(
        {"b": {"d": "é", "c": [1, 2]}, "a": 1}
    )
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert fingerprint({"a": None}) != fingerprint({})
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"a": float("nan")})


def test_differing_fields_are_named_with_dots():
    old = {"teacher": {"source": "a", "revision": None}, "top_k": 50, "roles": ["chosen"], "gone": 1}
    new = {"teacher": {"source": "b", "revision": None}, "top_k": 50, "roles": ("chosen",), "seed": 0}
    assert compare_requests(old, new) == ["gone", "seed", "teacher.source"]
    assert compare_requests(old, old) == []


def test_differences_are_told_with_both_values():
    found = {"teacher": {"source": "a"}, "reference": {"source": "b"}, "data": "0" * 64, "top_k": 50}
    asked = {"teacher": {"source": "c"}, "reference": None, "data": "1" * 64, "top_k": 50, "top_p": 0.9}
    assert explain_differences(found, asked) == (
        f"data is {'0' * 20}... there, {'1' * 20}... here, reference is b there, none here, "
        "teacher.source is a there, c here, top_p is absent there, 0.9 here"
    )
    assert explain_differences(found, found) == ""
