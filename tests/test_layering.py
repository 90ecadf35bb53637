"""Imports point one way: cli -> a stage -> data -> libraries; between the folders of a stage, too."""

import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = {"teacher_scoring", "student_training", "evaluation"}
PACKAGES = ("data", *sorted(STAGES), "small_world")
MAX_FILES = 13


@functools.cache
def imported_modules(path: Path) -> set[str]:
    """Full names of what a file imports; `from package import name` counts as both."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imports_of(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return files


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_data_imports_no_model_library_and_no_stage():
    forbidden = {"torch", "transformers", "vllm", "cli", "small_world"} | STAGES
    for path in files_of("data"):
        assert not imports_of(path) & forbidden, path


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_import_neither_each_other_nor_the_command_line(stage):
    for path in files_of(stage):
        assert not imports_of(path) & ((STAGES - {stage}) | {"cli", "small_world"}), path


@pytest.mark.parametrize(
    ("library", "file"),
    [
        ("vllm", "teacher_scoring/engines/vllm/engine.py"),
        ("ray", "teacher_scoring/workers/ray_cluster.py"),
        ("lm_eval", "evaluation/benchmarks/harness.py"),
    ],
)
def test_one_file_imports_what_only_some_machines_have(library, file):
    everything = [*(path for package in PACKAGES for path in files_of(package)), ROOT / "cli.py"]
    importers = [path.relative_to(ROOT).as_posix() for path in everything if library in imports_of(path)]
    assert importers == [file]


def test_no_two_files_import_each_other_in_a_circle():
    known = {module_name(path): path for package in PACKAGES for path in files_of(package)}
    imports = {name: imported_modules(path) & (known.keys() - {name}) for name, path in known.items()}
    # Raises CycleError with the circle in its message.
    list(graphlib.TopologicalSorter(imports).static_order())


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_of_a_stage_import_each_other_one_way(package):
    folders: dict[str, set[str]] = {}
    for path in files_of(package):
        own = path.relative_to(ROOT / package).parts
        if len(own) == 1:
            continue  # The files on top tie the folders together.
        targets = {name.split(".")[1] for name in imported_modules(path) if name.startswith(f"{package}.")}
        folders.setdefault(own[0], set()).update(targets - {own[0]})
    wanted = {folder: targets & folders.keys() for folder, targets in folders.items()}
    list(graphlib.TopologicalSorter(wanted).static_order())


def test_no_folder_is_crowded():
    folders: dict[Path, int] = {}
    for path in (path for package in PACKAGES for path in files_of(package)):
        folders[path.parent] = folders.get(path.parent, 0) + (path.name != "__init__.py")
    assert {folder: count for folder, count in folders.items() if count > MAX_FILES} == {}


def test_no_file_is_named_after_nothing():
    names = {path.name for package in PACKAGES for path in files_of(package)}
    assert not names & {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}


def test_cli_names_functions_by_addresses_that_exist():
    text = (ROOT / "cli.py").read_text().replace("{_SIGNALS}", "data.commands.signals")
    addresses = re.findall(r'"([a-z_.]+):([a-z_]+)"', text)
    assert addresses
    for address in addresses:
        module, name = address
        path = ROOT / module.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert re.search(rf"^(def {name}\(|from .* import .*\b{name}\b)", file.read_text(), re.MULTILINE), (
            address
        )
