import hashlib
import json
import re
from pathlib import Path

import pytest

from data.errors import DataError
from data.preferences import reader as reader_module
from data.preferences.forms.detection import FORMS
from data.preferences.messages import Message
from data.preferences.reader import read_preferences
from data.progress import Progress

FIXTURES = Path(__file__).parent / "fixtures"


def _user(text):
    return {"role": "user", "content": text}


def _assistant(text):
    return {"role": "assistant", "content": text}


@pytest.fixture
def read(tmp_path):
    """Writes rows as JSONL and opens them."""

    def write_and_open(*rows, need="pair"):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_preferences(str(path), need=need)

    return write_and_open


PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}


# --- The accepted forms


@pytest.mark.parametrize(
    ("row", "form", "prompt"),
    [
        (PAIR, "prompt as text, chosen and rejected as text", "q"),
        (
            {"prompt": [_user("q")], "chosen": "good", "rejected": "bad"},
            "prompt as messages, chosen and rejected as text",
            (Message("user", "q"),),
        ),
        (
            {"prompt": "q", "chosen": [_assistant("good")], "rejected": [_assistant("bad")]},
            "prompt as text, chosen and rejected as messages",
            "q",
        ),
        (
            {"prompt": [_user("q")], "chosen": [_assistant("good")], "rejected": [_assistant("bad")]},
            "prompt as messages, chosen and rejected as messages",
            (Message("user", "q"),),
        ),
        (
            {"chosen": [_user("q"), _assistant("good")], "rejected": [_user("q"), _assistant("bad")]},
            "chosen and rejected as whole conversations",
            (Message("user", "q"),),
        ),
        (
            {"system": "s", **PAIR},
            "prompt as text, chosen and rejected as text",
            (Message("system", "s"), Message("user", "q")),
        ),
        (
            {
                "system": "s",
                "chosen": [_user("q"), _assistant("good")],
                "rejected": [_user("q"), _assistant("bad")],
            },
            "chosen and rejected as whole conversations",
            (Message("system", "s"), Message("user", "q")),
        ),
        (
            {
                "system": "s",
                "prompt": [{"role": "system", "content": "s"}, _user("q")],
                "chosen": "good",
                "rejected": "bad",
            },
            "prompt as messages, chosen and rejected as text",
            (Message("system", "s"), Message("user", "q")),
        ),
        ({"system": "", **PAIR}, "prompt as text, chosen and rejected as text", "q"),
        (
            {
                "prompt": [_user("q")],
                "chosen": [_user("q"), _assistant("good")],
                "rejected": [_user("q"), _assistant("bad")],
            },
            "chosen and rejected as whole conversations",
            (Message("user", "q"),),
        ),
    ],
)
def test_pairs_of_every_form_give_prompt_chosen_and_rejected(read, row, form, prompt):
    reader = read(row)
    (pair,) = reader
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "good", "bad")
    assert reader.form == form
    assert form in reader.describe()


def test_dpo_mix_7k_gives_conversations_sharing_all_but_the_last_turn():
    reader = read_preferences(str(FIXTURES / "dpo_mix_7k.jsonl"))
    pairs = list(reader)
    assert [turn.role for turn in pairs[1].prompt] == ["user", "assistant", "user"]
    assert (pairs[1].chosen, pairs[1].rejected) == ("A warm window sill; less water.", "It dies.")
    assert pairs[2].prompt[0] == Message("system", "You are a patient teacher.")
    assert reader.counts.read == 4
    assert reader.counts.kept == len(pairs) == 3
    assert reader.counts.dropped == {"chosen equals rejected": 1}
    assert reader.describe().endswith(
        "chosen and rejected as whole conversations; 4 rows, 3 kept, dropped: 1 chosen equals rejected; "
        "columns not read: dataset, chosen_rating, rejected_rating"
    )


