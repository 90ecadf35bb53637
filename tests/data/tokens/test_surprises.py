import json

import pytest

from data.tokens.surprises import differing_templates, stored_template, unheeded_terminator
from tests.data.tokens.template_families import FAMILIES


@pytest.mark.parametrize(
    ("generation", "config", "told"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": 7}, "generation_config.json stops generation at 2 alone"),
        ({"eos_token_id": [2, 7]}, {}, None),
        ({}, {"eos_token_id": 3}, "config.json stops generation at 3 alone"),
        ({}, {}, None),
        (None, None, None),
    ],
)
def test_a_terminator_that_generation_does_not_stop_at_is_named(tmp_path, generation, config, told):
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    note = unheeded_terminator(tmp_path, 7, "<|im_end|>")
    assert (note is None) if told is None else told in note
    assert note is None or "answers end with '<|im_end|>' (id 7)" in note


def test_templates_that_write_one_conversation_differently_are_shown_as_a_diff():
    tokenizer = FAMILIES["qwen3.5-think"].tokenizer()
    names = {"name": "student", "other_name": "teacher"}
    assert list(differing_templates(tokenizer, tokenizer.chat_template, **names)) == []
    assert list(differing_templates(tokenizer, tokenizer.chat_template + "{# the same #}", **names)) == []
    lines = list(differing_templates(tokenizer, FAMILIES["chatml"].template(), **names))
    assert lines[0] == "teacher and student write a conversation with one question differently:"
    assert lines[1:3] == ["  --- teacher", "  +++ student"]
    assert "  +<think>" in lines
    (line,) = differing_templates(tokenizer, None, **names)
    assert line.startswith("student has a chat template and teacher has none")


def test_templates_that_differ_with_tools_alone_differ():
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    lines = list(differing_templates(tokenizer, FAMILIES["chatml"].template(), name="s", other_name="t"))
    assert "a conversation with a tool call differently" in lines[0]


def test_a_stored_template_is_found_in_either_of_its_files(tmp_path):
    tokenizer = FAMILIES["chatml"].tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert stored_template(tmp_path) == tokenizer.chat_template
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert stored_template(tmp_path) == "{{ messages }}"
    (tmp_path / "tokenizer_config.json").unlink()
    assert stored_template(tmp_path) is None
