"""docs/format.md is executed and compared with the code."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.signals.card import write_card
from data.signals.dataset import SignalDataset
from data.signals.manifest import read_manifest
from data.signals.rollouts import ROLLOUT_SCHEMA
from data.signals.rounding import grids
from data.signals.schema import SIGNAL_SCHEMA, SIGNAL_SCHEMAS

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "format.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def _library(snippet):
    (name,) = re.findall(r"(?:import|from) (adpa|pyarrow|datasets|pandas|polars|duckdb)", snippet)
    return name


def test_there_is_a_snippet_for_each_library():
    libraries = ["adpa", "pyarrow", "datasets", "pandas", "polars", "duckdb"]
    assert [_library(snippet) for snippet in SNIPPETS] == libraries


@pytest.mark.parametrize("encoding", ["compact", "plain"])
@pytest.mark.parametrize("snippet", SNIPPETS, ids=_library)
def test_each_snippet_reads_the_same_value(tmp_path, make_dataset, snippet, encoding):
    if importlib.util.find_spec(_library(snippet).split(".")[0]) is None:
        pytest.skip(f"{_library(snippet)} is not installed")
    if encoding == "plain" and _library(snippet) in ("adpa", "datasets"):
        pytest.skip("reads through pyarrow, which is tested with both")
    make_dataset(
        tmp_path / "signals", scored=("chosen",), roles=("rejected", "chosen"), top_p=0.9, encoding=encoding
    )
    write_card(tmp_path / "signals", read_manifest(tmp_path / "signals"))
    row = SignalDataset.open(tmp_path / "signals").pair(0)[1]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(REPOSITORY),
    }
    output = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # Some libraries add up in float32.
    np.testing.assert_allclose(
        float(output), np.exp(row.teacher_logprobs[: row.support_sizes[0]]).sum(), rtol=1e-6
    )


def _documented_columns(heading):
    section = PAGE.split(f"\n## {heading}" if not heading.startswith("#") else f"\n{heading}")[1]
    table = re.search(r"\| column .*?\n\n", section, flags=re.DOTALL).group()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]


def _type_name(kind):
    return f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("Signals", SIGNAL_SCHEMA),
        (
            "### Format 2",
            pa.schema([SIGNAL_SCHEMAS[2].field(name) for name in ("response_mask", "conversation")]),
        ),
        ("Rollouts", ROLLOUT_SCHEMA),
    ],
)
def test_the_tables_are_the_schemas(heading, schema):
    documented = _documented_columns(heading)
    assert [row["column"].strip("`") for row in documented] == schema.names
    for row, field in zip(documented, schema, strict=True):
        # The schema's "float" is Arrow's name for float32.
        assert row["type"].replace("float32", "float") == _type_name(field.type)
        assert row["unit"] == field.metadata[b"unit"].decode()
        assert (row.get("null", "never") != "never") == field.nullable


def test_the_documented_grids_are_those_of_the_code():
    rows = re.findall(r"\| (-3 and above|-5 to -3|-7 to -5|below -7) \|.*?1/(\d+) nat", PAGE)
    assert rows == [("-3 and above", "512"), ("-5 to -3", "64"), ("-7 to -5", "16"), ("below -7", "8")]
    bounds = np.array([-3.0, -3.01, -5.0, -5.01, -7.0, -7.01])
    assert (1 / grids(bounds)).tolist() == [512, 64, 64, 16, 16, 8]