def test_helpsteer2_gives_the_more_helpful_of_two_consecutive_answers():
    reader = read_preferences(str(FIXTURES / "helpsteer2.jsonl"))
    monad, haiku, dish = reader
    assert (monad.chosen, monad.rejected) == (
        "A way to chain computations that carry a context.",
        "A burrito.",
    )
    assert haiku.chosen.startswith("Grey roofs")
    assert dish.prompt == (
        Message("user", "Suggest a dish."),
        Message("assistant", "Lentil soup."),
        Message("user", "Without lentils, please."),
    )
    assert (dish.chosen, dish.rejected) == ("Tomato soup with bread.", "Lentil salad.")
    assert dish.location.endswith(
        "helpsteer2.jsonl line 7 and " + str(FIXTURES / "helpsteer2.jsonl") + " line 8"
    )
    assert reader.counts.dropped == {"tie": 1, "unpaired answer": 1}
    assert (reader.counts.read, reader.counts.kept) == (9, 3)


def test_ultrafeedback_binarized_takes_the_conversations_and_keeps_no_prompt_id():
    reader = read_preferences(str(FIXTURES / "ultrafeedback_binarized.jsonl"))
    tides, cat = reader
    assert tides.prompt == (Message("user", "Explain tides in one sentence."),)
    assert (cat.chosen, cat.rejected) == ("Katze.", "Hund.")
    assert len({tides.pair_id, cat.pair_id, "0f1e", "2d3c"}) == 4


def _documented_examples():
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL):
        yield from map(json.loads, block.strip().splitlines())
    # In the table of forms; rated and labelled answers say something two by two.
    for rows in re.findall(r"^\| `[\w-]+` \|.*\| (`{.*}`) \|$", text, re.MULTILINE):
        yield from (json.loads(row.strip("`")) for row in rows.split("<br>"))


def test_every_documented_example_is_accepted(read):
    examples = list(_documented_examples())
    assert len(examples) == 3 + sum(len(form.examples) for form in FORMS)
    singles = [row for row in examples if not {"helpfulness", "label"} & row.keys()]
    for example in singles:
        need = "pair" if "rejected" in example else "prompt"
        (row,) = read(example, need=need)
        assert row.chosen in ("The Danube.", None)
    for column in ("helpfulness", "label"):
        ((row),) = read(*(row for row in examples if column in row))
        assert (row.chosen, row.rejected) == ("The Danube.", "Water.")


def test_answers_without_a_twin_between_pairs_are_counted(read):
    def rated(prompt, response, helpfulness):
        return {"prompt": prompt, "response": response, "helpfulness": helpfulness}

    reader = read(
        rated("p", "1", 1), rated("q", "2", 3), rated("q", "3", 2), rated("q", "4", 0), rated("r", "5", 1)
    )
    (pair,) = reader
    assert (pair.chosen, pair.rejected) == ("2", "3")
    assert reader.counts.dropped == {"unpaired answer": 3}


def test_sft_takes_rows_without_rejected_and_conversations(read):
    (row,) = read({"prompt": "q", "chosen": "good", "rejected": None}, need="chosen")
    assert (row.prompt, row.chosen, row.rejected) == ("q", "good", None)
    (row,) = read({"messages": [_user("1"), _assistant("2"), _user("3"), _assistant("4")]}, need="chosen")
    assert row.prompt == (Message("user", "1"), Message("assistant", "2"), Message("user", "3"))
    assert row.chosen == "4"


def test_sampling_takes_prompts_alone(read):
    (row,) = read({"prompt": "q"}, need="prompt")
    assert (row.prompt, row.chosen, row.rejected) == ("q", None, None)
    (row,) = read({"prompt": [_user("q")], "chosen": []}, need="prompt")
    assert row.prompt == (Message("user", "q"),)
    (row,) = read({"messages": [_user("q")]}, need="prompt")
    assert (row.prompt, row.chosen) == ((Message("user", "q"),), None)


# --- Fields and columns beside the text


