"""Rows of a file, a saved dataset, a folder of files or a hub dataset, one at a time."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from data.errors import DataError
from data.preferences.compressed_files import COMPRESSED, Row
from data.preferences.json_files import read_json
from data.preferences.row_counts import count_rows
from data.preferences.splits import SplitPart, files_of_split, parse_split
from data.preferences.table_files import json_decoders, read_delimited, read_parquet


@dataclasses.dataclass(frozen=True, slots=True)
class Reader:
    """What reads the rows of a split.

    Attributes:
        read: starts from the first row each time.
        count: how many there will be; None where nobody knows before they are read.
    """

    read: Callable[[], Iterator[Row]]
    count: Callable[[], int | None]


_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

_FILE_TYPES = ".jsonl, .ndjson, .json, .csv or .tsv (each also with .gz, .bz2, .xz or .zst), and .parquet"

# Files that `datasets`, `transformers` and LLaMA-Factory write beside data; no file of rows has such a name.
_DESCRIPTIONS = {
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "manifest.json",
    "state.json",
}


@dataclasses.dataclass(frozen=True, slots=True)
class RowSource:
    """A source that was found to exist; every iteration streams it from its first row."""

    name: str
    _readers: tuple[Reader, ...]

    def __iter__(self) -> Iterator[Row]:
        return itertools.chain.from_iterable(reader.read() for reader in self._readers)

    def count(self) -> int | None:
        """How many rows an iteration gives; None where nobody knows before they are read."""
        return _sum(reader.count() for reader in self._readers)


def open_source(source: str, *, split: str = "train", config: str | None = None) -> RowSource:
    """Find a source and its split now, to be read later, as often as needed and a few rows at a time.

    Args:
        source: a JSON, CSV, TSV or Parquet file (a path or an fsspec address such as `s3://bucket/pairs.jsonl`),
            a folder that `datasets` saved, a folder of such files, or a hub name `owner/name`.
        split: which split, where the source has several, or a part of it such as `train[:1000]`. A lone file or
            unsplit folder has only `train`.
        config: which configuration of a hub dataset, or which folder inside a folder of files.
    Raises:
        DataError: for a source or split that is not there. While iterating: for content that is no row, a file
            that is damaged, a connection that is lost.
    """
    reader_of_split = _split_reader(source, config)
    parts = parse_split(split)
    return RowSource(source, tuple(_part_reader(reader_of_split(part.name), part, source) for part in parts))


def refuse_missing_source(source: str) -> None:
    """Refuse a source that is neither an address, nor a local file or folder, nor a possible hub name.

    Raises:
        DataError: saying what a source may be.
    """
    path = Path(source).expanduser()
    if "://" in source or path.exists():
        return
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) or file_type(source) or path.parent.is_dir():
        raise DataError(
            f"{source}: no such file or folder; give a JSON, CSV or Parquet file, a folder saved by `datasets`, "
            "or a hub name owner/name"
        )


def _sum(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _part_reader(reader: Reader, part: SplitPart, source: str) -> Reader:
    if part.is_whole:
        return reader

    def read_part() -> Iterator[Row]:
        is_empty = True
        for row in itertools.islice(reader.read(), part.start, part.stop):
            is_empty = False
            yield row
        if is_empty:
            raise DataError(f"{source}: {part} holds no rows; the split ends before them")

    def count_part() -> int | None:
        whole = reader.count()
        return None if whole is None else len(range(*slice(part.start, part.stop).indices(whole)))

    return Reader(read_part, count_part)


def _split_reader(source: str, config: str | None) -> Callable[[str], Reader]:
    """A function from a split's name to what reads its rows."""
    if "://" in source:
        return functools.partial(_lone_file_reader, source, source, config)
    path = Path(source).expanduser()
    if path.is_dir() and config is not None:
        if not (path / config).is_dir():
            raise DataError(f"{source}: no folder {config!r} in it, which data_config asks for")
        path = path / config
    if path.is_file():
        return functools.partial(_lone_file_reader, source, str(path), config)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return functools.partial(_saved_dataset_reader, path)
    if path.is_dir():
        return functools.partial(_folder_reader, path)
    refuse_missing_source(source)
    return functools.partial(_hub_split_reader, source, config, _hub_splits(source, config))


