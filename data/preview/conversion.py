"""`adpa data convert`: preference data of any form, written in the canonical one.

The canonical form has a row for each pair: `id`, `prompt`, `chosen`, `rejected`, and `tools` and
`chat_template_kwargs` where rows have them; conversations for SFT have `messages` instead. A column is text throughout
or messages throughout, which is why the source is read twice: once to see what it holds, once to write it.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data.errors import ConfigurationError
from data.files import atomic_output
from data.options.fields import check_options, option
from data.preferences.messages import Answer, PreferenceRow, Prompt, as_turns
from data.preferences.options import Reading, data_option
from data.preferences.reader import PreferenceReader, RowCounts, read_preferences

_ROWS_AT_ONCE = 1024

_ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions(Reading):
    """Write a preference file of any form in the one that every tool reads."""

    data: str = data_option(positional=True)
    out: str = option(help="file to write, .jsonl or .parquet", group="saving", aliases=("-o",))

    def __post_init__(self) -> None:
        check_options(self)
        if Path(self.out).suffix not in (".jsonl", ".parquet"):
            raise ConfigurationError(f"--out: {self.out!r} must end in .jsonl or .parquet")


@dataclasses.dataclass(frozen=True, slots=True)
class ConversionResult:
    """What was written.

    Attributes:
        out: the file.
        form: what the source's rows look like, in words.
        counts: rows read, kept and dropped by reason.
        columns: what each column holds: `text`, `messages` or `JSON`.
        data_hash: of the source's rows. The file's are the same, unless a column of text had to become messages.
    """

    out: Path
    form: str
    counts: RowCounts
    columns: dict[str, str]
    data_hash: str

    def __str__(self) -> str:
        columns = ", ".join(f"{name} ({kind})" for name, kind in self.columns.items())
        return f"{self.out}: {columns}; {self.counts}"


def convert_data(options: ConvertOptions) -> ConversionResult:
    """Read a source and write its rows in the canonical form.

    Raises:
        AdpaError: for a source that cannot be read, or a file that cannot be written; then nothing is there.
    """
    reader = read_preferences(options.data, options, need="prompt")
    columns = _columns(reader)
    out = Path(options.out)
    bar = tqdm(reader, desc=f"writing {out.name}", total=reader.counts.kept, unit="rows", disable=None)
    with atomic_output(out) as file, bar:
        rows = (_canonical_row(row, columns) for row in bar)
        if out.suffix == ".jsonl":
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        else:
            _write_parquet(file, rows, columns)
    return ConversionResult(out, reader.form or "", reader.counts, columns, reader.data_hash)


def _columns(reader: PreferenceReader) -> dict[str, str]:
    """Which columns the rows need, and what each has to hold for all of them."""
    found: dict[str, str] = {"id": "text"}
    is_conversation = False
    for row in tqdm(reader, desc="reading", unit="rows", disable=None):
        is_conversation = is_conversation or row.is_conversation
        for column in _ROLES:
            said: Prompt | Answer | None = getattr(row, column)
            if said is not None and found.get(column) != "messages":
                found[column] = "text" if isinstance(said, str) else "messages"
        if row.tools is not None:
            found["tools"] = "JSON"
        if row.template_args is not None:
            found["chat_template_kwargs"] = "JSON"
    if is_conversation:
        found = {"id": "text", "messages": "messages"} | {
            name: kind for name, kind in found.items() if kind == "JSON"
        }
    elif "messages" in (found.get("chosen"), found.get("rejected")):
        # The two answers are written alike.
        found |= {name: "messages" for name in ("chosen", "rejected") if name in found}
    return {name: found[name] for name in _ORDER if name in found}


_ORDER = ("id", "messages", "prompt", "chosen", "rejected", "tools", "chat_template_kwargs")


def _canonical_row(row: PreferenceRow, columns: dict[str, str]) -> dict[str, Any]:
    written: dict[str, Any] = {"id": row.pair_id}
    if "messages" in columns:
        turns = (
            *as_turns(row.prompt, "user"),
            *(as_turns(row.chosen, "assistant") if row.chosen is not None else ()),
        )
        written["messages"] = [turn.as_dict() for turn in turns]
    else:
        for column, role in _ROLES.items():
            said: Prompt | Answer | None = getattr(row, column)
            if said is not None:
                turns = [turn.as_dict() for turn in as_turns(said, role)]
                written[column] = said if columns[column] == "text" else turns
    if row.tools is not None:
        written["tools"] = list(row.tools)
    if row.template_args is not None:
        written["chat_template_kwargs"] = row.template_args
    return written


def _write_parquet(file: BinaryIO, rows: Iterator[dict[str, Any]], columns: dict[str, str]) -> None:
    """Rows in row groups; messages, whose fields differ, as Arrow's JSON type, which `datasets` reads as values."""
    kinds = {name: pa.string() if kind == "text" else pa.json_() for name, kind in columns.items()}
    schema = pa.schema(list(kinds.items()))
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            arrays = []
            for name, kind in columns.items():
                values = [row.get(name) for row in batch]
                if kind == "text":
                    arrays.append(pa.array(values, pa.string()))
                    continue
                texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
                arrays.append(pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string())))
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
