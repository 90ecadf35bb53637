import datetime

import pytest
import transformers.utils.chat_template_utils
from tokenizers import AddedToken, Tokenizer, models

from data.errors import DataError
from data.preferences.messages import Message
from data.tokens.encoder import PairEncoder
from tests.data.tokens.chat_tokenizers import (
    CHATML,
    STYLES,
    byte_level,
    chatml,
    conversation,
    dicts,
    mistral_03,
    phi_3,
    qwen_3,
    row,
    wrap,
)


def test_a_template_that_drops_answered_system_turns_is_asked_for_the_answer():
    tokenizer = mistral_03()
    prompt = (Message("system", "a b"), Message("user", "the dog"))
    encoded = PairEncoder(tokenizer).encode(row(prompt, "I am fine.", None))
    expected = tokenizer.apply_chat_template(dicts(prompt), add_generation_prompt=True, return_dict=False)
    assert encoded.prompt_ids.tolist() == expected
    assert "a b" in tokenizer.decode(encoded.prompt_ids)
    alone = PairEncoder(tokenizer).encode(row("the dog", "I am fine.", None))
    assert encoded.chosen_ids.tolist() == alone.chosen_ids.tolist()
    assert tokenizer.decode(encoded.chosen_ids) == "I am fine.</s>"


def test_a_template_that_strips_earlier_thoughts_keeps_the_answer_s_own():
    tokenizer = qwen_3()
    prompt = conversation("a", "<think>\nquick\n</think>\n\nb", "c")
    encoded = PairEncoder(tokenizer).encode(row(prompt, "<think>\nhm\n</think>\n\nfine", None))
    assert tokenizer.decode(encoded.prompt_ids) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.decode(encoded.chosen_ids) == "<think>\nhm\n</think>\n\nfine<|im_end|>"


def test_an_empty_thought_that_the_template_writes_is_the_prompt_s():
    tokenizer = qwen_3()
    encoded = PairEncoder(tokenizer).encode(row("c", "fine", "no"))
    header = "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(encoded.prompt_ids) == header, "what a model is asked to go on with"
    for response, answer in ((*encoded.chosen, "fine"), (*encoded.rejected, "no")):
        assert tokenizer.decode(response.prompt_ids) == header + "<think>\n\n</think>\n\n"
        assert tokenizer.decode(response.ids) == f"{answer}<|im_end|>"
        assert response.mask is None


def test_turn_tokens_that_swallow_newlines_are_no_trouble():
    tokenizer = phi_3()
    encoder = PairEncoder(tokenizer)
    encoded = encoder.encode(row("the dog", "I am fine.\n", "a"))
    assert tokenizer.convert_ids_to_tokens(encoder.terminator_id) == "<|end|>"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the dog"}], add_generation_prompt=True, return_dict=False
    )
    assert encoded.prompt_ids.tolist() == prompt
    assert tokenizer.decode(encoded.chosen_ids) == "I am fine.\n<|end|>"


@pytest.mark.parametrize(
    ("style", "cut"), [("chatml", "\n"), ("llama-2", ""), ("llama-3", ""), ("gemma", "\n"), ("zephyr", "\n")]
)
def test_what_a_template_writes_behind_the_terminator_is_cut(style, cut):
    tokenizer, _ = STYLES[style]
    encoded = PairEncoder(tokenizer).encode(row())
    text = tokenizer.apply_chat_template(dicts(conversation("How are you?", "I am fine.")), tokenize=False)
    kept = tokenizer.decode([*encoded.prompt_ids, *encoded.chosen_ids])
    # Llama 2's normalizer puts a space after every special token, which decoding shows.
    assert kept.replace(" ", "") + cut == text.replace(" ", "")


# --- The terminator


def test_a_template_without_an_end_of_turn_gets_the_end_of_sequence_token():
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = chatml(template)
    encoder = PairEncoder(tokenizer)
    assert tokenizer.decode(encoder.encode(row()).chosen_ids) == "I am fine.<|im_end|>"
    assert "'<|im_end|>', appended" in encoder.describe()


def test_an_end_of_turn_need_not_be_the_end_of_sequence():
    tokenizer = chatml(CHATML + "{% if not add_generation_prompt %}{{ '<|endoftext|>' }}{% endif %}")
    encoder = PairEncoder(tokenizer)
    assert tokenizer.decode(encoder.encode(row()).chosen_ids) == "I am fine.<|im_end|>"
    assert PairEncoder(STYLES["llama-3"][0]).terminator_id != STYLES["llama-3"][0].eos_token_id


def test_a_special_token_that_no_attribute_names_ends_the_turn():
    tokenizer = wrap(byte_level(["<|endoftext|>"]), eos="<|endoftext|>", template=CHATML)
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True)])
    encoder = PairEncoder(tokenizer)
    assert tokenizer.convert_ids_to_tokens(encoder.terminator_id) == "<|im_end|>"


