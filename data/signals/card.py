"""The dataset card: a README.md for the hub and `datasets.load_dataset`."""

import os
from pathlib import Path

import yaml

from data.files import write_atomic
from data.signals.fingerprint import describe_request
from data.signals.manifest import Manifest

CARD_NAME = "README.md"

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)

_TITLES = {"signals": "Distillation signals", "rollouts": "Student rollouts"}


def write_card(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write the dataset's README.md from its manifest; a card that is there already stays: people edit it."""
    path = Path(folder) / CARD_NAME
    if not path.exists():
        write_atomic(path, render_card(manifest))


def render_card(manifest: Manifest) -> str:
    """The text of the card: front matter for the hub, then what the dataset is and how to read it."""
    header = {
        "pretty_name": _TITLES[manifest.kind],
        "tags": ["adpa", "distillation", "preference", manifest.kind],
        "size_categories": [_size_category(manifest.rows)],
        # Named, because the folder also holds JSON that must not be taken for data.
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "shard-*.parquet"}]}
        ],
    }
    front_matter = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{front_matter}---\n{_body(manifest)}"


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>10M")


def _body(manifest: Manifest) -> str:
    counts = "\n".join(
        f"| {role} | {count.rows:,} | {count.scored:,} | {count.positions:,} |"
        for role, count in manifest.roles.items()
    )
    heading = "| role | responses | of them scored | scored positions |\n| --- | --- | --- | --- |"
    table = f"\n{heading}\n{counts}\n" if counts else ""
    settings = "\n".join(f"- `{name}`: {value}" for name, value in describe_request(manifest.request))
    return f"""
# {_TITLES[manifest.kind]}

{manifest.rows:,} responses to {manifest.pairs:,} prompts, {manifest.positions:,} positions, made with `adpa`.
{table}
```python
import datasets

dataset = datasets.load_dataset("<this folder or repository>", split="train")
```

The schema of the Parquet files has every column's unit and meaning. `manifest.json` lists every file with
its checksum; `adpa signals verify` checks them.

## What determined the numbers

{settings}
"""
