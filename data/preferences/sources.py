"""Rows of a JSONL or Parquet file, a saved dataset, a folder of files or a hub dataset, one at a time."""

import dataclasses
import functools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError

__all__ = ["Row", "RowSource", "files_of_split", "iterate_rows", "open_source"]


Row = tuple[str, dict[str, Any]]

"""Where a row was read, for messages (`pairs.jsonl line 17`), and the row."""

_JSON_LINES = (".jsonl", ".ndjson", ".json")

_COMPRESSED = (".gz", ".bz2", ".xz")

_FILE_TYPES = ".jsonl, .json or .ndjson (one object per line, also with .gz, .bz2 or .xz) and .parquet"

# Rows decoded at once from Parquet: answers run to tens of kilobytes, so this stays within a few megabytes.
_PARQUET_BATCH_ROWS = 128


@dataclasses.dataclass(frozen=True, slots=True)
class RowSource:
    """A source that was found to exist; every iteration streams it from its first row."""

    name: str
    _read: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self._read()


def iterate_rows(source: str, *, split: str = "train") -> Iterator[Row]:
    """Stream the rows of a source, in order; `open_source` says what a source is and what can go wrong."""
    return iter(open_source(source, split=split))


def open_source(source: str, *, split: str = "train") -> RowSource:
    """Find a source and its split now, to be read later, as often as needed and a few rows at a time.

    Args:
        source: a JSONL or Parquet file (a path or an fsspec address such as `s3://bucket/pairs.jsonl`), a
            folder that `datasets` saved, a folder of such files, or a hub name `owner/name`.
        split: which split, where the source has several. A lone file or unsplit folder has only `train`.
    Raises:
        DataError: for a source or split that is not there. While iterating: for a line that is not a JSON
            object, a file that is damaged, a connection that is lost.
    """
    if "://" in source:
        _require_only_train(source, split)
        return RowSource(source, _file_reader(source))
    path = Path(source).expanduser()
    if path.is_file():
        _require_only_train(source, split)
        return RowSource(source, _file_reader(str(path)))
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return RowSource(source, _saved_dataset_reader(path, split))
    if path.is_dir():
        return RowSource(source, _folder_reader(path, split))
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) or _file_type(source) or path.parent.is_dir():
        raise DataError(
            f"{source}: no such file or folder; give a JSONL or Parquet file, a folder saved by `datasets`, "
            "or a hub name owner/name"
        )
    return RowSource(source, _hub_reader(source, split))


def _file_type(name: str) -> str | None:
    suffixes = PurePosixPath(name).suffixes
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
        return "jsonl" if suffixes and suffixes[-1] in _JSON_LINES else None
    last = suffixes[-1] if suffixes else ""
    return "jsonl" if last in _JSON_LINES else "parquet" if last == ".parquet" else None


def _require_only_train(source: str, split: str) -> None:
    if split != "train":
        raise DataError(f"{source}: no split {split!r}; a single file has only the split 'train'")


def _file_reader(address: str) -> Callable[[], Iterator[Row]]:
    kind = _file_type(address)
    if kind is None:
        raise DataError(f"{address}: not a type of file that can be read; readable are {_FILE_TYPES}")
    return functools.partial(_read_json_lines if kind == "jsonl" else _read_parquet, address)


def _open(address: str, *, compression: str | None) -> Any:
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
        return filesystem.open(path, "rb", compression=compression)
    except FileNotFoundError as error:
        raise DataError(f"{address}: no such file") from error
    except ImportError as error:
        raise DataError(f"{address}: this kind of address needs another package: {error}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{address}: cannot be opened: {error}") from error


def _read_json_lines(address: str) -> Iterator[Row]:
    number = 0
    with _open(address, compression="infer") as file:
        try:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not text.isspace():
                    location = f"{address} line {number}"
                    yield location, _parse_line(text, location)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{address}: damaged or cut off after line {number}: {error}") from error


