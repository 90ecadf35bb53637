"""The options that say which rows of preference data are read, and how."""

import dataclasses
from typing import Any

from data.options.fields import CommandOptions, option
from data.preferences.forms.form import PAIRINGS

#: Where `--help-all` lists what `--help` leaves out.
_RARE: Any = {"group": "data", "expert": True}

_DATA = "preference data: JSON, CSV or Parquet file, folder saved by datasets, or hub name"


def data_option(*, positional: bool = False) -> Any:
    """The field `data`, for commands that need preference data."""
    return option(help=_DATA, group="data", positional=positional, aliases=("--dataset",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading(CommandOptions):
    """How the rows of a source are read. The options of a command that reads preference data are such an object.

    Attributes:
        split: which split, or a part of it (`train[:1000]`).
        data_config: configuration of a hub dataset, or a folder inside a folder of files.
        form: name of the rows' form; None detects it from the first row.
        map: columns under other names, as `NAME=COLUMN`.
        pairs: which pairs a list of scored answers gives.
        bad_rows: what becomes of a row that cannot be used: an error that names it, or a count by reason.
    """

    split: str = option("train", help="split of --data, or rows of one: train[:1000]", **_RARE)
    data_config: str | None = option(
        None, help="configuration of a hub dataset in --data, or a folder inside a folder of files", **_RARE
    )
    form: str | None = option(
        None,
        help="form of the rows, where it cannot be told from them (docs/data.md lists the forms)",
        **_RARE,
    )
    map: tuple[str, ...] = option(
        (),
        help="a column under another name, NAME=COLUMN, such as chosen=answers.0.text; NAME= leaves one out",
        **_RARE,
    )
    pairs: str = option(
        "best-worst", help="pairs that a list of scored answers gives", choices=PAIRINGS, **_RARE
    )
    bad_rows: str = option(
        "refuse",
        help="rows that cannot be used: refuse stops at the first, drop counts them by reason",
        choices=("refuse", "drop"),
        **_RARE,
    )
