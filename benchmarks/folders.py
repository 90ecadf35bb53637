"""Folders that a benchmark's command line names."""

import argparse
from collections.abc import Callable
from pathlib import Path


def folder_with(name: str) -> Callable[[str], Path]:
    """For `type=` of an argument: a folder that holds a file of this name.

    The function that it returns raises argparse.ArgumentTypeError, which argparse prints as one line.
    """

    def checked(text: str) -> Path:
        folder = Path(text)
        if not folder.is_dir():
            raise argparse.ArgumentTypeError(f"{text}: no such folder")
        if not (folder / name).exists():
            raise argparse.ArgumentTypeError(f"{text}: there is no {name} in this folder")
        return folder

    return checked
