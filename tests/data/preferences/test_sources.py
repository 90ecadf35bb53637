import bz2
import csv
import gzip
import io
import json
import lzma
import random

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import ConfigurationError, DataError
from data.preferences.sources import file_type, open_source

ROWS = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(300)]


def _write_jsonl(path, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def _values(source, **options):
    return [row for _, row in open_source(str(source), **options)]


def _jsonl(folder):
    return _write_jsonl(folder / "pairs.jsonl", ROWS)


def _jsonl_gz(folder):
    return _write_jsonl(folder / "pairs.jsonl.gz", ROWS)


def _json(folder):
    return _write_jsonl(folder / "pairs.json", ROWS)


def _json_array(folder):
    (folder / "pairs.json").write_text(json.dumps(ROWS))
    return folder / "pairs.json"


def _indented_array(folder):
    (folder / "pairs.json").write_text(json.dumps(ROWS, indent=2))
    return folder / "pairs.json"


def _indented_objects(folder):
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row, indent=4) for row in ROWS))
    return folder / "pairs.jsonl"


def _zst(folder):
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    # Two frames, as `zstd` writes them where files are joined.
    frames = [pa.compress(part, codec="zstd", asbytes=True) for part in (content[:999], content[999:])]
    (folder / "pairs.jsonl.zst").write_bytes(b"".join(frames))
    return folder / "pairs.jsonl.zst"


def _table(path, rows, delimiter):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode("utf-8-sig")
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    return path


def _csv(folder):
    return _table(folder / "pairs.csv", ROWS, ",")


def _tsv_xz(folder):
    return _table(folder / "pairs.tsv.xz", ROWS, "\t")


def _folder_of_json(folder):
    (folder / "json").mkdir()
    (folder / "json" / "part-00000-of-00002.json").write_text(json.dumps(ROWS[:200]))
    _write_jsonl(folder / "json" / "part-00001-of-00002.json", ROWS[200:])
    (folder / "json" / "dataset_info.json").write_text("{}")
    return folder / "json"


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
    [
        _jsonl,
        _jsonl_gz,
        _json,
        _json_array,
        _indented_array,
        _indented_objects,
        _zst,
        _csv,
        _tsv_xz,
        _parquet,
        _saved_dataset,
        _saved_splits,
        _folder,
        _folder_of_json,
    ],
    ids=lambda f: f.__name__,
)
def test_every_kind_of_source_gives_the_same_rows_in_order(tmp_path, write):
    source = open_source(str(write(tmp_path)))
    assert [row for _, row in source] == ROWS
    assert [row for _, row in source] == ROWS, "a source is read from its start every time"


@pytest.mark.parametrize(
    ("write", "split", "count"),
    [
        (_jsonl, "train", 300),
        (_jsonl, "train[:100]", 100),
        (_jsonl, "train[250:400]", 50),
        (_parquet, "train", 300),
        (_saved_dataset, "train", 300),
        (_indented_objects, "train", None),
        (_json_array, "train", None),
        (_jsonl_gz, "train", None),
        (_csv, "train", None),
    ],
)
def test_count_is_that_of_the_rows_or_none(tmp_path, write, split, count):
    source = open_source(str(write(tmp_path)), split=split)
    assert source.count() == count
    assert count in (None, len(list(source)))


@pytest.mark.parametrize(
    ("text", "count"), [("{}", 1), ("{}\n{}", 2), ("{}\n{}\n", 2), ("", None), ("{\n}", None)]
)
def test_count_of_lines_does_not_need_the_last_line_end(tmp_path, text, count):
    (tmp_path / "rows.jsonl").write_text(text)
    assert open_source(str(tmp_path / "rows.jsonl")).count() == count


def test_fsspec_addresses_are_read_like_files(tmp_path):
    assert _values(f"file://{_jsonl(tmp_path)}") == ROWS
    assert _values(f"file://{_parquet(tmp_path)}") == ROWS


def test_locations_name_the_line_or_row_counted_from_one(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [location for location, _ in open_source(str(path))] == [f"{path} line 1", f"{path} line 3"]
    assert next(iter(open_source(str(_parquet(tmp_path)))))[0] == f"{tmp_path}/pairs.parquet row 1"


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}\n')
    assert _values(path) == [{"a": "é"}]


