"""Ways to store signals: this project's, and the ones it is compared with."""

import shutil
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.signals.parquet import num_row_groups
from data.signals.schema import ResponseSignals
from data.signals.shards import REBUILD_COMMAND, read_signal_group, write_signal_shard

__all__ = ["LAYOUTS", "Layout", "remove", "size_bytes"]

Values = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to store the support of responses.

    Attributes:
        name: for the table.
        write: writes rows to a path.
        read: reads everything back as ids, teacher log-probabilities and advantages, flat.
    """

    name: str
    write: Callable[[Path, Sequence[ResponseSignals]], None]
    read: Callable[[Path], Values]


def _ours(name: str, **settings: str) -> Layout:
    def write(path: Path, rows: Sequence[ResponseSignals]) -> None:
        write_signal_shard(path, rows, fingerprint="0" * 64, **settings)  # pyright: ignore[reportArgumentType]

    def read(path: Path) -> Values:
        # Columns as a reader of whole row groups gets them: views of Arrow's memory, also for torch.from_numpy.
        num_groups = num_row_groups(path, rebuild=REBUILD_COMMAND)
        groups = [read_signal_group(path, index).columns for index in range(num_groups)]
        ids, teacher, advantages = (
            groups[0][name].values
            if len(groups) == 1
            else np.concatenate([group[name].values for group in groups])
            for name in ("topk_ids", "teacher_logprobs", "advantages")
        )
        return ids, teacher, advantages

    return Layout(name, write, read)


def _per_position(row: ResponseSignals, values: np.ndarray | None) -> list[np.ndarray]:
    assert values is not None
    assert row.support_sizes is not None
    return np.split(values, np.cumsum(row.support_sizes, dtype=np.int64)[:-1])


def _write_records(path: Path, rows: Sequence[ResponseSignals]) -> None:
    """The published code's form: each position a record of ids, values and the mass outside, once for each quantity.

    The teacher's probabilities and the advantages are two columns with ids of their own, as `datasets` infers them from
    JSON: 64 bits for every number. The advantages are in falling order.

    Source: SLIT-AI/ADPA, utils/compress_logits.py and the script that takes the two models' results together.
    """

    def teacher(row: ResponseSignals) -> list[dict]:
        assert row.teacher_tail_logprobs is not None
        parts = zip(
            _per_position(row, row.topk_ids),
            _per_position(row, row.teacher_logprobs),
            row.teacher_tail_logprobs,
            strict=True,
        )
        return [
            {
                "indices": ids.tolist(),
                "values": np.exp(values.astype(np.float64)).tolist(),
                "remaining_probs_sum": float(np.exp(tail)),
            }
            for ids, values, tail in parts
        ]

    def advantages(row: ResponseSignals) -> list[dict]:
        records = []
        for ids, values in zip(
            _per_position(row, row.topk_ids), _per_position(row, row.advantages), strict=True
        ):
            order = np.argsort(-values, kind="stable")
            records.append({"indices": ids[order].tolist(), "values": values[order].tolist()})
        return records

    _save_with_datasets(
        path, rows, lambda row: {"compressed_probs": teacher(row), "margin_logp": advantages(row)}
    )


def _read_records(path: Path) -> Values:
    """As the published loss gets them: a row of Python records, each field of which becomes a tensor."""
    columns: tuple[list, list, list] = ([], [], [])
    for row in datasets.load_from_disk(str(path)):
        assert isinstance(row, dict)
        teacher, advantages = row["compressed_probs"], row["margin_logp"]
        columns[0].append(torch.tensor([position["indices"] for position in teacher]))
        columns[1].append(torch.tensor([position["values"] for position in teacher]))
        torch.tensor([position["remaining_probs_sum"] for position in teacher])
        torch.tensor([position["indices"] for position in advantages])
        columns[2].append(torch.tensor([position["values"] for position in advantages]))
    ids, probabilities, values = (torch.cat(column).flatten() for column in columns)
    return ids.numpy(), probabilities.log().numpy(), values.numpy()


def _write_nested(path: Path, rows: Sequence[ResponseSignals]) -> None:
    """The published form without its records: for each position, one list of ids and one of each model's values."""

    def lists(row: ResponseSignals, values: np.ndarray | None) -> list[list]:
        return [part.tolist() for part in _per_position(row, values)]

    _save_with_datasets(
        path,
        rows,
        lambda row: {
            "topk_ids": lists(row, row.topk_ids),
            "teacher_logprobs": lists(row, row.teacher_logprobs),
            "advantages": lists(row, row.advantages),
        },
    )


def _save_with_datasets(
    path: Path, rows: Sequence[ResponseSignals], signals: Callable[[ResponseSignals], dict]
) -> None:
    table = datasets.Dataset.from_list(
        [{"pair_id": row.pair_id, "response_ids": row.response_ids.tolist(), **signals(row)} for row in rows]
    )
    table.save_to_disk(str(path))


