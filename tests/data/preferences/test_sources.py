import bz2
import gzip
import json
import lzma

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.preferences.sources import iterate_rows, open_source

ROWS = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(300)]


def _write_jsonl(path, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def _values(source, **options):
    return [row for _, row in iterate_rows(str(source), **options)]


def _jsonl(folder):
    return _write_jsonl(folder / "pairs.jsonl", ROWS)


def _jsonl_gz(folder):
    return _write_jsonl(folder / "pairs.jsonl.gz", ROWS)


def _json(folder):
    return _write_jsonl(folder / "pairs.json", ROWS)


def _parquet(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "pairs.parquet", row_group_size=70)
    return folder / "pairs.parquet"


def _saved_dataset(folder):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def _saved_splits(folder):
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(splits).save_to_disk(str(folder / "splits"))
    return folder / "splits"


def _folder(folder):
    (folder / "many").mkdir()
    _write_jsonl(folder / "many" / "a.jsonl", ROWS[:100])
    pq.write_table(pa.Table.from_pylist(ROWS[100:]), folder / "many" / "b.parquet")
    (folder / "many" / "dataset_infos.json").write_text("{}")
    return folder / "many"


@pytest.mark.parametrize(
    "write",
    [_jsonl, _jsonl_gz, _json, _parquet, _saved_dataset, _saved_splits, _folder],
    ids=lambda f: f.__name__,
)
def test_every_kind_of_source_gives_the_same_rows_in_order(tmp_path, write):
    source = open_source(str(write(tmp_path)))
    assert [row for _, row in source] == ROWS
    assert [row for _, row in source] == ROWS, "a source is read from its start every time"


def test_fsspec_addresses_are_read_like_files(tmp_path):
    assert _values(f"file://{_jsonl(tmp_path)}") == ROWS
    assert _values(f"file://{_parquet(tmp_path)}") == ROWS


def test_locations_name_the_line_or_row_counted_from_one(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [location for location, _ in iterate_rows(str(path))] == [f"{path} line 1", f"{path} line 3"]
    assert next(iterate_rows(str(_parquet(tmp_path))))[0] == f"{tmp_path}/pairs.parquet row 1"


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}\n')
    assert _values(path) == [{"a": "é"}]


def test_rows_come_before_the_file_is_read_to_its_end(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": 1}\n' * 3 + "not json\n")
    rows = iterate_rows(str(path))
    assert [next(rows)[1] for _ in range(3)] == [{"a": 1}] * 3
    with pytest.raises(DataError, match="line 4: not JSON"):
        next(rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "a", ', r"line 2: not JSON \(.* at column 1\d\).*every line must be one JSON object"),
        (b'["a", "b"]', r"line 2: a JSON list, not an object"),
        (b'"text"', r"line 2: a JSON str, not an object"),
        (b'{"prompt": "\xff"}', r"line 2: not UTF-8"),
        (
            b'{"id": ' + b"1" * 5000 + b"}",
            r"line 2: JSON that Python cannot read \(.*digits.*\); mend or remove",
        ),
        (b"[" * 100_000, r"line 2: JSON that Python cannot read \(.*recursion.*\); mend or remove"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n' + line + b"\n")
    with pytest.raises(DataError, match=message):
        _values(path)


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "./missing", "missing", "folder/missing", "a/b/c/d", "owner/pairs.parquet"]
)
def test_a_missing_path_is_said_to_be_missing_and_the_hub_is_not_asked(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)

    def refuse(*_args, **_options):
        raise AssertionError("asked the hub for a path")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(name)


def test_a_missing_remote_file_and_an_unknown_protocol_are_clear_errors(tmp_path):
    with pytest.raises(DataError, match=r"missing\.jsonl: no such file"):
        list(open_source(f"file://{tmp_path}/missing.jsonl"))
    with pytest.raises(DataError, match="cannot be opened: Protocol not known: nonsense"):
        list(open_source("nonsense://bucket/pairs.jsonl"))


def test_a_hub_name_is_streamed(tmp_path, monkeypatch):
    _write_jsonl(tmp_path / "train.jsonl", ROWS)
    _write_jsonl(tmp_path / "test.jsonl", ROWS[:2])
    real, asked = datasets.load_dataset, []

    def load_local(name, **options):
        asked.append((name, options))
        return real(str(tmp_path), **options)

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = list(iterate_rows("owner/pairs", split="test"))
    assert rows == [("owner/pairs split test row 1", ROWS[0]), ("owner/pairs split test row 2", ROWS[1])]
    assert asked == [("owner/pairs", {"streaming": True})]
    with pytest.raises(DataError, match=r"owner/pairs: no split 'dev'; it has test, train"):
        open_source("owner/pairs", split="dev")


def test_a_hub_that_cannot_be_reached_is_a_clear_error():
    # The suite runs with HF_HUB_OFFLINE=1.
    with pytest.raises(
        DataError, match="nobody/no-such-pairs: neither a local path nor a dataset that the hub gave"
    ):
        open_source("nobody/no-such-pairs")


@pytest.mark.parametrize(
    ("write", "there"),
    [
        (_jsonl, "only the split 'train'"),
        (_saved_dataset, "only the split 'train'"),
        (_saved_splits, "it has test, train"),
        (_folder, "it has train"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_wrong_split_is_named_with_those_that_are_there(tmp_path, write, there):
    with pytest.raises(DataError, match=f"no split 'dev'.*{there}"):
        open_source(str(write(tmp_path)), split="dev")


def test_a_dataset_saved_from_a_split_is_found_under_its_name_and_as_train(tmp_path):
    dataset = datasets.Dataset.from_list(ROWS, split=datasets.Split("test_prefs"))
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert _values(tmp_path / "saved", split="test_prefs") == ROWS
    assert _values(tmp_path / "saved", split="train") == ROWS


PREFS = ["data/train_prefs-00000-of-00001.parquet", "data/test_prefs-00000-of-00001.parquet"]
DEV = ["train/0.jsonl", "dev/0.jsonl", "dev/1.jsonl"]


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (PREFS, "test_prefs", PREFS[1:]),
        (["train-00000-of-00002-0a1b.jsonl", "train-00001-of-00002-2c3d.jsonl"], "train", None),
        (["train.jsonl", "validation.jsonl"], "validation", ["validation.jsonl"]),
        (DEV, "validation", DEV[1:]),
        (DEV, "dev", DEV[1:]),
        (["part-00000-of-00002.jsonl", "part-00001-of-00002.jsonl"], "train", None),
        (["other.jsonl", "trainer_notes.jsonl"], "train", None),
        (["notes.jsonl", "train.jsonl"], "train", ["train.jsonl"]),
    ],
)
def test_splits_of_a_folder_are_told_from_file_names(tmp_path, names, split, expected):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"file": [name]}), tmp_path / name)
        else:
            _write_jsonl(tmp_path / name, [{"file": name}])
    assert [row["file"] for row in _values(tmp_path, split=split)] == (expected or names)