def test_an_end_of_turn_added_as_an_ordinary_token_ends_the_turn():
    template = CHATML.replace("'<|im_end|>\n'", "'\n\n<|im_end|>\n'")
    tokenizer = wrap(byte_level(["<|endoftext|>"]), eos="<|endoftext|>", template=template)
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=False), AddedToken("\n\n", special=False)])
    encoded = PairEncoder(tokenizer).encode(row())
    assert tokenizer.decode(encoded.chosen_ids) == "I am fine.\n\n<|im_end|>"


def test_an_answer_that_holds_the_terminator_is_dropped_and_counted():
    tokenizer, _ = STYLES["chatml"]
    encoder = PairEncoder(tokenizer)
    assert encoder.encode(row(rejected="the <|im_end|> dog")) is None
    assert encoder.encode(row()) is not None
    assert encoder.counts.dropped == {"answer holds '<|im_end|>'": 1}
    assert (encoder.counts.read, encoder.counts.kept) == (2, 1)


def test_an_answer_that_the_tokenizer_swallows_is_dropped_and_counted():
    backend = Tokenizer(models.BPE({"y": 0, "e": 1, "s": 2, "</s>": 3}, []))
    encoder = PairEncoder(wrap(backend, eos="</s>"))
    assert encoder.encode(row("yes", "no", "yes")) is None
    assert encoder.counts.dropped == {"answer has no tokens": 1}


def test_nothing_to_end_an_answer_with_is_refused():
    with pytest.raises(DataError, match=r"no end-of-sequence token.*set eos_token"):
        PairEncoder(wrap(byte_level(["<|endoftext|>"])))


# --- Templates that do not fit


@pytest.mark.parametrize("style", ["llama-2", "gemma"])
def test_a_system_turn_that_the_template_refuses_is_a_clear_error(style):
    prompt = (Message("system", "Be brief."), Message("user", "Why?"))
    with pytest.raises(
        DataError, match=r"line 7: the chat template refuses a conversation of system, user: .*system"
    ):
        PairEncoder(STYLES[style][0]).encode(row(prompt, location="pairs.jsonl line 7"))


def test_a_generation_prompt_that_answers_do_not_begin_with_is_a_clear_error():
    tokenizer = chatml(CHATML.replace("assistant\n' }}", "helper: ' }}"))
    with pytest.raises(
        DataError, match=r"line 1: the chat template's generation prompt is not how it begins an answer"
    ):
        PairEncoder(tokenizer).encode(row())


def test_a_template_that_ends_answers_unlike_is_a_clear_error():
    tokenizer = chatml(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
        "{% if 'fine' in m['content'] %}{{ '!' }}{% endif %}"
        "{{ '<|im_end|>' if 'fine' not in m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    with pytest.raises(DataError, match=r"others with '<\|im_end\|>'"):
        PairEncoder(tokenizer).encode(row())


def test_a_template_that_wants_content_as_a_list_of_parts_gets_it_so():
    template = CHATML.replace("m['content'] +", "m['content'][0]['text'] | default('') +")
    parts, text = PairEncoder(chatml(template)).encode(row()), PairEncoder(chatml()).encode(row())
    assert parts.prompt_ids.tolist() == text.prompt_ids.tolist()
    assert parts.chosen_ids.tolist() == text.chosen_ids.tolist()


def test_a_template_that_writes_no_text_of_an_assistant_is_a_clear_error():
    with pytest.raises(DataError, match="leaves out the text of an assistant turn"):
        PairEncoder(chatml(CHATML.replace("m['content'] +", "'' +")))


def test_a_broken_template_is_a_clear_error():
    with pytest.raises(DataError, match=r"not valid Jinja \(line 1: .*\); fix it"):
        PairEncoder(chatml("{{ bos_token }{% for"))
    with pytest.raises(DataError, match="the chat template refuses a conversation of user, assistant"):
        PairEncoder(chatml("{{ messages.nothing.there }}"))


def test_a_template_that_prints_the_date_prints_the_same_one_every_day(monkeypatch):
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 1)

    tokenizer = chatml("{{ strftime_now('%d %b %Y') + '\n' }}" + CHATML)
    today = PairEncoder(tokenizer).encode(row()).prompt_ids
    monkeypatch.setattr(transformers.utils.chat_template_utils, "datetime", Tomorrow)
    assert "2031" in tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    tomorrow = PairEncoder(tokenizer).encode(row()).prompt_ids
    assert tokenizer.decode(today).startswith("26 Jul 2024\n")
    assert today.tolist() == tomorrow.tolist()