def test_rows_come_before_the_file_is_read_to_its_end(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": 1}\n' * 3 + "not json\n")
    rows = iter(open_source(str(path)))
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
            r"line 2: JSON that Python cannot read \(.*digits.*\); fix or remove",
        ),
        (b"[" * 100_000, r"line 2: JSON that Python cannot read \(.*recursion.*\); fix or remove"),
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

    def load_local(name, config, **options):
        asked.append((name, config, options))
        return real(str(tmp_path), **options)

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = list(open_source("owner/pairs", split="test"))
    assert rows == [("owner/pairs split test row 1", ROWS[0]), ("owner/pairs split test row 2", ROWS[1])]
    assert asked == [("owner/pairs", None, {"streaming": True})]
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
    (tmp_path / "pairs.xlsx").write_text("prompt,chosen\n")
    with pytest.raises(
        DataError, match=r"pairs\.xlsx: not a type of file that can be read; readable are \.jsonl"
    ):
        open_source(str(tmp_path / "pairs.xlsx"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no data"):
        open_source(str(tmp_path / "empty"))


# --- JSON over several lines


def test_items_of_an_array_are_named_by_number_and_line(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text('\n[\n  {"a": 1},\n\n  {\n    "a": 2\n  }\n]\n')
    assert [location for location, _ in open_source(str(path))] == [
        f"{path} item 1, line 3",
        f"{path} item 2, line 5",
    ]


def test_an_array_gives_its_rows_before_it_is_read_to_its_end(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text("[" + json.dumps(ROWS[0]) + ", " + json.dumps("x" * 300_000) + ", oops")
    rows = iter(open_source(str(path)))
    assert next(rows)[1] == ROWS[0]
    with pytest.raises(DataError, match="item 2, line 1: a JSON str, not an object"):
        next(rows)


def test_json_is_read_alike_however_its_text_is_cut_into_pieces(tmp_path, monkeypatch):
    rows = [{"a": 'é🜁\\ " ]}', "b": [1.5e-3, True, None, {"c": "\n\t"}]}, {}, {"long": "ä" * 5000}]
    path = tmp_path / "pairs.json"
    generator = random.Random(0)
    for indent in (None, 0, 3):
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=generator.random() < 0.5))
        for size in (1, 2, 3, 7, 64):
            monkeypatch.setattr("data.preferences.json_files._CHUNK_BYTES", size)
            assert _values(path) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": 2}', "line 1: not JSON \\(the array has no end"),
        ('[{"a": 1} {"a": 2}]', "line 1: not JSON \\(',' must come between two items at column 11"),
        ('[{"a": 1},\n {"a" 2}]', "line 2: not JSON \\(Expecting ':' delimiter at column 7"),
        ('[{"a": 1}]\n{"a": 2}', "line 2: not JSON \\(something follows the array"),
        ('[{"a": 1}, 7]', "item 2, line 1: a JSON int, not an object"),
        ('[{"a": 1},]', "line 1: not JSON \\(.*at column 1\\d\\)"),
        ("not json", "line 1: not JSON \\(Expecting value at column 1\\): 'not json'"),
        ('{"a": "no end', "line 1: not JSON \\(Unterminated string"),
    ],
)
def test_broken_json_over_several_lines_is_named_by_its_line(tmp_path, text, message):
    path = tmp_path / "pairs.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        _values(path)
    assert "\n" not in str(raised.value)


# --- CSV and TSV


def test_cells_may_hold_delimiters_line_ends_and_long_text(tmp_path):
    rows = [{"prompt": 'a,"b"\r\nc', "chosen": "x" * 200_000, "rejected": "tab\there"}, ROWS[0]]
    path = _table(tmp_path / "pairs.csv", rows, ",")
    assert _values(path) == rows
    assert [location for location, _ in open_source(str(path))] == [f"{path} line 2", f"{path} line 4"]


def test_cells_without_text_count_as_absent(tmp_path):
    (tmp_path / "pairs.csv").write_text('prompt,chosen,rejected\nq,a,\n\n"","",b\n')
    assert _values(tmp_path / "pairs.csv") == [
        {"prompt": "q", "chosen": "a", "rejected": None},
        {"prompt": None, "chosen": None, "rejected": "b"},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2,3\n", "line 2: 3 cells under 2 column names"),
        (b"a,b\n1\n", "line 2: 1 cells under 2 column names"),
        (b"a,a\n1,2\n", "line 1: two columns are named 'a'"),
        (b'a,b\n"1,2\n', "line 2: not a table"),
        (b"a,b\n\xff,2\n", "not UTF-8 text"),
    ],
)
def test_a_broken_table_is_named_by_its_line(tmp_path, content, message):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        _values(tmp_path / "pairs.csv")


# --- JSON inside Parquet

MIXED = [
    {
        "prompt": "q",
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "n": 1}],
        "scores": [1, "x"],
    },
    {"prompt": "r", "chosen": None, "scores": [{"deep": [True]}, None]},
]


def _as_json(texts, storage):
    return pa.ExtensionArray.from_storage(pa.json_(storage), pa.array(texts, storage))


def _json_column():
    scores = [json.dumps(score) for row in MIXED for score in row["scores"]]
    return pa.table(
        {
            "prompt": ["q", "r"],
            "chosen": _as_json([row["chosen"] and json.dumps(row["chosen"]) for row in MIXED], pa.string()),
            "scores": pa.ListArray.from_arrays(pa.array([0, 2, 4]), _as_json(scores, pa.string())),
        }
    )


