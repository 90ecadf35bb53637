import json

import datasets
import pytest

from data.errors import ConfigurationError, DataError, ShardError
from data.preferences.reader import read_preferences
from data.preview.conversion import ConvertOptions, convert_data
from tests.data.preferences.schemas import ANSWERS, PAIRS, SCORES, SINGLES, TWO_SCORES, VOTES, assistant, user

ALL = [*PAIRS, *VOTES, *SCORES, *TWO_SCORES, *SINGLES, *ANSWERS]


@pytest.fixture
def convert(tmp_path):
    """Writes rows as JSONL and converts them; gives the result and a reader of the new file."""

    def write_and_convert(*rows, suffix=".jsonl", **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / f"converted{suffix}"
        result = convert_data(ConvertOptions(data=str(path), out=str(out), **options))
        return result, read_preferences(str(out), need="prompt")

    return write_and_convert


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)
def test_a_converted_file_holds_the_same_pairs_under_the_same_ids(convert, schema, suffix, tmp_path):
    result, reader = convert(*schema.rows, suffix=suffix)
    before = list(read_preferences(str(tmp_path / "rows.jsonl"), need="prompt"))
    after = list(reader)
    assert [row._replace(location="") for row in after] == [row._replace(location="") for row in before]
    assert reader.data_hash == result.data_hash
    assert reader.form_name in ("pairs", "messages")
    assert reader.unread == ()


TOOL_ROW = {
    "prompt": [user("q")],
    "chosen": [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": None}}}],
        },
        {"role": "tool", "content": "1", "tool_call_id": "c"},
        {**assistant("x"), "reasoning_content": "hm"},
    ],
    "rejected": [assistant("y")],
    "tools": [{"name": "f", "parameters": {"n": None}}],
    "chat_template_kwargs": {"enable_thinking": False},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_calls_thoughts_tools_and_template_arguments_survive(convert, suffix, tmp_path):
    result, reader = convert(TOOL_ROW, {**TOOL_ROW, "prompt": [user("r")], "tools": None}, suffix=suffix)
    before = list(read_preferences(str(tmp_path / "rows.jsonl")))
    assert [row._replace(location="") for row in reader] == [row._replace(location="") for row in before]
    assert reader.data_hash == result.data_hash
    assert result.columns["tools"] == "JSON"


def test_a_column_that_is_text_in_some_rows_becomes_messages_in_all(convert):
    plain = {"prompt": "q", "chosen": "x", "rejected": "y"}
    result, reader = convert(plain, {**plain, "system": "Be brief."})
    assert result.columns["prompt"] == "messages"
    assert [len(row.prompt) for row in reader] == [1, 2]


def test_parquet_of_messages_is_read_by_datasets_as_values(convert, tmp_path):
    convert(TOOL_ROW, suffix=".parquet")
    row = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "converted.parquet"), streaming=True, split="train"
    )
    first = next(iter(row))
    assert first["prompt"] == TOOL_ROW["prompt"]
    assert first["chosen"][1]["tool_call_id"] == "c"


def test_a_source_that_breaks_off_leaves_no_file(convert, tmp_path):
    with pytest.raises(DataError, match="line 2"):
        convert(
            {"prompt": "q", "chosen": "x", "rejected": "y"}, {"prompt": "q", "chosen": "", "rejected": "y"}
        )
    assert not (tmp_path / "converted.jsonl").exists()
    result, _ = convert(
        {"prompt": "q", "chosen": "x", "rejected": "y"},
        {"prompt": "q", "chosen": "", "rejected": "y"},
        bad_rows="drop",
    )
    assert result.counts.dropped == {"empty response": 1}


def test_a_file_of_another_type_or_in_no_folder_is_refused(convert, tmp_path):
    with pytest.raises(ConfigurationError, match=r"must end in \.jsonl or \.parquet"):
        ConvertOptions(data="x", out="y.csv")
    with pytest.raises(ShardError, match="cannot be written"):
        convert({"prompt": "q", "chosen": "x", "rejected": "y"}, suffix="/missing/x.jsonl")