@pytest.mark.parametrize("module", [bz2, gzip, lzma])
@pytest.mark.parametrize(
    "damage", [lambda good: good[:-9], lambda good: b"not compressed", lambda good: good[:60]]
)
def test_damaged_compression_is_a_clear_error(tmp_path, module, damage):
    ending = {bz2: "bz2", gzip: "gz", lzma: "xz"}[module]
    path = tmp_path / f"pairs.jsonl.{ending}"
    path.write_bytes(damage(module.compress(bytes(range(256)).hex().encode())))
    with pytest.raises(DataError, match="damaged or cut off after line 0"):
        _values(path)


def test_damaged_files_are_clear_errors(tmp_path):
    gz = _jsonl_gz(tmp_path)
    gz.write_bytes(gz.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"pairs\.jsonl\.gz: damaged or cut off after line \d+"):
        _values(gz)
    parquet = _parquet(tmp_path)
    parquet.write_bytes(parquet.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"pairs\.parquet: not a readable Parquet file"):
        _values(parquet)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="not a dataset that `datasets` can load"):
        open_source(str(tmp_path / "fake"))


def test_what_cannot_be_read_is_refused_before_any_row(tmp_path):
    (tmp_path / "pairs.csv").write_text("prompt,chosen\n")
    with pytest.raises(
        DataError, match=r"pairs\.csv: not a type of file that can be read; readable are \.jsonl"
    ):
        open_source(str(tmp_path / "pairs.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no data"):
        open_source(str(tmp_path / "empty"))