def _json_in_structs():
    arguments = pa.LargeListArray.from_arrays(
        pa.array([0, None, 2], pa.int64()), _as_json(['{"a": 1}', None], pa.large_string())
    )
    turns = pa.StructArray.from_arrays([pa.array(["user", "user"]), arguments], ["role", "args"])
    return pa.table({"turns": pa.ListArray.from_arrays(pa.array([0, 1, 2]), turns)})


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_json_column, MIXED),
        (
            _json_in_structs,
            [
                {"turns": [{"role": "user", "args": [{"a": 1}, None]}]},
                {"turns": [{"role": "user"}]},
            ],
        ),
    ],
)
@pytest.mark.parametrize("store_schema", [True, False])
def test_json_columns_of_parquet_are_decoded_at_any_depth(tmp_path, make, expected, store_schema):
    pq.write_table(make(), tmp_path / "pairs.parquet", store_schema=store_schema)
    assert _values(tmp_path / "pairs.parquet") == expected


def test_json_features_of_datasets_read_alike_from_parquet_and_from_disk(tmp_path):
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "chosen": datasets.Json(),
            "scores": datasets.List(datasets.Json()),
        }
    )
    dataset = datasets.Dataset.from_list(MIXED, features=features)
    dataset.to_parquet(str(tmp_path / "pairs.parquet"))
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert _values(tmp_path / "pairs.parquet") == _values(tmp_path / "saved") == MIXED


def test_a_json_column_that_holds_no_json_is_named_by_row(tmp_path):
    pq.write_table(pa.table({"a": pa.array(["{}", "{"], pa.json_())}), tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match="row 2: a column of type JSON holds what is not JSON"):
        _values(tmp_path / "pairs.parquet")


# --- Slices and configurations


@pytest.mark.parametrize("write", [_jsonl, _csv, _parquet, _saved_splits, _folder], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:7]", ROWS[:7]),
        ("train[290:]", ROWS[290:]),
        ("train[5:9]", ROWS[5:9]),
        ("train[:2]+train[8:10]", ROWS[:2] + ROWS[8:10]),
        ("train[298:1000]", ROWS[298:]),
    ],
)
def test_a_slice_of_a_split_gives_those_rows(tmp_path, write, split, expected):
    assert _values(write(tmp_path), split=split) == expected


def test_a_slice_keeps_the_line_numbers_of_the_file(tmp_path):
    path = _jsonl(tmp_path)
    assert [location for location, _ in open_source(str(path), split="train[2:4]")] == [
        f"{path} line 3",
        f"{path} line 4",
    ]


@pytest.mark.parametrize(
    "split", ["train[:10%]", "train[-5:]", "train[5:5]", "train[", "", "train[::2]", "+"]
)
def test_what_is_no_split_is_refused(tmp_path, split):
    with pytest.raises(ConfigurationError, match="neither a split, a slice of one such as train"):
        open_source(str(_jsonl(tmp_path)), split=split)


def test_a_slice_beyond_the_end_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train\[300:\] holds no rows"):
        _values(_jsonl(tmp_path), split="train[300:]")


def test_a_configuration_is_asked_of_the_hub_and_found_as_a_folder(tmp_path, monkeypatch):
    (tmp_path / "preference").mkdir()
    _write_jsonl(tmp_path / "preference" / "train.jsonl", ROWS)
    assert _values(tmp_path, config="preference") == ROWS
    with pytest.raises(DataError, match="no folder 'feedback' in it"):
        open_source(str(tmp_path), config="feedback")
    with pytest.raises(DataError, match="a single file has no configuration 'x'"):
        open_source(str(tmp_path / "preference" / "train.jsonl"), config="x")
    real, asked = datasets.load_dataset, []

    def load_local(name, config, **options):
        asked.append((name, config))
        return real(str(tmp_path / "preference"), **options)

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    rows = list(open_source("owner/pairs", config="preference", split="train[:1]"))
    assert rows == [("owner/pairs (preference) split train row 1", ROWS[0])]
    assert asked == [("owner/pairs", "preference")]


def test_a_hub_dataset_of_several_configurations_asks_for_one(monkeypatch):
    def refuse(name, config, **_):
        raise ValueError("Config name is missing.\nPlease pick one among: ['edit', 'preference']")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        DataError, match=r"pick one among: \['edit', 'preference'\]; choose one by data_config"
    ):
        open_source("owner/pairs")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "json"),
        ("A.JSON.GZ", "json"),
        ("a.b.csv.zst", "csv"),
        ("a.tsv", "tsv"),
        ("a.parquet", "parquet"),
        ("a.parquet.gz", None),
        ("a.gz", None),
        ("a", None),
        ("a.txt", None),
    ],
)
def test_the_type_of_a_file_is_told_from_its_name(name, kind):
    assert file_type(name) == kind
