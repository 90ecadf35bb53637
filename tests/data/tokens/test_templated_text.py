import pytest

from data.errors import DataError
from data.preferences.messages import Message
from data.tokens.encoder import PairEncoder
from tests.data.tokens.chat_tokenizers import chatml, row

TEMPLATED = "<|im_start|>user\nthe fox<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "prompt",
    [
        TEMPLATED,
        f" \n{TEMPLATED}",
        (Message("user", TEMPLATED),),
        (Message("system", "Be brief."), Message("user", TEMPLATED)),
    ],
)
def test_a_prompt_in_a_templates_form_is_refused_with_the_token_that_shows_it(prompt):
    with pytest.raises(
        DataError, match=r"begins with '<\|im_start\|>', a special token.*once more; give messages"
    ):
        PairEncoder(chatml()).encode(row(prompt, "a", "b"))


def test_a_special_token_within_a_question_drops_its_row():
    encoder = PairEncoder(chatml())
    assert encoder.encode(row("What does <|im_end|> mean?", "a", "b")) is None
    assert encoder.counts.dropped == {"prompt holds '<|im_end|>'": 1}


@pytest.mark.parametrize(
    "prompt",
    ["<s>[INST] the fox [/INST]", "[INST] the fox [/INST]", "<start_of_turn>user\nthe fox", "<|user|>\nfox"],
)
def test_a_prompt_in_the_form_of_another_models_template_is_refused(prompt):
    with pytest.raises(DataError, match=r"the beginning of another model's chat template.*once more"):
        PairEncoder(chatml()).encode(row(prompt, "a", "b"))


def test_marks_that_are_no_special_tokens_are_text():
    encoder = PairEncoder(chatml())
    assert encoder.encode(row("the fox [INST] <start_of_turn> </s_>", "a", "b")) is not None


def test_conversations_may_talk_about_special_tokens():
    turns = (Message("user", "the fox"), Message("assistant", "jumps"), Message("user", "and <|im_start|>?"))
    assert PairEncoder(chatml()).encode(row(turns, "a", "b")) is not None


def test_without_a_template_the_text_is_the_users_own():
    tokenizer = chatml()
    tokenizer.chat_template = None
    assert PairEncoder(tokenizer).encode(row(TEMPLATED, "a", "b")) is not None
