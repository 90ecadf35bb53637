"""The wheel holds what it should, and the checkout's cli.py is the console script."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path):
    # A copy: setuptools would take along what an earlier build has left in the checkout, and leave its own there.
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, source, ignore=left_out)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {
        "adpa.py",
        "cli.py",
        "data",
        "teacher_scoring",
        "student_training",
        "evaluation",
        "small_world",
    }
    assert "student_training/methods/advantage/adpa.py" in names
    pages = {
        path.relative_to(source).as_posix()
        for package in top - {"adpa.py", "cli.py"}
        for path in (source / package).rglob("*")
        if path.suffix in (".html", ".css", ".js")
    }
    assert {"data/report/page.html", "data/report/style.css", "data/report/script.js"} <= pages <= set(names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert "adpa = cli:main" in archive.read(entry_points).decode()


def test_the_checkout_runs_without_installing(tmp_path):
    command = [sys.executable, str(ROOT / "cli.py"), "--help"]
    environment = {**os.environ, "PYTHONPATH": ""}
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    for name in ("demo", "score-teacher", "sample-student", "train-student"):
        assert name in shown.stdout
