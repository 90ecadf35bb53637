"""What the list of conversations shows of a prompt."""

import pytest

from data.report.conversations import last_turn


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is 22 plus 30?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<bos><start_of_turn>user\nWhat is 22\nplus 30?<end_of_turn>\n<start_of_turn>model\n",
        "<s>[INST] Be kind. [/INST] Yes.</s>[INST] What is 22 plus 30? [/INST]",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 22 plus 30?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "What is 22 plus 30?",
        "user: What is 22 plus 30?",
    ],
)
def test_last_turn_is_the_question_without_the_templates_marks(prompt):
    assert last_turn(prompt) == "What is 22 plus 30?"


def test_last_turn_keeps_words_that_are_also_roles_and_is_empty_for_marks_alone():
    assert last_turn("<|user|>User interfaces, 1 < 2?<|end|>") == "User interfaces, 1 < 2?"
    assert last_turn("<|im_start|>assistant\n") == ""