def _parse_line(text: bytes, location: str) -> dict[str, Any]:
    try:
        row = json.loads(text.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{location}: not UTF-8 text ({error.reason}); convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        shown = text.decode("utf-8").strip()[:60]
        raise DataError(
            f"{location}: not JSON ({error.msg} at column {error.colno}): {shown!r}; every line must be "
            "one JSON object"
        ) from error
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, brackets within thousands of brackets.
        raise DataError(
            f"{location}: JSON that Python cannot read ({error}); mend or remove the line"
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{location}: a JSON {type(row).__name__}, not an object; write one object per line "
            "(`jq -c '.[]'` does so for an array)"
        )
    return row


def _read_parquet(address: str) -> Iterator[Row]:
    number = 0
    with _open(address, compression=None) as file:
        try:
            # A buffer makes pyarrow read a column piece by piece instead of a whole row group at a time.
            parquet = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{address} row {number}", row
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{address}: not a readable Parquet file, after row {number}: {error}") from error


def _folder_reader(folder: Path, split: str) -> Callable[[], Iterator[Row]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _file_type(path.name))
    # Hidden names and the descriptions that tools leave beside their data are not rows.
    relative = [path.relative_to(folder) for path in files]
    names = [str(path) for path in relative if not any(part[0] in "._" for part in path.parts)]
    data_files = [name for name in names if Path(name).suffix != ".json"]
    if not data_files:
        raise DataError(f"{folder}: holds no data; give a folder with files of type {_FILE_TYPES}")
    readers = [_file_reader(str(folder / name)) for name in files_of_split(data_files, split, str(folder))]

    def read() -> Iterator[Row]:
        for reader in readers:
            yield from reader()

    return read


def _saved_dataset_reader(folder: Path, split: str) -> Callable[[], Iterator[Row]]:
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
    return functools.partial(_read_dataset, dataset, f"{folder} row")


def _hub_reader(name: str, split: str) -> Callable[[], Iterator[Row]]:
    import datasets  # noqa: PLC0415 - takes over a second, and only this kind of source needs it
    import datasets.exceptions  # noqa: PLC0415

    try:
        splits = datasets.load_dataset(name, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{name}: neither a local path nor a dataset that the hub gave: {error}; check the name, the "
            "connection and, for a gated dataset, that you are logged in"
        ) from error
    dataset = _pick_split(dict(splits), split, name)
    return functools.partial(_read_dataset, dataset, f"{name} split {split} row")


def _pick_split(splits: dict[Any, Any], split: str, name: str) -> Any:
    if split not in splits:
        raise DataError(f"{name}: no split {split!r}; it has {', '.join(sorted(map(str, splits)))}")
    return splits[split]


def _read_dataset(dataset: Any, label: str) -> Iterator[Row]:
    number = 0
    try:
        for number, row in enumerate(dataset, 1):
            yield f"{label} {number}", row
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{label} {number}: the rows after it cannot be read: {error}") from error


_KEYWORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}

# The hub's own naming of converted files: train_prefs-00000-of-00001-0123456789abcdef.parquet
_NUMBERED = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}")


def files_of_split(names: list[str], split: str, folder: str) -> list[str]:
    """Pick the files of one split.

    A file's split is `NAME` in `NAME-00000-of-00001.parquet`, else the first word of the file's name or a
    folder above it that means a split (`train`, `validation`, `test` and their usual spellings). Where no
    file says any, all of them are `train`; where some do, the others belong to no split.

    Args:
        names: paths inside the folder.
        split: the split that is wanted.
        folder: what to call the folder in messages.
    Raises:
        DataError: when the split is not there, naming those that are.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        named = _split_of(PurePosixPath(name))
        if named is not None:
            found.setdefault(named, []).append(name)
    if not found:
        found = {"train": names}
    wanted = split if split in found else _KEYWORDS.get(split, split)
    if wanted not in found:
        raise DataError(f"{folder}: no split {split!r}; it has {', '.join(sorted(found))}")
    return found[wanted]


def _split_of(path: PurePosixPath) -> str | None:
    numbered = _NUMBERED.match(path.name)
    if numbered:
        split = numbered["split"]
        # `part-00000-of-00008` numbers the pieces of a dataset without splits.
        return None if split in ("part", "shard", "data") else _KEYWORDS.get(split, split)
    for part in (path.name, *reversed(path.parts[:-1])):
        word = re.split(r"[^A-Za-z]", part, maxsplit=1)[0].lower()
        if word in _KEYWORDS:
            return _KEYWORDS[word]
    return None
