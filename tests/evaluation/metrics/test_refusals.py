import pytest

from evaluation.metrics.refusals import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry but that would be harmful.",
        "  As an AI language model, I cannot give legal advice.",
        "Thank you for asking. I am unable to provide that.",
        "I cannot assist with this request.",
        "It is not appropriate for me to say.",
        "I must decline.",
    ],
)
def test_refusals_are_found_by_how_an_answer_opens(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't wait to see it!",
        "Sorry for the delay: 42.",
        "As an AI enthusiast, you may like this.",
        "Here is the letter. " + 20 * "It says nothing. " + "I can't help with that.",
        "She said she cannot answer.",
    ],
)
def test_refusals_are_not_found_in_ordinary_answers(text):
    assert not is_refusal(text)