def test_every_field_of_a_message_is_kept_and_empty_ones_are_nothing(read):
    call = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Ulm"}}}
    (row,) = read(
        {
            "prompt": [
                {**_user("q"), "name": "ada", "tool_calls": None},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "rain", "tool_call_id": "1"},
            ],
            "chosen": [{**_assistant("4"), "reasoning_content": "two and two"}],
            "rejected": [{**_assistant("5"), "reasoning_content": ""}],
        }
    )
    assert row.prompt == (
        Message("user", "q", {"name": "ada"}),
        Message("assistant", "", {"tool_calls": [call]}),
        Message("tool", "rain", {"tool_call_id": "1"}),
    )
    assert row.chosen == (Message("assistant", "4", {"reasoning_content": "two and two"}),)
    assert row.rejected == "5"


def test_answers_that_differ_in_a_thought_alone_are_a_pair_and_have_another_id(read):
    def answer(thought):
        return [{**_assistant("6"), "reasoning_content": thought}]

    first, second = read(
        {"prompt": "q", "chosen": answer("count"), "rejected": answer("guess")},
        {"prompt": "q", "chosen": answer("count twice"), "rejected": answer("guess")},
    )
    assert first.pair_id != second.pair_id


@pytest.mark.parametrize("as_text", [False, True])
def test_tools_and_template_arguments_are_read_as_values_or_json_text(read, as_text):
    tools, arguments = [{"type": "function", "function": {"name": "f"}}], {"enable_thinking": False}
    columns = {"tools": tools, "chat_template_kwargs": arguments}
    plain, row = read(
        PAIR, {**PAIR, **{name: json.dumps(value) if as_text else value for name, value in columns.items()}}
    )
    assert (plain.tools, plain.template_args) == (None, None)
    assert (row.tools, row.template_args) == (tuple(tools), arguments)
    assert row.pair_id != plain.pair_id


# --- Ids, duplicates, hashes


def test_an_id_column_is_kept_as_text(read):
    first, second = read({"id": 7, **PAIR}, {"id": "b", **PAIR})
    assert (first.pair_id, second.pair_id) == ("7", "b")


def test_ids_without_a_column_are_hashes_of_the_content(read):
    first, second = read(PAIR, {**PAIR, "prompt": "other"})
    again, *_ = read({"score": 3, **PAIR})
    assert first.pair_id == again.pair_id != second.pair_id
    assert len(first.pair_id) >= 16
    int(first.pair_id, 16)


@pytest.mark.parametrize("name", ["dpo_mix_7k", "helpsteer2", "ultrafeedback_binarized"])
def test_every_command_sees_the_same_ids_in_the_same_rows(name):
    readers = [
        read_preferences(str(FIXTURES / f"{name}.jsonl"), need=n) for n in ("pair", "chosen", "prompt")
    ]
    ids = [[row.pair_id for row in reader] for reader in readers]
    assert ids[0] == ids[1] == ids[2]
    assert len({reader.data_hash for reader in readers}) == 1


def test_repeated_rows_are_dropped_and_counted(read):
    reader = read(PAIR, {**PAIR, "rejected": "worse"}, PAIR, PAIR)
    assert [row.rejected for row in reader] == ["bad", "worse"]
    assert reader.counts.dropped == {"duplicate": 2}
    assert [row.pair_id for row in read({"id": 1, **PAIR}, {"id": 1, **PAIR})] == ["1"]
    assert len(list(read({"id": 1, **PAIR}, {"id": 2, **PAIR}))) == 2, "different ids make them two rows"


def test_one_id_for_two_contents_is_refused_with_both_places(read):
    reader = read({"id": "a", **PAIR}, {"id": "b", **PAIR}, {"id": "a", **PAIR, "chosen": "other"})
    with pytest.raises(DataError, match=r"line 3: id 'a' already names another row \(.*line 1\)"):
        list(reader)


def test_the_data_hash_changes_with_ids_content_and_order_only(read):
    def data_hash(*rows):
        reader = read(*rows)
        list(reader)
        return reader.data_hash

    other = {**PAIR, "prompt": "other"}
    reference = data_hash(PAIR, other)
    assert data_hash({"extra": 1, **PAIR}, other) == reference
    assert data_hash(PAIR, PAIR, other) == reference, "what is dropped changes nothing"
    different = [
        (other, PAIR),
        (PAIR,),
        (PAIR, {**other, "chosen": "x"}),
        ({"id": 1, **PAIR}, {"id": 2, **other}),
    ]
    assert len({data_hash(*rows) for rows in different} | {reference}) == 5


