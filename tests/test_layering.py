"""Imports point one way: cli -> a stage -> data -> libraries."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = {"teacher_scoring", "student_training"}


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return files


def test_data_imports_no_model_library_and_no_stage():
    forbidden = {"torch", "transformers", "vllm", "cli", "small_world"} | STAGES
    for path in files_of("data"):
        assert not imports_of(path) & forbidden, path


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_import_neither_each_other_nor_the_command_line(stage):
    for path in files_of(stage):
        assert not imports_of(path) & ((STAGES - {stage}) | {"cli", "small_world"}), path


@pytest.mark.parametrize(("library", "file"), [("vllm", "vllm_engine.py"), ("ray", "ray_cluster.py")])
def test_one_file_imports_what_only_some_machines_have(library, file):
    everything = [
        *files_of("data"),
        *files_of("teacher_scoring"),
        *files_of("student_training"),
        ROOT / "cli.py",
    ]
    assert [path.name for path in everything if library in imports_of(path)] == [file]


def test_no_file_is_named_after_nothing():
    names = {path.name for package in ("data", *STAGES, "small_world") for path in files_of(package)}
    assert not names & {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
