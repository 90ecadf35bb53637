import functools
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ConfigurationError, DataError
from data.preferences.messages import Message, PreferenceRow, as_turns
from data.tokens.encoder import PairEncoder
from data.tokens.thoughts import THINKING_ARGUMENTS
from tests.data.tokens.template_families import ASKED, FAMILIES, KINDS, TOOLS, conversation_row, outcome

words = st.text(st.sampled_from("abc xyz.\n<>é"), min_size=1, max_size=12).filter(str.strip)


@functools.cache
def tokenizer_of(name):
    return FAMILIES[name].tokenizer()


@functools.cache
def encoder_of(name, **settings):
    return PairEncoder(tokenizer_of(name), **settings)


def renderings(tokenizer, row, response):
    """What the template writes for a response's conversation, with the arguments that it may have been given."""
    if response.conversation is not None:
        said = json.loads(response.conversation)
        yield tokenizer.apply_chat_template(
            said["messages"], tools=said["tools"], tokenize=False, **said["template_args"]
        )
        return
    turns = [turn.as_dict() for turn in (*as_turns(row.prompt, "user"), *as_turns(row.chosen, "assistant"))]
    yield tokenizer.apply_chat_template(turns, tokenize=False)
    thought, _, answer = str(row.chosen).partition("</think>")
    for field in ("reasoning_content", "thinking", "reasoning"):
        turns[-1] = {"role": "assistant", "content": answer.lstrip("\n"), field: thought[8:].strip()}
        for arguments in ({}, *({name: True} for name in THINKING_ARGUMENTS)):
            yield tokenizer.apply_chat_template(turns, tokenize=False, **arguments)
    turns[-1] = {"role": "assistant", "content": row.chosen}
    for tags in ("◁think▷ ◁/think▷", "[THINK] [/THINK]", "<|channel>thought <channel|>"):
        begin, end = tags.split()
        inline = f"{begin}\n{thought[8:].strip()}\n{end}\n\n{answer.lstrip()}"
        turns[-1] = {"role": "assistant", "content": inline}
        yield tokenizer.apply_chat_template(turns, tokenize=False)
    turns[-1] = {"role": "assistant", "content": row.chosen}
    for name in THINKING_ARGUMENTS:
        yield tokenizer.apply_chat_template(turns, tokenize=False, **{name: True})


def check_texts(name, row, encoded):
    tokenizer = tokenizer_of(name)
    for response in encoded.chosen:
        text = tokenizer.decode([*response.prompt_ids, *response.ids])
        if not FAMILIES[name].end.strip():
            text = text.removesuffix(tokenizer.eos_token)  # appended, as the template writes no end of turn
        wholes = list(renderings(tokenizer, row, response))
        assert any(whole.startswith(text) and not whole[len(text) :].strip() for whole in wholes), (
            text,
            wholes,
        )


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(FAMILIES, KINDS)))
def test_prompt_and_response_are_the_template_s_own_rendering(name, kind):
    row = conversation_row(kind)
    told = outcome(name, kind)
    if told.startswith("refused"):
        with pytest.raises(DataError, match=rf"^{kind}: .*(reasoning_content|tools)"):
            encoder_of(name).encode(row)
    elif told.startswith("dropped"):
        assert encoder_of(name).encode(row) is None
    else:
        check_texts(name, row, encoder_of(name).encode(row))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@given(answer=words, question=words, system=st.none() | words)
