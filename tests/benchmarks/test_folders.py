"""Folders on a benchmark's command line."""

import argparse
from pathlib import Path

import pytest

from benchmarks.folders import folder_with


def test_a_folder_has_to_be_there_and_hold_the_file(tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="nowhere: no such folder"):
        folder_with("results.json")(str(tmp_path / "nowhere"))
    with pytest.raises(argparse.ArgumentTypeError, match=r"there is no results\.json in this folder"):
        folder_with("results.json")(str(tmp_path))
    (tmp_path / "results.json").touch()
    assert folder_with("results.json")(str(tmp_path)) == tmp_path
