import csv
import itertools
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ConfigurationError, DataError
from data.preferences.forms.content import Content, pair_content
from data.preferences.forms.detection import FORMS, detect_form
from data.preferences.forms.turns import check_order, is_transcript, transcript_turns
from data.preferences.messages import Message, as_turns
from data.preferences.options import Reading
from data.preferences.reader import read_preferences
from tests.data.preferences.schemas import (
    ANSWERS,
    BAD,
    GOOD,
    PAIRS,
    SCORES,
    SINGLES,
    TWO_SCORES,
    VOTES,
    Q,
    assistant,
    gpt,
    human,
    user,
)

ALL = [*PAIRS, *VOTES, *SCORES, *TWO_SCORES, *SINGLES, *ANSWERS]


# Its two outputs as JSON text are one answer that may be meant.
NOT_IN_TABLES = {"LLaMA-Factory, older alpaca ranking"}


@pytest.fixture
def read(tmp_path):
    """Writes rows as JSONL and opens them."""

    def write_and_open(*rows, need="pair", **reading):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_preferences(str(path), Reading(**reading), need=need)

    return write_and_open


def said(reader):
    return [(row.prompt, row.chosen, row.rejected) for row in reader]


# --- Every form


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)
def test_rows_of_public_data_are_told_and_read(read, schema):
    reader = read(*schema.rows, need="pair" if schema.pairs[0][2] is not None else "chosen")
    assert said(reader) == schema.pairs
    assert reader.form_name == schema.form
    assert reader.counts.dropped == schema.dropped
    assert reader.unread == schema.unread
    for column in schema.unread:
        assert column in reader.describe()


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)
def test_columns_in_another_order_and_empty_ones_change_nothing(read, schema):
    rows = [{"weight": None, "tags": [], **dict(reversed(row.items()))} for row in schema.rows]
    reader = read(*rows, need="prompt")
    assert said(reader) == schema.pairs
    assert reader.form_name == schema.form


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)
def test_a_form_that_is_named_is_the_form_that_is_read(read, schema):
    assert said(read(*schema.rows, form=schema.form, need="prompt")) == schema.pairs


PARQUET = [schema for schema in ALL if schema.name != "content as text parts" and "140k" not in schema.name]


@pytest.mark.parametrize("schema", PARQUET, ids=lambda schema: schema.name)
def test_rows_in_parquet_read_like_rows_in_json(tmp_path, schema):
    pq.write_table(pa.Table.from_pylist(schema.rows), tmp_path / "rows.parquet")
    assert said(read_preferences(str(tmp_path / "rows.parquet"), need="prompt")) == schema.pairs


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize(
    "schema", [schema for schema in ALL if schema.name not in NOT_IN_TABLES], ids=lambda schema: schema.name
)
def test_rows_in_tables_read_like_rows_in_json(tmp_path, schema, kind):
    """Cells are text: numbers, labels and what is not text are read out of it."""
    names = list(dict.fromkeys(name for row in schema.rows for name in row))
    with open(tmp_path / f"rows.{kind}", "w", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        for row in schema.rows:
            writer.writerow(
                {
                    name: json.dumps(cell) if isinstance(cell, list | dict) else cell
                    for name, cell in row.items()
                }
            )
    assert said(read_preferences(str(tmp_path / f"rows.{kind}"), need="prompt")) == schema.pairs


def test_arguments_of_other_calls_do_not_appear_as_null(tmp_path):
    def calling(arguments):
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
        }

    row = {"prompt": [user(Q)], "chosen": [calling({"a": 1})], "rejected": [calling({"b": "x"})]}
    pq.write_table(
        pa.Table.from_pylist([row, {**row, "chosen": [calling({"c": [1]})]}]), tmp_path / "rows.parquet"
    )
    datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path)).save_to_disk(
        str(tmp_path / "saved")
    )
    for source in ("rows.parquet", "saved"):
        first, second = said(read_preferences(str(tmp_path / source)))
        assert first[1][0].extra["tool_calls"] == [{"function": {"name": "f", "arguments": {"a": 1}}}]
        assert second[1][0].extra["tool_calls"] == [{"function": {"name": "f", "arguments": {"c": [1]}}}]


