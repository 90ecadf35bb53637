"""The whole path on very little: what is checked is the path, not what is learned on it."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from cli import commands
from data.errors import ConfigurationError, TrainingError
from small_world import demo
from small_world.demo import check_teacher
from small_world.judge import Verdict
from small_world.options import DemoOptions
from small_world.steps import FAST, Step
from small_world.table import Row

pytestmark = pytest.mark.slow

TINY = dataclasses.replace(
    FAST,
    num_conversations=64,
    num_pairs=20,
    reference_steps=2,
    teacher_steps=2,
    student_sft_steps=2,
    student_steps=2,
    judged_prompts=6,
    judged_samples=2,
    batch_size=8,
)


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "FAST", TINY)
        # Two steps teach nothing. The check has a separate test.
        patch.setattr(demo, "check_teacher", lambda teacher, reference: None)
        yield patch


@pytest.fixture(scope="module")
def finished(patched, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row], list[str]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    result = demo.run_demo(DemoOptions(out=str(out), fast=True, workers=1))
    return out, list(result.rows), str(result).splitlines()


def files_under(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_every_model_has_its_line_with_every_cell_filled(finished) -> None:
    out, rows, lines = finished
    assert [row.name for row in rows] == list(demo._TITLES.values())
    kept = json.loads((out / "results.json").read_text())
    assert kept == json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))
    table = [line for line in "\n".join(lines).splitlines() if line.startswith("|")]
    assert "\n".join(table) in (out / "table.md").read_text()
    for row, line in zip(rows, table[2:], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == row.name
        assert all(re.search(r"\d", cell) for cell in cells[1:]) == (row.wins is not None)


def test_teacher_and_reference_are_back_and_load(finished) -> None:
    out, _, _ = finished
    names = {path.name for path in (out / "models").iterdir()}
    assert {"teacher", "reference"} <= names
    assert not [name for name in names if "aside" in name]


def test_students_train_while_the_teachers_are_away(
    patched, finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, _ = finished
    seen: dict[str, bool] = {}
    real = demo.DemoSteps.run

    def watching(self, *steps: Step) -> None:
        there = any((out / "models" / model / "config.json").exists() for model in ("teacher", "reference"))
        seen.update({Path(step.options.out).name: there for step in steps if step.command == "train-student"})
        real(self, *steps)

    monkeypatch.setattr(demo.DemoSteps, "run", watching)
    demo.run_demo(DemoOptions(out=str(out), fast=True, workers=1))
    students = {name for name in demo._TITLES if name.startswith("student-")} - {"student-sft"}
    assert {name for name, teacher_there in seen.items() if not teacher_there} == students


def test_running_it_again_makes_nothing_again(patched, finished) -> None:
    out, rows, _ = finished
    kept = ("results.json", "table.md", "commands.sh")
    before = {name: time for name, time in files_under(out).items() if name not in kept}
    again = demo.run_demo(DemoOptions(out=str(out), fast=True, workers=1))
    after = {name: time for name, time in files_under(out).items() if name not in kept}
    assert after == before
    assert list(again.rows) == rows


def test_another_demo_in_the_same_folder_is_refused(patched, finished) -> None:
    out, _, _ = finished
    with pytest.raises(ConfigurationError, match="holds a demo with seed 0, this one has 1; choose another"):
        demo.run_demo(DemoOptions(out=str(out), seed=1, fast=True, workers=1))


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ConfigurationError, match="is not empty and holds no demo"):
        demo.run_demo(DemoOptions(out=str(tmp_path), workers=1))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_step_typed_by_hand_makes_the_same_weights(finished, tmp_path: Path) -> None:
    out, _, _ = finished
    (line,) = [line for line in (out / "commands.sh").read_text().splitlines() if "--method abd" in line]
    words = shlex.split(line)
    words[words.index("--out") + 1] = str(tmp_path / "again")
    commands.main(words[1:], standalone_mode=False)
    weights = [
        (folder / "model.safetensors").read_bytes()
        for folder in (out / "models/student-abd", tmp_path / "again")
    ]
    assert weights[0] == weights[1]


def verdict(sampled: float, greedy: float) -> Verdict:
    return Verdict(np.full((3, 2), sampled), np.full(3, greedy), 2.0, 1.0, np.full((3, 2), sampled))


@pytest.mark.parametrize(("sampled", "greedy"), [(0.4, 0.9), (0.9, 0.4), (0.5, 0.9)])
def test_a_teacher_no_better_than_its_reference_stops_the_demo(sampled: float, greedy: float) -> None:
    with pytest.raises(TrainingError, match="nothing to teach"):
        check_teacher(verdict(sampled, greedy), verdict(0.5, 0.5))
    check_teacher(verdict(0.6, 0.6), verdict(0.5, 0.5))