@settings(max_examples=15, deadline=None)
def test_any_plain_answer_is_the_template_s_own_rendering(name, answer, question, system):
    prompt = (Message("user", question),)
    if system is not None and FAMILIES[name].system is not None:
        prompt = (Message("system", system), *prompt)
    row = PreferenceRow("id", prompt, answer, None, "row")
    encoded = encoder_of(name).encode(row)
    assert encoded is not None
    check_texts(name, row, encoded)
    (response,) = encoded.chosen
    decoded = tokenizer_of(name).decode(response.ids[:-1])
    assert decoded.strip().endswith(answer.strip())
    assert "think" not in decoded.lower(), "nothing of a thought that the data do not have is trained"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thought_is_trained_once_and_whole_or_the_row_is_not_used(name):
    row = conversation_row("thought in the text")
    encoded = encoder_of(name).encode(row)
    if encoded is None:
        return
    (response,) = encoded.chosen
    assert response.mask is None
    text = tokenizer_of(name).decode([*response.prompt_ids, *response.ids])
    assert text.count("Rivers are wet.") == 1
    trained = tokenizer_of(name).decode(response.ids)
    assert trained.index("Rivers are wet.") < trained.index("It is fine.")
    tags = ("think>", "[THINK]", "◁think▷", "analysis", "<|START_THINKING|>", "channel>thought")
    assert text.count("/think>") + text.count("[/THINK]") + text.count("◁/think▷") <= 1
    assert sum(text.count(tag) for tag in tags) <= 2


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["tools", "two turns"])
def test_masks_hold_what_the_assistant_wrote_and_its_ends_of_turn(name, kind):
    try:
        encoded = encoder_of(name).encode(conversation_row(kind))
    except DataError:
        return
    assert encoded is not None
    tokenizer = tokenizer_of(name)
    trained = [tokenizer.decode(response.ids[masked(response)]) for response in encoded.chosen]
    said = "".join(trained)
    assert "Rain until noon." not in said
    assert "And in Bonn?" not in said
    assert "think" not in said.lower(), "thoughts that the data do not have"
    wanted = ["weather", "Ulm", "It rains."] if kind == "tools" else ["It is fine.", "It is cloudy."]
    places = [said.index(text) for text in wanted]
    assert places == sorted(places)
    if FAMILIES[name].end.strip():
        ends = FAMILIES[name].end.strip()
        count = said.count(ends) + (said.count("<|end|>") if FAMILIES[name].earlier_end else 0)
        assert count >= 2, said
    assert said.endswith(tokenizer.convert_ids_to_tokens(encoder_of(name).terminator_id))


def masked(response):
    return np.ones(len(response.ids), bool) if response.mask is None else response.mask


@pytest.mark.parametrize("name", FAMILIES)
def test_thinking_none_leaves_thoughts_out_and_keep_trains_the_empty_ones(name):
    row = conversation_row("thought in the text")
    encoded = encoder_of(name, thinking="none").encode(row)
    plain = encoder_of(name, thinking="none").encode(row._replace(chosen="It is fine."))
    assert encoded.chosen_ids.tolist() == plain.chosen_ids.tolist()
    assert "Rivers" not in tokenizer_of(name).decode(encoded.chosen_ids)
    prompt = tokenizer_of(name).decode(encoded.prompt_ids)
    assert not prompt.rstrip().endswith(("<think>", "◁think▷", "[THINK]"))
    kept = encoder_of(name, thinking="keep").encode(row._replace(chosen="It is fine."))
    auto = encoder_of(name).encode(row._replace(chosen="It is fine."))
    assert len(kept.chosen_ids) >= len(auto.chosen_ids)
    if "empty thought" in outcome(name, "plain") and FAMILIES[name].thoughts.writes in ("latest", "always"):
        assert len(kept.chosen_ids) > len(auto.chosen_ids)


def test_the_answers_of_a_pair_follow_one_prompt_and_only_what_both_lack_is_in_it():
    tokenizer = tokenizer_of("qwen3.5-think")
    row = conversation_row("thought in the text")._replace(rejected="It is not.")
    encoded = encoder_of("qwen3.5-think").encode(row)
    (chosen,), (rejected,) = encoded.chosen, encoded.rejected
    assert chosen.prompt_ids.tolist() == rejected.prompt_ids.tolist()
    assert tokenizer.decode(chosen.prompt_ids).endswith("<|im_start|>assistant\n<think>\n")
    assert chosen.mask is None
    assert tokenizer.decode(rejected.ids) == "\n</think>\n\nIt is not.<|im_end|>"
    assert tokenizer.decode(rejected.ids[rejected.mask]) == "It is not.<|im_end|>"