def test_every_form_has_a_fixture_and_an_example_that_is_told_to_be_it(read):
    for form in FORMS:
        for example in form.examples if form.name not in ("labels", "helpsteer2") else ():
            reader = read(example, need="prompt")
            assert len(list(reader)) == 1
            assert reader.form_name == form.name, example
    untested = {form.name for form in FORMS} - {schema.form for schema in ALL}
    # Prompts alone and HelpSteer2 have separate tests.
    assert untested == {"prompt", "instruction", "question", "helpsteer2", "prompt-response"}


def test_names_of_forms_are_unique():
    assert len({form.name for form in FORMS}) == len(FORMS)


COLUMNS = st.text(st.characters(categories=["Ll", "Nd"]), min_size=1).map(lambda name: f"x_{name}")

CELLS = st.one_of(
    st.none(), st.integers(), st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers())
)


@pytest.mark.slow
@given(st.sampled_from(ALL), st.dictionaries(COLUMNS, CELLS, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_foreign_columns_in_any_order_change_no_form(schema, foreign, generator):
    row = schema.rows[0] | foreign
    names = list(row)
    generator.shuffle(names)
    found = detect_form({name: row[name] for name in names})
    assert (found.form.name, found.description) == (schema.form, detect_form(schema.rows[0]).description)


# --- Ambiguous forms, and names of columns


AMBIGUOUS = {"instruction": "Name a lake.", "output": "Como.", "messages": [user(Q), assistant(GOOD)]}


def test_a_row_of_two_forms_that_differ_is_refused_with_both(read):
    with pytest.raises(DataError, match=r"any of these forms: messages .*alpaca .*say which by form"):
        list(read(AMBIGUOUS, need="chosen"))
    assert said(read(AMBIGUOUS, need="chosen", form="alpaca")) == [("Name a lake.", "Como.", None)]
    assert said(read(AMBIGUOUS, need="chosen", map=("messages=",))) == [("Name a lake.", "Como.", None)]


def test_a_form_that_rows_do_not_have_is_refused(read):
    with pytest.raises(DataError, match=r"line 1: not of the form openai, which reads input"):
        list(read(*ANSWERS[0].rows, form="openai"))
    with pytest.raises(ConfigurationError, match=r"form 'scord' is not known \(did you mean scored\?\)"):
        read(*ANSWERS[0].rows, form="scord")


@pytest.mark.parametrize(
    ("row", "mappings"),
    [
        ({"q": Q, "good": GOOD, "bad": BAD}, ("prompt=q", "chosen=good", "rejected=bad")),
        ({"x": {"q": Q, "a": [GOOD, BAD]}}, ("prompt=x.q", "chosen=x.a.0", "rejected=x.a.-1")),
        ({"prompt": "old", "q": Q, "chosen": GOOD, "rejected": BAD}, ("prompt=q",)),
        ({"prompt": Q, "chosen": BAD, "rejected": GOOD}, ("chosen=rejected", "rejected=chosen")),
        ({"question": Q, "response_0": BAD, "response_1": GOOD, "voted": 1}, ("winner=voted",)),
    ],
)
def test_columns_under_other_names_are_found(read, row, mappings):
    assert said(read(row, map=mappings)) == [(Q, GOOD, BAD)]


def test_another_preference_of_a_row_can_be_chosen(read):
    (schema,) = (schema for schema in VOTES if schema.name.endswith("SafeRLHF"))
    assert said(read(*schema.rows, map=("better_response_id=safer_response_id",))) == [(Q, BAD, GOOD)]


@pytest.mark.parametrize(
    ("mappings", "error", "message"),
    [
        (("chosen",), ConfigurationError, "map 'chosen' is not NAME=COLUMN"),
        (("best=good",), ConfigurationError, "no form reads 'best'; names are: .*chosen"),
        (("chosen=good", "chosen=bad"), ConfigurationError, "'chosen' is mapped twice"),
        (("chosen=goood",), DataError, "line 1: no column 'goood'.*columns are: bad, good, q"),
        (("prompt=q.text",), DataError, "`q` is of type str, which has no 'text'"),
    ],
)
def test_a_mapping_that_leads_nowhere_is_refused(read, mappings, error, message):
    with pytest.raises(error, match=message):
        list(read({"q": Q, "good": GOOD, "bad": BAD}, map=mappings))


def test_a_mapped_column_may_be_missing_in_later_rows(read):
    rows = [
        {"prompt": Q, "chosen": GOOD, "rejected": BAD, "sys": "Be brief."},
        {"prompt": "r", "chosen": "x", "rejected": "y"},
    ]
    first, second = said(read(*rows, map=("system=sys",)))
    assert first[0][0] == Message("system", "Be brief.")
    assert second == ("r", "x", "y")


@pytest.mark.parametrize(
    "column", ["images", "image", "audio", "videos", "history", "documents", "functions"]
)
def test_a_column_that_belongs_to_the_prompt_and_cannot_be_read_is_refused(read, column):
    row = {"prompt": Q, "chosen": GOOD, "rejected": BAD, column: ["x"]}
    with pytest.raises(
        DataError, match=rf"line 1: `{column}` holds .*leave the column out with map {column}="
    ):
        list(read(row))
    assert said(read(row, map=(f"{column}=",))) == [(Q, GOOD, BAD)]
    assert said(read({**row, column: []})) == [(Q, GOOD, BAD)]


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_a_system_column_of_any_name_comes_first(read, column):
    ((prompt, *_),) = said(read({"prompt": Q, "chosen": GOOD, "rejected": BAD, column: "Be brief."}))
    assert prompt == (Message("system", "Be brief."), Message("user", Q))


def test_rows_within_an_object_are_named_as_such(read):
    with pytest.raises(DataError, match=r"only column `data` is a list of objects; .*jq -c '\.data\[\]'"):
        list(read({"data": [{"prompt": Q}]}))


def test_the_question_of_webgpt_is_found_by_a_path(read):
    answers = {"answer_0": BAD, "answer_1": GOOD, "score_0": -1.0, "score_1": 1.0}
    row = {"question": {"full_text": Q, "id": "x"}, "quotes_0": {"title": ["t"]}, **answers}
    assert said(read(row, map=("prompt=question.full_text", "question="))) == [(Q, GOOD, BAD)]


# --- Scored lists


SCORED = {"id": "s", "prompt": Q, "responses": ["w", "a", "b", "z"], "scores": [0.0, 9, 5, 5]}


def test_pairs_of_a_scored_list_are_the_ones_asked_for(read):
    assert said(read(SCORED)) == [(Q, "a", "w")]
    every = read(SCORED, pairs="all")
    assert {row[1:] for row in said(every)} == {("a", "b"), ("a", "z"), ("a", "w"), ("b", "w"), ("z", "w")}
    assert [row.pair_id for row in every] == ["s/1", "s/2", "s/3", "s/4", "s/5"]
    ((_, best, other),) = drawn = said(read(SCORED, pairs="best-random"))
    assert (best, other in ("w", "b", "z")) == ("a", True)
    assert said(read(SCORED, pairs="best-random")) == drawn, "drawn by the content alone"


def test_random_pairs_draw_every_other_answer(read):
    rows = [{**SCORED, "id": str(number), "responses": [f"w{number}", "a", "b", "z"]} for number in range(60)]
    others = {row.rejected[0] for row in read(*rows, pairs="best-random")}
    # Missing one of three in 60 draws has a chance below 1e-10.
    assert others == {"w", "b", "z"}


def test_answers_without_a_score_are_left_out(read):
    completions = [
        {"response": "w", "overall_score": "N/A"},
        {"response": GOOD, "overall_score": 7},
        {"response": BAD, "overall_score": 2},
        {"response": "", "overall_score": 0},
    ]
    assert said(read({"instruction": Q, "completions": completions})) == [(Q, GOOD, BAD)]


# --- Labels


def test_labelled_answers_meet_wherever_they_are(read):
    good = [{"prompt": f"q{number}", "completion": "g", "label": True} for number in range(50)]
    bad = [{"prompt": f"q{number}", "completion": "b", "label": False} for number in range(49, -1, -1)]
    reader = read(*good, *bad, {"prompt": "q0", "completion": "b2", "label": False})
    assert [row[0] for row in said(reader)] == [f"q{number}" for number in range(49, -1, -1)]
    assert {row[1:] for row in said(reader)} == {("g", "b")}
    assert reader.counts.dropped == {"unpaired answer": 1}
    assert next(iter(reader)).location.endswith("line 50 and " + reader.describe().split(":")[0] + " line 51")


def test_labelled_answers_keep_turns_tools_and_templates_arguments(read):
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
    }
    rows = [
        {"prompt": [user(Q)], "completion": [call], "label": True, "tools": [{"name": "f"}]},
        {"prompt": [user(Q)], "completion": [assistant(BAD)], "label": False, "tools": [{"name": "f"}]},
        {"prompt": [user(Q)], "completion": [assistant("z")], "label": False},
    ]
    reader = read(*rows)
    (row,) = reader
    assert row.tools == ({"name": "f"},)
    assert row.chosen[0].extra == {"tool_calls": call["tool_calls"]}
    assert reader.counts.dropped == {"unpaired answer": 1}, "another prompt, as it has no tools"


def test_labels_without_a_pair_are_refused_with_that_reason(read):
    rows = [{"prompt": f"q{number}", "completion": "a", "label": number % 2 == 0} for number in range(4)]
    with pytest.raises(DataError, match="labelled one by one, and no prompt has both a good and a bad one"):
        list(read(*rows))


def test_a_label_that_is_no_label_is_refused_behind_good_ones(read):
    rows = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "b", "label": 3}]
    with pytest.raises(DataError, match=r"line 2: .*unlike .*labelled answers"):
        list(read(*rows))