def _read_nested(path: Path) -> Values:
    """Rows of nested Python lists, flattened into numpy."""
    columns: tuple[list, list, list] = ([], [], [])
    for row in datasets.load_from_disk(str(path)):
        for column, name in zip(columns, ("topk_ids", "teacher_logprobs", "advantages"), strict=True):
            column.append(np.array([value for position in row[name] for value in position]))  # pyright: ignore
    ids, teacher, advantages = (np.concatenate(column) for column in columns)
    return ids, teacher, advantages


def _write_packed(path: Path, rows: Sequence[ResponseSignals]) -> None:
    """DistillKit's layout: a list of byte lists, one for each position; here ids at 17 bits and float16 values."""
    packed = [
        [
            np.concatenate(
                [_pack_ids(ids), teacher.astype("<f2").view(np.uint8), other.astype("<f2").view(np.uint8)]
            )
            for ids, teacher, other in zip(
                _per_position(row, row.topk_ids),
                _per_position(row, row.teacher_logprobs),
                _per_position(row, row.advantages),
                strict=True,
            )
        ]
        for row in rows
    ]
    inner = [pa.ListArray.from_arrays(_offsets(row), pa.array(np.concatenate(row))) for row in packed]
    column = pa.ListArray.from_arrays(_offsets(packed), pa.concat_arrays(inner))
    pq.write_table(pa.table({"pair_id": [row.pair_id for row in rows], "packed": column}), path)


def _offsets(parts: Sequence[Sized]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum([len(part) for part in parts])]), pa.int32())


_ID_BITS = 17


def _pack_ids(ids: np.ndarray) -> np.ndarray:
    return np.packbits(((ids[:, None] >> np.arange(_ID_BITS - 1, -1, -1)) & 1).astype(np.uint8).ravel())


def _read_packed(path: Path) -> Values:
    """Each position's bytes are unpacked on their own, as its decoder does, all positions of one size at once."""
    column = pq.read_table(path, use_threads=False)["packed"].combine_chunks()
    positions = column.values
    content, offsets = positions.values.to_numpy(), positions.offsets.to_numpy()
    sizes = np.diff(offsets)
    bits_of = {(_ID_BITS * k + 7) // 8 + 4 * k: k for k in range(1, 65536 // 8)}
    order = np.argsort(sizes, kind="stable")
    parts: list[Values] = []
    for size in np.unique(sizes):
        chosen = order[sizes[order] == size]
        k = bits_of[int(size)]
        num_id_bytes = size - 4 * k
        table = content[offsets[chosen][:, None] + np.arange(size)]
        bits = np.unpackbits(table[:, :num_id_bytes], axis=1, count=_ID_BITS * k).reshape(-1, k, _ID_BITS)
        ids = bits @ (1 << np.arange(_ID_BITS - 1, -1, -1))
        values = np.ascontiguousarray(table[:, num_id_bytes:]).view("<f2").astype(np.float32)
        parts.append((ids.ravel(), values[:, :k].ravel(), values[:, k:].ravel()))
    ids, teacher, advantages = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ids, teacher, advantages


def _write_float16(path: Path, rows: Sequence[ResponseSignals]) -> None:
    """Flat lists with float16 values and Parquet's defaults, but zstd."""

    def column(values: list[np.ndarray | None], dtype: str) -> pa.Array:
        arrays = [np.asarray(value).astype(dtype) for value in values]
        return pa.ListArray.from_arrays(_offsets(arrays), pa.array(np.concatenate(arrays)))

    table = pa.table(
        {
            "pair_id": [row.pair_id for row in rows],
            "topk_ids": column([row.topk_ids for row in rows], "i4"),
            "teacher_logprobs": column([row.teacher_logprobs for row in rows], "f2"),
            "advantages": column([row.advantages for row in rows], "f2"),
        }
    )
    pq.write_table(table, path, compression="zstd", use_dictionary=False)


def _read_float16(path: Path) -> Values:
    table = pq.read_table(path, use_threads=False)
    ids, teacher, advantages = (
        table[name].combine_chunks().values.to_numpy()
        for name in ("topk_ids", "teacher_logprobs", "advantages")
    )
    return ids, teacher.astype(np.float32), advantages.astype(np.float32)


def remove(path: Path) -> None:
    """Delete what a layout wrote, a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def size_bytes(path: Path) -> int:
    """Size of what a layout wrote."""
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


LAYOUTS = (
    Layout("records, `datasets` (published code)", _write_records, _read_records),
    Layout("nested lists, `datasets`, into numpy", _write_nested, _read_nested),
    Layout("packed bytes, list<list<uint8>> (DistillKit)", _write_packed, _read_packed),
    Layout("flat lists, float16, PLAIN, zstd", _write_float16, _read_float16),
    _ours("plain, exact", encoding="plain", precision="exact"),
    _ours("plain, rounded", encoding="plain", precision="rounded"),
    _ours("compact, exact", encoding="compact", precision="exact"),
    _ours("compact, rounded (default)", encoding="compact", precision="rounded"),
)
