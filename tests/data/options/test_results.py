"""Results of commands as text and as JSON."""

import dataclasses
import enum
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from data.options.results import result_as_json, result_as_text


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Inner:
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Result:
    out: Path
    inner: Inner
    metrics: Any
    colour: Colour = Colour.RED

    def __str__(self) -> str:
        return f"{self.out}: done"


def test_result_as_json_is_one_document_of_plain_values():
    result = Result(
        Path("a/b"),
        Inner((1.5, float("nan"), float("-inf"))),
        MappingProxyType({"n": np.int64(3), "all": np.arange(2), "names": {"b", "a"}, 4: None, "ok": True}),
    )
    assert json.loads(result_as_json(result)) == {
        "out": "a/b",
        "inner": {"values": [1.5, None, None]},
        "metrics": {"n": 3, "all": [0, 1], "names": ["a", "b"], "4": None, "ok": True},
        "colour": "red",
    }


def test_result_as_json_uses_what_a_class_says_of_itself():
    class Open:
        def to_json(self) -> dict[str, Any]:
            return {"path": Path("p"), "inner": Inner((1.0,))}

    assert json.loads(result_as_json([Open()])) == [{"path": "p", "inner": {"values": [1.0]}}]
    with pytest.raises(TypeError, match="a object in"):
        result_as_json({"file": object()})


def test_result_as_text_is_empty_where_a_class_has_no_text():
    assert result_as_text(Result(Path("a"), Inner(()), {})) == "a: done"
    assert result_as_text(Inner(())) == result_as_text(None) == result_as_text([1]) == ""