def test_the_data_hash_is_what_it_always_was_so_that_datasets_made_before_are_found(read):
    odd = 'quo"te \\ tab\t nul\x00 del\x7f é \u2028 🜁 </s>'
    turns = [{"role": "system", "content": odd}, _user("q")]
    for rows, contents in (
        ([{"prompt": odd, "chosen": "a", "rejected": odd}], [[odd, "a", odd]]),
        ([{"prompt": "q", "chosen": odd}], [["q", odd, None]]),
        (
            [{"prompt": turns, "chosen": "a", "rejected": "b"}, {**PAIR, "prompt": [_user("q")]}],
            [[[["system", odd], ["user", "q"]], "a", "b"], [[["user", "q"]], "good", "bad"]],
        ),
    ):  # fmt: skip
        reader = read(*rows, need="chosen")
        ids = [row.pair_id for row in reader]
        lines = [json.dumps(content, ensure_ascii=False) for content in contents]
        assert ids == [hashlib.sha256(line.encode()).hexdigest()[:24] for line in lines]
        kept = "".join(f"{json.dumps(id)}{line}\n" for id, line in zip(ids, lines, strict=True))
        assert reader.data_hash == hashlib.sha256(kept.encode()).hexdigest()


def test_the_data_hash_is_not_told_before_the_end(read):
    reader = read(PAIR, {**PAIR, "prompt": "other"})
    next(iter(reader))
    with pytest.raises(RuntimeError, match="after the last row"):
        _ = reader.data_hash


def test_iterate_with_progress_counts_the_rows_of_the_source_also_the_dropped(read, monkeypatch):
    described = []

    class Seen(Progress):
        def __exit__(self, *error):
            described.append(self.describe(1.0))
            super().__exit__(*error)

    monkeypatch.setattr(reader_module, "Progress", Seen)
    reader = read(PAIR, PAIR, {**PAIR, "prompt": "Another question"})
    assert len(list(reader.iterate_with_progress("encoding"))) == 2
    assert described == ["encoding: 3 of 3 rows (100%), 3 a second, 0 s left"]


def test_reading_again_starts_and_counts_anew(read):
    reader = read(PAIR, PAIR)
    first, counted = list(reader), str(reader.counts)
    assert list(reader) == first
    assert str(reader.counts) == counted == "2 rows, 1 kept, dropped: 1 duplicate"


