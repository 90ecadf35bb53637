"""Chat with small models, line by line."""

import pytest

from data.errors import ConfigurationError
from evaluation.chat import run_chat, side_by_side
from evaluation.options import ChatOptions
from teacher_scoring.language_model import open_language_model


def chat(tiny_world, *lines, models=("student",), columns=None, **settings):
    shown: list[str] = []
    names = tuple(str(getattr(tiny_world, name)) for name in models)

    def open_model(name, *, option):
        return open_language_model(name, option=option, engine="transformers", dtype="float32")

    options = ChatOptions(model=names, max_new_tokens=6, temperature=0.0, **settings)
    count = run_chat(options, open_model, lines=lines, write=shown.append, columns=columns)
    return count, shown


def test_every_line_is_answered_off_a_terminal(tiny_world):
    count, shown = chat(tiny_world, "w1 w2\n", "\n", "w3\n")
    assert count == 2
    assert [text.splitlines()[0] for text in shown] == ["> w1 w2", "> w3"]


def test_models_answer_side_by_side_each_in_its_own_conversation(tiny_world):
    _, together = chat(tiny_world, "w1", "w2", models=("student", "teacher"))
    _, student = chat(tiny_world, "w1", "w2")
    _, teacher = chat(tiny_world, "w1", "w2", models=("teacher",))
    for shown, alone, other in zip(together, student, teacher, strict=True):
        assert f"student: {alone.splitlines()[1]}" in shown
        assert f"teacher: {other.splitlines()[1]}" in shown


def test_a_conversation_is_remembered_until_a_new_one(tiny_world):
    _, remembered = chat(tiny_world, "w1 w2 w3", "w4")
    _, fresh = chat(tiny_world, "w1 w2 w3", "/new", "w4")
    _, alone = chat(tiny_world, "w4")
    _, single = chat(tiny_world, "w1 w2 w3", "w4", single_turn=True)
    assert fresh[-1] == alone[-1] == single[-1]
    assert remembered[-1] != alone[-1]


def test_quit_ends(tiny_world):
    assert chat(tiny_world, "w1", "/quit", "w2")[0] == 1


def test_a_long_conversation_forgets_its_oldest_turns(tiny_world):
    count, shown = chat(tiny_world, *(f"w{i} " * 40 for i in range(8)))
    assert count == 8
    assert not any("room for" in text for text in shown)


def test_a_message_without_room_is_said_and_the_next_is_answered(tiny_world):
    count, shown = chat(tiny_world, "w1 " * 400, "w2")
    assert count == 2
    assert "has 403 tokens, there is room for 250" in shown[0]
    assert "room" not in shown[1]


def test_answers_without_room_are_refused_before_any_line(tiny_world):
    with pytest.raises(ConfigurationError, match="leaves no room"):
        run_chat(
            ChatOptions(model=(str(tiny_world.student),), max_new_tokens=256),
            lambda name, *, option: open_language_model(name, option=option, engine="transformers"),
            lines=[],
            write=print,
            columns=None,
        )


def test_columns_fill_the_terminal_and_no_more():
    text = side_by_side(["a", "b"], ["word " * 30, "short"], 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.splitlines()[0].split(" │ ")[1].strip() == "b"


def test_narrow_terminals_show_one_answer_below_another():
    text = side_by_side(["a", "b", "c"], ["one", "two", "three"], 60)
    assert text.splitlines()[0] == "a"
    assert "│" not in text


def test_several_checkpoints_do_not_share_a_card_with_vllm():
    with pytest.raises(ConfigurationError, match="2 checkpoints are named"):
        ChatOptions(model=("a", "b"), engine="vllm")