# --- Where conversations part


TURN = st.sampled_from(["a", "b", "c"])


@st.composite
def conversation_pairs(draw):
    """Two conversations of alternating turns that share a beginning with at least the user's first turn."""

    def tail(start):
        length = draw(st.integers(0, 5))
        roles = [("user", "assistant")[(start + index) % 2] for index in range(length)]
        return tuple(Message(role, draw(TURN)) for role in roles)

    shared = tuple(
        Message(("user", "assistant")[index % 2], draw(TURN)) for index in range(draw(st.integers(1, 5)))
    )
    both = []
    for turns in (shared + tail(len(shared)), shared + tail(len(shared))):
        both.append(turns if turns[-1].role == "assistant" else (*turns, Message("assistant", draw(TURN))))
    return tuple(both)


@given(conversation_pairs())
@settings(max_examples=300, deadline=None)
def test_conversations_part_at_an_answer_and_nothing_is_lost(pair):
    content = pair_content({}, None, *pair)
    prompt = as_turns(content.prompt, "user")
    for whole, answer in zip(pair, (content.chosen, content.rejected), strict=True):
        turns = as_turns(answer, "assistant")
        assert prompt + turns == whole
        assert turns[0].role == "assistant"
        assert isinstance(answer, str) == (len(turns) == 1)
    if pair[0] != pair[1]:
        parting = len(list(itertools.takewhile(lambda turns: turns[0] == turns[1], zip(*pair, strict=False))))
        assert len(prompt) <= parting
        # No later answer that both share, and none that both give where they part.
        assert all(turn.role != "assistant" for turn in pair[0][len(prompt) + 1 : parting])
        if all(len(turns) > parting and turns[parting].role == "assistant" for turns in pair):
            assert len(prompt) == parting


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt_turns", "chosen_turns", "rejected_turns"),
    [
        # At the first answer, the middle of the conversation, and a turn of the user's.
        ("u a u b", "u x u b", 1, 3, 3),
        ("u a u b", "u a u c", 3, 1, 1),
        ("u a v b", "u a w b", 1, 3, 3),
        # One ends where the other goes on.
        ("u a", "u a u b", 1, 1, 3),
        ("u a u b u c", "u a u b", 3, 3, 1),
    ],
)
def test_conversations_may_part_at_any_turn(
    read, chosen, rejected, prompt_turns, chosen_turns, rejected_turns
):
    def turns(text):
        return [(user, assistant)[index % 2](word) for index, word in enumerate(text.split())]

    ((prompt, first, second),) = said(read({"chosen": turns(chosen), "rejected": turns(rejected)}))
    lengths = [len(as_turns(answer, "assistant")) for answer in (first, second)]
    assert (len(prompt), *lengths) == (prompt_turns, chosen_turns, rejected_turns)