@pytest.mark.parametrize("train_on", ["turns", "last", "all"])
def test_train_on_chooses_what_counts(train_on):
    encoder = encoder_of("qwen2.5", train_on=train_on)
    (response,) = encoder.encode(conversation_row("tools")).chosen
    trained = tokenizer_of("qwen2.5").decode(response.ids[masked(response)])
    assert ("Rain until noon." in trained) == (train_on == "all")
    assert ("weather" in trained) == (train_on != "last")
    assert trained.endswith("It rains.<|im_end|>")


def test_a_whole_conversation_is_learnt_turn_by_turn():
    turns = (*ASKED, Message("assistant", "one"), Message("user", "more"), Message("assistant", "two"))
    row = PreferenceRow("id", turns[:-1], "two", None, "row", is_conversation=True)
    (response,) = encoder_of("chatml").encode(row).chosen
    assert tokenizer_of("chatml").decode(response.ids[response.mask]) == "one<|im_end|>two<|im_end|>"
    (last,) = encoder_of("chatml", train_on="last").encode(row).chosen
    assert tokenizer_of("chatml").decode(last.ids) == "two<|im_end|>"
    assert last.mask is None


def test_turns_that_a_template_writes_anew_are_separate_rows():
    encoded = encoder_of("gpt-oss").encode(conversation_row("two turns"))
    first, second = encoded.chosen
    tokenizer = tokenizer_of("gpt-oss")
    assert tokenizer.decode(first.ids).endswith("It is fine.<|return|>")
    assert "It is fine.<|end|>" in tokenizer.decode(second.prompt_ids)
    assert [row.sample_index for row in encoded.rows()] == [0, 1]
    with pytest.raises(DataError, match=r"writes earlier turns of the answer differently.*train on `turns`"):
        PairEncoder(tokenizer, train_on="all").encode(conversation_row("two turns"))


def test_generation_marks_say_what_the_assistant_wrote():
    marked = encoder_of("chatml with generation marks").encode(conversation_row("two turns"))
    unmarked = encoder_of("qwen2.5").encode(conversation_row("two turns"))
    assert marked.chosen[0].ids.tolist() == unmarked.chosen[0].ids.tolist()
    assert marked.chosen[0].mask.tolist() == unmarked.chosen[0].mask.tolist()
    # Marks around the second half of an answer leave out the first.
    tokenizer = FAMILIES["chatml with generation marks"].tokenizer()
    template = tokenizer.chat_template.replace(
        "{%- generation -%}{{- block + content -}}",
        "{{- content[:3] -}}{%- generation -%}{{- content[3:] -}}",
    )
    assert template != tokenizer.chat_template
    tokenizer.chat_template = template
    (response,) = PairEncoder(tokenizer).encode(conversation_row("two turns")).chosen
    assert tokenizer.decode(response.ids[response.mask]) == "is fine.<|im_end|>is cloudy.<|im_end|>"


def test_a_template_that_cuts_thoughts_off_is_told_from_others_when_no_row_is_left():
    encoder = PairEncoder(tokenizer_of("qwq"))
    assert encoder.encode(conversation_row("thought in the text")) is None
    with pytest.raises(
        DataError, match=r"leaves out a part of; a template that cuts thoughts off .*thinking `none`"
    ):
        encoder.require_rows()


