"""Which preference rows are read, and as what: the options that every command with `data` has."""

import dataclasses
from typing import Any, Literal, Protocol

from data.options.fields import option
from data.preferences.forms.form import PAIRINGS, Pairing

__all__ = [
    "BadRows",
    "ReadOptions",
    "Reading",
    "bad_rows_option",
    "data_config_option",
    "data_option",
    "form_option",
    "map_option",
    "pairs_option",
    "reading",
    "split_option",
]


BadRows = Literal["refuse", "drop"]

"""What becomes of a row that cannot be used: an error that names it, or a count by reason."""

#: Where `--help-all` lists what `--help` leaves out.
_RARE: Any = {"group": "data", "expert": True}

_DATA = "preference data: JSON, CSV or Parquet file, folder saved by datasets, or hub name"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How rows are read.

    Attributes:
        split: which split, or a part of it (`train[:1000]`).
        config: configuration of a hub dataset.
        form: name of the rows' form; None to tell it from the first row.
        map: columns under other names, as `NAME=COLUMN`.
        pairs: which pairs a list of scored answers gives.
        bad_rows: what becomes of rows that cannot be used.
    """

    split: str = "train"
    config: str | None = None
    form: str | None = None
    map: tuple[str, ...] = ()
    pairs: Pairing = "best-worst"
    bad_rows: BadRows = "refuse"


class ReadOptions(Protocol):
    """Options of a command that reads preference data; its fields are made by the functions of this file."""

    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def data_config(self) -> str | None: ...  # noqa: D102
    @property
    def form(self) -> str | None: ...  # noqa: D102
    @property
    def map(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def pairs(self) -> str: ...  # noqa: D102
    @property
    def bad_rows(self) -> str: ...  # noqa: D102


def reading(options: ReadOptions) -> Reading:
    """How a command's options want rows to be read."""
    return Reading(
        split=options.split,
        config=options.data_config,
        form=options.form,
        map=options.map,
        pairs=options.pairs,  # type: ignore[arg-type]
        bad_rows=options.bad_rows,  # type: ignore[arg-type]
    )


def data_option(*, positional: bool = False) -> Any:
    """The field `data`, for commands that cannot do without."""
    return option(help=_DATA, group="data", positional=positional, aliases=("--dataset",))


def split_option() -> Any:
    """The field `split`."""
    return option("train", help="split of --data, or rows of one: train[:1000]", **_RARE)


def data_config_option() -> Any:
    """The field `data_config`."""
    return option(
        None, help="configuration of a hub dataset in --data, or a folder inside a folder of files", **_RARE
    )


def form_option() -> Any:
    """The field `form`."""
    return option(
        None,
        help="form of the rows, where it cannot be told from them (docs/data.md lists the forms)",
        **_RARE,
    )


def map_option() -> Any:
    """The field `map`."""
    return option(
        (),
        help="a column under another name, NAME=COLUMN, such as chosen=answers.0.text; NAME= leaves one out",
        **_RARE,
    )


def pairs_option() -> Any:
    """The field `pairs`."""
    return option("best-worst", help="pairs that a list of scored answers gives", choices=PAIRINGS, **_RARE)


def bad_rows_option() -> Any:
    """The field `bad_rows`."""
    return option(
        "refuse",
        help="rows that cannot be used: refuse stops at the first, drop counts them by reason",
        choices=("refuse", "drop"),
        **_RARE,
    )