# --- Rows that are refused


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "q", "rejected": "bad"},
            "no `chosen`; columns with content: prompt, rejected; forms are: pairs, conversations",
        ),
        ({"prompt": "q", "chosen": "good"}, "no `rejected`.*must have both answers"),
        ({"prompt": "q"}, "no `chosen`.*must have both answers"),
        (
            {"problem": "q", "solution": "a"},
            "no known form; columns with content: problem, solution; forms are: pairs, conversations",
        ),
        ({}, "no known form; columns with content: none"),
        ({**PAIR, "chosen": ""}, "`chosen` has an empty response"),
        ({**PAIR, "rejected": " \n"}, "`rejected` has an empty response"),
        ({**PAIR, "prompt": " "}, "empty prompt"),
        (
            {"chosen": [_assistant("a")], "rejected": [_assistant("b")]},
            "`chosen` is messages and there is no `prompt`",
        ),
        (
            {"chosen": [_user("q"), _assistant("a")], "rejected": "b"},
            "`chosen` is whole conversation and `rejected` is text",
        ),
        (
            {"chosen": [_user("q"), _assistant("a")], "rejected": [_user("p"), _assistant("b")]},
            "`chosen` and `rejected` part at turn 1, before the assistant's first turn",
        ),
        (
            {"chosen": [_user("q"), _user("a")], "rejected": [_user("q"), _user("b")]},
            "`chosen` ends with a turn of 'user'",
        ),
        ({**PAIR, "prompt": [_user("q"), _assistant("a")]}, "the prompt ends with an assistant turn"),
        ({**PAIR, "tools": "[{"}, "`tools` is text that is not JSON"),
        ({**PAIR, "tools": ["f"]}, "`tools` is text that is not JSON"),
        ({**PAIR, "tools": {"name": "f"}}, "`tools` must be a list of JSON schemas"),
        ({**PAIR, "chat_template_kwargs": [1]}, "`chat_template_kwargs` is of type list"),
        (
            {**PAIR, "prompt": [{**_user("q"), "note": "half \ud83d"}]},
            "`turn 1 of prompt` has half of a surrogate pair",
        ),
        (
            {
                "prompt": [_user("p")],
                "chosen": [_user("q"), _assistant("a")],
                "rejected": [_user("q"), _assistant("b")],
            },
            "`prompt` is not the beginning of `chosen`",
        ),
        (
            {**PAIR, "system": "s", "prompt": [{"role": "system", "content": "t"}, _user("q")]},
            "system turn differ",
        ),
        ({**PAIR, "system": 3}, "`system` is of type int; it must be text"),
        (
            {**PAIR, "chosen": 3, "rejected": 4},
            "`chosen` is of type int; it must be text or a list of messages",
        ),
        (
            {**PAIR, "prompt": [{"speaker": "human", "value": "q"}]},
            "turn 1 of `prompt` has speaker, value; it must have role",
        ),
        (
            {**PAIR, "prompt": [_user(None)]},
            "`turn 1 of prompt: content` is of type NoneType; it must be text",
        ),
        ({**PAIR, "prompt": ["q"]}, "turn 1 of `prompt` has str; it must have role and content"),
        ({**PAIR, "chosen": "half \ud83d"}, "half of a surrogate pair at character 5"),
        ({**PAIR, "id": True}, "`id` is True; an id must be text or a whole number"),
        ({**PAIR, "id": ""}, "`id` is ''"),
        (
            {"prompt": "q", "response": "a", "helpfulness": "four"},
            "`helpfulness` is 'four'; it must be a number",
        ),
        ({"prompt": "q", "response": "", "helpfulness": 4}, "`response` has an empty response"),
    ],
)
def test_an_unusable_row_is_refused_with_its_place_and_what_is_wrong(read, row, message):
    with pytest.raises(DataError, match=rf"pairs\.jsonl line 1: .*{message}") as raised:
        list(read(row))
    assert "\n" not in str(raised.value)


def test_a_bad_row_behind_good_ones_is_named_by_its_own_line(read):
    with pytest.raises(DataError, match=r"pairs\.jsonl line 3: `chosen` has an empty response"):
        list(read(PAIR, {**PAIR, "prompt": "other"}, {**PAIR, "chosen": ""}))


def test_mixed_forms_are_refused_with_both_named(read):
    with pytest.raises(DataError) as raised:
        list(read(PAIR, {"chosen": [_user("q"), _assistant("a")], "rejected": [_user("q"), _assistant("b")]}))
    message = str(raised.value)
    assert "line 2: chosen and rejected as whole conversations, unlike" in message
    assert "line 1 (prompt as text, chosen and rejected as text)" in message


def test_a_conversation_without_an_answer_is_refused_where_one_is_needed(read):
    with pytest.raises(DataError, match=r"line 2: no `chosen`.*every row must have an answer"):
        list(read({"messages": [_user("q"), _assistant("a")]}, {"messages": [_user("q")]}, need="chosen"))


def test_a_source_with_nothing_to_use_is_refused(read):
    with pytest.raises(DataError, match=r"nothing to use \(0 rows, 0 kept\)"):
        list(read())
    with pytest.raises(
        DataError, match=r"nothing to use \(1 rows, 0 kept, dropped: 1 chosen equals rejected\)"
    ):
        list(read({**PAIR, "rejected": "good"}))


def test_a_source_that_is_not_there_is_refused_on_opening(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_preferences(str(tmp_path / "missing.jsonl"))
