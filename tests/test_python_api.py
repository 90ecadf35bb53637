"""The module `adpa`: what it exports, how fast it loads, and that the examples in docs/python_api.md run."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adpa

ROOT = Path(__file__).parent.parent


def run(program: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_adpa_exports_what_its_modules_define():
    for name in adpa.__all__:
        assert getattr(adpa, name) is getattr(importlib.import_module(adpa._HOME_OF[name]), name), name
    assert set(adpa.__all__) <= set(dir(adpa))


def test_adpa_tells_editors_the_same_names_as_it_exports():
    (block,) = (node for node in ast.parse((ROOT / "adpa.py").read_text()).body if isinstance(node, ast.If)
                and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")  # fmt: skip
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom)
             for alias in node.names}  # fmt: skip
    assert typed == adpa._HOME_OF


def test_adpa_exports_the_exception_that_every_error_derives_from():
    from data import errors

    leaves = {name for name in errors.__all__ if issubclass(getattr(errors, name), errors.AdpaError)}
    assert leaves <= set(adpa.__all__)


def test_adpa_names_what_it_exports_when_asked_for_something_else():
    with pytest.raises(AttributeError, match=r"no attribute .Trainer.; it exports .*SignalDataset"):
        _ = adpa.Trainer  # pyright: ignore[reportAttributeAccessIssue]


def test_adpa_imports_nothing_heavy_before_a_name_is_used():
    program = (
        "import sys, adpa\n"
        "print(sorted({'numpy', 'pyarrow', 'torch', 'data'} & set(sys.modules)))\n"
        "adpa.SignalDataset, adpa.read_preferences, adpa.ScoreOptions, adpa.TrainOptions\n"
        "print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    finished = run(program)
    assert finished.stdout == "[]\n[]\n", finished.stderr


def test_adpa_says_what_shadows_its_packages(tmp_path):
    (tmp_path / "data.py").write_text("")
    finished = run("import adpa; adpa.SignalDataset", cwd=tmp_path)
    assert finished.returncode == 1
    error = finished.stderr.splitlines()[-1]
    assert error.startswith(
        "ImportError: adpa.SignalDataset: needs adpa's own package 'data', but Python finds "
    )
    assert f"{tmp_path}/data.py; rename that" in error


@pytest.mark.slow
def test_python_m_adpa_is_the_command_line():
    command = [sys.executable, "-m", "adpa", "signals", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert shown.startswith("Usage: ")
    assert "inspect" in shown


@pytest.mark.slow
def test_every_example_of_the_page_runs(tiny_world, tmp_path):
    page = (ROOT / "docs" / "python_api.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for name in ("teacher", "reference", "student", "pairs.jsonl"):
        (tmp_path / name).symlink_to(tiny_world.folder / name)
    finished = run("\n".join(examples), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    scored, *lines = finished.stdout.splitlines()
    assert re.fullmatch(r"20 responses, \d+ positions scored now", scored)
    assert lines[:2] == ["trained: trained", "10 pairs, 20 responses"]
    assert re.fullmatch(r"chosen: \d+ tokens, advantage [+-]\d+\.\d\d nats, \d+% covered", lines[2])
    assert re.fullmatch(r"\d+ of 10 answers were cut at the limit", lines[4])
    assert lines[5] == "findings: []"
    assert re.fullmatch(r"10 rows, for example \w+", lines[6])
    assert lines[7] == "10 pairs measured with 2 checkpoints"
    # Everything that the page imports is exported, so nobody needs a module that may move.
    imported = set(re.findall(r"^from (\S+) import", "\n".join(examples), flags=re.MULTILINE))
    assert imported == {"adpa"}