def test_answers_with_tool_results_are_kept_whole(read):
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "function": {"name": "f"}}],
    }
    result = {"role": "tool", "content": "21", "tool_call_id": "c1"}
    row = {
        "prompt": [user(Q)],
        "chosen": [call, result, assistant(GOOD)],
        "rejected": [call, {**result, "content": "0"}, assistant(BAD)],
        "tools": '[{"name": "f"}]',
    }
    ((prompt, chosen, rejected),) = said(read(row))
    assert prompt == (Message("user", Q),)
    assert (
        [turn.role for turn in chosen]
        == [turn.role for turn in rejected]
        == ["assistant", "tool", "assistant"]
    )
    assert chosen[1].extra == {"tool_call_id": "c1"}


def test_calls_of_llama_factory_become_tool_calls(read):
    conversation = [human(Q), {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'}]
    row = {"conversations": [*conversation, {"from": "observation", "value": "21"}, gpt(GOOD)], "tools": "[]"}
    ((prompt, chosen, _),) = said(read(row, need="chosen"))
    assert [turn.role for turn in prompt] == ["user", "assistant", "tool"]
    assert prompt[1].extra["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert chosen == GOOD


# --- A text prompt beside conversations


@pytest.mark.parametrize(
    ("turns", "prompt"),
    [
        ([], "Name a river."),
        ([{"role": "system", "content": "s"}], (Message("system", "s"), Message("user", Q))),
        ([user(Q)], (Message("user", Q),)),
        ([user(f"Please:  {Q}\n")], (Message("user", f"Please:  {Q}\n"),)),
        ([assistant("Hi."), user(Q)], (Message("assistant", "Hi."), Message("user", Q))),
    ],
)
def test_a_question_that_only_the_text_prompt_holds_is_not_lost(read, turns, prompt):
    row = {"prompt": Q, "chosen": [*turns, assistant(GOOD)], "rejected": [*turns, assistant(BAD)]}
    assert said(read(row)) == [(prompt, GOOD, BAD)]


def test_a_text_prompt_that_conversations_contradict_is_refused(read):
    row = {
        "prompt": Q,
        "chosen": [user("Another?"), assistant(GOOD)],
        "rejected": [user("Another?"), assistant(BAD)],
    }
    with pytest.raises(DataError, match=r"`prompt` is 'Name a river\.', which is in no turn of `chosen`"):
        list(read(row))


# --- Rows that cannot be used


def _turns(*said):
    return [{"role": role, "content": content} for role, content in said]


BAD_ROWS = [
    (
        [("user", "a"), ("user", "b"), ("assistant", "c")],
        "turn 2 of `messages` is the user's, like the one before",
    ),
    (
        [("user", "a"), ("assistant", "b"), ("assistant", "c")],
        "turn 3 of `messages` is the assistant's, like the one",
    ),
    (
        [("user", "a"), ("system", "b"), ("assistant", "c")],
        "turn 2 of `messages` is a system turn after the user's",
    ),
    ([("user", " "), ("assistant", "c")], r"turn 1 of `messages` \(user\) is empty"),
    (
        [("user", "a"), ("tool", "1"), ("assistant", "c")],
        "turn 2 of `messages` is a tool's result, and no call",
    ),
    (
        [("user", "a"), ("assistant", "Fine."), ("tool", "1"), ("assistant", "c")],
        "turn 3 of `messages` is a tool's result, and no call",
    ),
]


@pytest.mark.parametrize(("turns", "message"), BAD_ROWS)
def test_a_conversation_that_cannot_have_happened_is_refused(read, turns, message):
    good = {"messages": _turns(("user", "q"), ("assistant", "a"))}
    with pytest.raises(DataError, match=f"line 2: {message}.*; or drop such rows"):
        list(read(good, {"messages": _turns(*turns)}, need="chosen"))
    reader = read(good, {"messages": _turns(*turns)}, need="chosen", bad_rows="drop")
    assert len(list(reader)) == 1
    (reason,) = reader.counts.dropped
    assert "line 2: " in reader.problems[reason]


def test_a_call_in_the_text_is_a_call(read):
    turns = _turns(
        ("user", "a"), ("assistant", "<tool_call>f()</tool_call>"), ("tool", "1"), ("assistant", "c")
    )
    assert len(list(read({"messages": turns}, need="chosen"))) == 1


def test_a_result_of_another_call_is_refused(read):
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f"}}]}
    turns = [user("a"), call, {"role": "tool", "content": "1", "tool_call_id": "c2"}, assistant("b")]
    with pytest.raises(DataError, match='answers the call "c2", and the calls before it are'):
        list(read({"messages": turns}, need="chosen"))


def test_images_are_refused_by_name(read):
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": Q}]
    row = {"messages": [{"role": "user", "content": parts}, assistant(GOOD)]}
    with pytest.raises(DataError, match="turn 1 of `messages` has a part of type 'image_url'; only text"):
        list(read(row, need="chosen"))


def test_rows_that_are_dropped_are_counted_by_reason(read):
    pair = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
    rows = [pair, {**pair, "chosen": ""}, {**pair, "prompt": " "}, {**pair, "rejected": "\n"}, {"text": "x"}]
    reader = read(*rows, bad_rows="drop")
    assert len(list(reader)) == 1
    assert reader.counts.dropped == {"empty response": 2, "empty prompt": 1, "another form": 1}
    assert reader.counts.read == 5
    with pytest.raises(DataError, match=r"nothing to use \(1 rows.*empty response\); the first: .*line 1"):
        list(read({**pair, "chosen": ""}, bad_rows="drop"))


def test_a_row_is_used_whole_or_not_at_all(read):
    row = {"prompt": [user("a"), user("b")], "responses": ["x", "y", "z"], "scores": [1, 2, 3]}
    good = {"prompt": [user("a")], "responses": ["x", "y", "z"], "scores": [1, 2, 3]}
    reader = read(good, row, bad_rows="drop", pairs="all")
    assert len(list(reader)) == 3
    assert reader.counts.dropped == {"roles out of order": 1}


# --- Transcripts


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=200, deadline=None)
def test_a_transcript_gives_its_turns_back(contents):
    contents = [content.replace("Human:", "").replace("Assistant:", "") or "x" for content in contents]
    roles = [("Human", "Assistant")[index % 2] for index in range(len(contents))]
    text = "".join(f"\n\n{role}: {content}" for role, content in zip(roles, contents, strict=True))
    turns = transcript_turns(text, "chosen")
    assert [turn.content for turn in turns] == [content.strip() for content in contents]
    assert is_transcript(text) == (len(contents) > 1)


def test_role_marks_within_an_answer_begin_no_turn():
    text = "\n\nHuman: What is a Human: mark?\n\nAssistant: In Human:Assistant: text,\nnothing."
    assert [turn.content for turn in transcript_turns(text, "chosen")] == [
        "What is a Human: mark?",
        "In Human:Assistant: text,\nnothing.",
    ]


def test_order_is_checked_on_whole_conversations_only():
    check_order([Message("system", ""), Message("developer", "d"), Message("user", "q")], "prompt")
    check_order([Message("assistant", "Hello."), Message("user", "q")], "prompt")
    assert isinstance(pair_content({}, "q", "a", "b"), Content)
