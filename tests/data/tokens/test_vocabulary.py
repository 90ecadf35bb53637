import json

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from data.errors import DataError
from data.tokens.vocabulary import Vocabulary, check_agreement

TOKENS = ["<s>", "</s>", "the", "quick", "fox"]
TEMPLATE = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"


def tokenizer(tokens=TOKENS, *, added=(), template=TEMPLATE, eos="</s>"):
    backend = Tokenizer(
        models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="<s>")
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=eos)
    wrapped.add_tokens(list(added))
    wrapped.chat_template = template
    return wrapped


def check(teacher, student):
    return check_agreement(
        Vocabulary.from_tokenizer(teacher),
        Vocabulary.from_tokenizer(student),
        teacher_name="teacher-13b",
        student_name="runs/student",
    )


def test_equal_tokenizers_agree_without_notes():
    assert check(tokenizer(), tokenizer()) == []


def test_added_and_special_tokens_belong_to_the_vocabulary():
    vocabulary = Vocabulary.from_tokenizer(tokenizer(added=["<|im_end|>"]))
    assert vocabulary.tokens == {"<s>": 0, "</s>": 1, "the": 2, "quick": 3, "fox": 4, "<|im_end|>": 5}
    assert vocabulary.eos_token == "</s>"


def test_a_token_with_another_id_is_an_error_that_names_it():
    with pytest.raises(DataError) as raised:
        check(tokenizer(), tokenizer(["<s>", "</s>", "quick", "the", "fox"]))
    assert str(raised.value) == (
        "tokenizers of teacher-13b and runs/student differ: the id of 'the' is 2 and 3, 'quick' is 3 and 2; take a "
        "student whose tokenizer is the teacher's"
    )


def test_of_a_reference_that_differs_the_advice_is_about_the_reference():
    with pytest.raises(DataError, match="take a reference whose tokenizer is the teacher's"):
        check_agreement(
            Vocabulary({"a": 0}), Vocabulary({"b": 0}), teacher_name="t", student_name="r", role="reference"
        )


def test_a_special_token_with_another_id_is_an_error():
    with pytest.raises(DataError, match=r"the id of '<\|im_end\|>' is 6 and 5"):
        check(tokenizer(added=["<pad>", "<|im_end|>"]), tokenizer(added=["<|im_end|>"]))


def test_only_the_first_few_of_many_differences_are_named():
    words = [f"w{i}" for i in range(40)]
    with pytest.raises(DataError, match=r"'w0' is 5 and 44.*'w4' is 9 and 40 \(first 5 of 40\)") as raised:
        check(tokenizer(TOKENS + words), tokenizer(TOKENS + words[::-1]))
    assert "w5" not in str(raised.value)


def test_an_id_that_stands_for_another_token_is_an_error_though_no_token_moved():
    with pytest.raises(DataError, match=r"the token of id 5 is 'hound' and 'zebra'"):
        check(tokenizer([*TOKENS, "hound"]), tokenizer([*TOKENS, "zebra"]))


def test_tokenizers_without_a_common_token_do_not_agree():
    with pytest.raises(DataError, match="the token of id 0 is"):
        check_agreement(Vocabulary({"a": 0}), Vocabulary({"b": 0}), teacher_name="t", student_name="s")


def test_a_student_that_lacks_tokens_agrees_with_a_note():
    notes = check(tokenizer(added=["<tool>", "<image>"]), tokenizer())
    assert notes == ["runs/student lacks 2 of teacher-13b's tokens ('<tool>', '<image>')"]
    assert check(tokenizer(), tokenizer(added=["<tool>"])) == []


def test_templates_and_ends_of_sequence_that_differ_are_notes():
    notes = check(tokenizer(), tokenizer(template="{{ 'other' }}", eos="fox"))
    assert notes == [
        "end-of-sequence tokens differ: teacher-13b has '</s>', runs/student has 'fox'",
        "chat templates of teacher-13b and runs/student differ; stored ids follow teacher-13b's",
    ]


@pytest.mark.parametrize("template", [TEMPLATE, None, {"default": TEMPLATE, "tool_use": "{{ 'x' }}"}])
def test_a_saved_tokenizer_reads_like_the_loaded_one(tmp_path, template):
    loaded = tokenizer(added=["<|im_end|>"], template=template)
    loaded.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    saved = Vocabulary.from_folder(tmp_path)
    assert saved == Vocabulary.from_tokenizer(again)
    assert saved.tokens == Vocabulary.from_tokenizer(loaded).tokens


def test_folders_without_a_readable_tokenizer_are_clear_errors(tmp_path):
    with pytest.raises(DataError, match=r"no tokenizer\.json.*save it there with save_pretrained"):
        Vocabulary.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a file of the `tokenizers` library"):
        Vocabulary.from_folder(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: not JSON"):
        Vocabulary.from_folder(tmp_path)


def test_an_older_configuration_spells_tokens_and_templates_out(tmp_path):
    tokenizer(template=None).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"eos_token": {"content": "</s>", "special": True}, "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = Vocabulary.from_folder(tmp_path)
    assert (vocabulary.eos_token, vocabulary.chat_template) == ("</s>", TEMPLATE)
    config["chat_template"] = [
        {"name": "tool_use", "template": "x"},
        {"name": "default", "template": TEMPLATE},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Vocabulary.from_folder(tmp_path).chat_template == TEMPLATE