def test_answers_that_are_equal_once_rendered_are_dropped_and_counted():
    encoder = PairEncoder(tokenizer_of("llama-3"))
    assert encoder.encode(PreferenceRow("id", ASKED, "It is fine.", "It is fine. ", "row")) is None
    assert encoder.counts.dropped == {"answers equal once rendered": 1}
    assert encoder.encode(PreferenceRow("id", ASKED, "It is fine.", "No. ", "row")) is not None
    assert "the template trims answers of 1 rows" in encoder.describe()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"template_args": {"tone": "mild"}},
            "`chat_template_kwargs` has 'tone': the chat template never reads it",
        ),
        (
            {"prompt": (Message("user", "q", {"images": ["a"]}),)},
            "never reads 'images', a field of a turn of role 'user'",
        ),
        ({"prompt": (Message("critic", "Be strict."), *ASKED)}, "leaves out turn 1, of role 'critic'"),
        ({"prompt": (Message("user", "q", {"score": 0.5}),)}, None),
    ],
)
def test_what_a_template_does_not_read_is_refused_by_name(row, message):
    tokenizer = FAMILIES["qwen3"].tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{%- for m in messages -%}{%- set content",
        "{%- for m in messages if m['role'] != 'critic' -%}{%- set content",
    )
    encoder = PairEncoder(tokenizer)
    row = conversation_row("plain")._replace(**row)
    if message is None:
        assert encoder.encode(row) is not None
        assert "fields of messages that nothing reads: score" in encoder.describe()
        return
    with pytest.raises(DataError, match=message):
        encoder.encode(row)


def test_template_arguments_are_checked_and_a_rows_own_take_precedence():
    tokenizer = tokenizer_of("qwen3.5-think")
    with pytest.raises(ConfigurationError, match=r"template argument 'tone': .* it reads enable_thinking"):
        PairEncoder(tokenizer, template_args={"tone": "mild"})
    off = PairEncoder(tokenizer, template_args={"enable_thinking": False})
    row = conversation_row("plain")
    assert tokenizer.decode(off.encode(row).prompt_ids).endswith("<think>\n\n</think>\n\n")
    on = off.encode(row._replace(template_args={"enable_thinking": True}))
    assert tokenizer.decode(on.prompt_ids).endswith("assistant\n<think>\n")
    with pytest.raises(
        ConfigurationError, match="thinking is none, but template argument enable_thinking is True"
    ):
        PairEncoder(tokenizer, template_args={"enable_thinking": True}, thinking="none")


def test_rows_that_a_template_refuses_are_counted_by_reason_where_bad_rows_are_dropped():
    encoder = PairEncoder(tokenizer_of("chatml"), bad_rows="drop")
    assert encoder.encode(conversation_row("thought")) is None
    assert encoder.encode(conversation_row("tools")) is None
    assert encoder.encode(conversation_row("plain")) is not None
    assert encoder.counts.dropped == {
        "the chat template never reads 'reasoning_content', a field with a thought of the data, which would be lost": 1,
        "the row has `tools`, which the chat template never reads": 1,
    }


def test_a_beginning_of_sequence_that_is_there_twice_is_refused():
    tokenizer = FAMILIES["llama-3"].tokenizer()
    tokenizer.chat_template = "{{- bos_token -}}" + tokenizer.chat_template
    with pytest.raises(DataError, match=r"begins with '<\|begin_of_text\|>' twice"):
        PairEncoder(tokenizer).encode(conversation_row("plain"))


def test_arguments_of_tool_calls_may_be_json_text():
    row = conversation_row("tools")
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}
    as_text = row._replace(chosen=(Message("assistant", "", {"tool_calls": [call]}), *row.chosen[1:]))
    (values,), (text,) = (encoder_of("qwen2.5").encode(one).chosen for one in (row, as_text))
    assert values.ids.tolist() == text.ids.tolist()


def test_tools_and_arguments_reach_the_template_and_the_conversation_keeps_them():
    row = conversation_row("tools")._replace(template_args={"enable_thinking": False})
    encoded = encoder_of("qwen3").encode(row)
    assert '"description": "The weather of a town"' in tokenizer_of("qwen3").decode(encoded.prompt_ids)
    said = json.loads(encoded.chosen[0].conversation)
    assert said["tools"] == list(TOOLS)
    assert said["template_args"] == {"enable_thinking": False}
    assert [message["role"] for message in said["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert said["num_prompt_messages"] == 1
