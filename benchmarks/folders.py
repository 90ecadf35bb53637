"""Folders that a benchmark's command line names."""

import argparse
from pathlib import Path


def existing_folder(text: str) -> Path:
    """For `type=` of an argument whose folder has to be there.

    Raises:
        argparse.ArgumentTypeError: which argparse prints as one line.
    """
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return folder