def _lone_file_reader(source: str, address: str, config: str | None, split: str) -> Reader:
    if split != "train":
        raise DataError(f"{source}: no split {split!r}; a single file has only the split 'train'")
    if config is not None:
        raise DataError(f"{source}: a single file has no configuration {config!r}; leave out data_config")
    return _file_reader(address)


def file_type(name: str) -> str | None:
    """Kind of a file by its name: `json`, `csv`, `tsv` or `parquet`; None where it is none of these."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSED
    last = suffixes[-2:-1] if compressed else suffixes[-1:]
    if not last:
        return None
    if last[0] in _JSON_SUFFIXES:
        return "json"
    if last[0] in (".csv", ".tsv"):
        return last[0][1:]
    return "parquet" if last[0] == ".parquet" and not compressed else None


def _file_reader(address: str) -> Reader:
    kind = file_type(address)
    if kind is None:
        raise DataError(f"{address}: not a type of file that can be read; readable are {_FILE_TYPES}")
    read: Callable[[], Iterator[Row]] = functools.partial(
        read_delimited, address, "," if kind == "csv" else "\t"
    )
    if kind in ("parquet", "json"):
        read = functools.partial(read_parquet if kind == "parquet" else read_json, address)
    return Reader(read, functools.partial(count_rows, address))


def _folder_reader(folder: Path, split: str) -> Reader:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and file_type(path.name))
    # Hidden names and the descriptions that tools leave beside their data are not rows.
    relative = [path.relative_to(folder) for path in files]
    names = [str(path) for path in relative if not any(part[0] in "._" for part in path.parts)]
    data_files = [name for name in names if Path(name).suffix != ".json"]
    data_files = data_files or [name for name in names if Path(name).name not in _DESCRIPTIONS]
    if not data_files:
        raise DataError(f"{folder}: holds no data; give a folder with files of type {_FILE_TYPES}")
    readers = [_file_reader(str(folder / name)) for name in files_of_split(data_files, split, str(folder))]

    def read() -> Iterator[Row]:
        for reader in readers:
            yield from reader.read()

    return Reader(read, lambda: _sum(reader.count() for reader in readers))


def _saved_dataset_reader(folder: Path, split: str) -> Reader:
    import datasets  # noqa: PLC0415 - takes over a second, and only this kind of source needs it

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{folder}: not a dataset that `datasets` can load: {error}") from error
    if isinstance(saved, datasets.DatasetDict):
        dataset = _pick_split(dict(saved), split, str(folder))
    elif split in ("train", str(saved.split)):
        dataset = saved
    else:
        raise DataError(f"{folder}: no split {split!r}; a dataset saved by itself has only the split 'train'")
    return Reader(functools.partial(_read_dataset, dataset, f"{folder} row"), lambda: dataset.num_rows)


def _hub_splits(name: str, config: str | None) -> dict[Any, Any]:
    import datasets  # noqa: PLC0415 - takes over a second, and only this kind of source needs it
    import datasets.exceptions  # noqa: PLC0415

    try:
        return dict(datasets.load_dataset(name, config, streaming=True))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ValueError) and "config" in reason.lower():
            raise DataError(f"{name}: {reason}; choose one by data_config") from error
        raise DataError(
            f"{name}: neither a local path nor a dataset that the hub gave: {reason}; check the name, the "
            "connection and, for a gated dataset, that you are logged in"
        ) from error


def _hub_split_reader(name: str, config: str | None, splits: dict[Any, Any], split: str) -> Reader:
    dataset = _pick_split(splits, split, name)
    label = name if config is None else f"{name} ({config})"
    splits_info = dataset.info.splits or {}  # what the hub's own description says, where it does

    return Reader(
        functools.partial(_read_dataset, dataset, f"{label} split {split} row"),
        lambda: splits_info[split].num_examples if split in splits_info else None,
    )


def _pick_split(splits: dict[Any, Any], split: str, name: str) -> Any:
    if split not in splits:
        raise DataError(f"{name}: no split {split!r}; it has {', '.join(sorted(map(str, splits)))}")
    return splits[split]


def _read_dataset(dataset: Any, label: str) -> Iterator[Row]:
    number = 0
    features = getattr(dataset, "features", None)
    decoders = {} if features is None else json_decoders(features.arrow_schema, decode=False)
    try:
        for number, row in enumerate(dataset, 1):
            yield (
                f"{label} {number}",
                {name: decoders[name](value) if name in decoders else value for name, value in row.items()},
            )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{label} {number}: the rows after it cannot be read: {error}") from error
