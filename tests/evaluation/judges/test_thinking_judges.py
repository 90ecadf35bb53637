"""Judges whose templates write thoughts: answers follow the empty one, and verdicts are asked for without."""

import pytest

from data.preferences.messages import Message, PreferenceRow
from evaluation.answers import Answer
from evaluation.judges.scorers import AnswerEncoder
from tests.data.tokens.template_families import FAMILIES


@pytest.mark.parametrize("name", ["qwen3", "qwen3.5-think", "chatml"])
def test_answers_are_scored_where_the_template_writes_them(name):
    tokenizer = FAMILIES[name].tokenizer()
    row = PreferenceRow("id", (Message("user", "q"),), None, None, "row")
    prompt_ids, ids = AnswerEncoder(tokenizer, None).encode(row, Answer("fine", 2, "stop"))
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "fine"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert tokenizer.decode([*prompt_ids, *ids]) == whole.rstrip("\n")
    assert tokenizer.decode(ids) == "fine<|im_end|>"
