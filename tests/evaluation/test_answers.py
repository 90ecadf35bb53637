"""Answers of real small models: kept by content, resumed, and what has no room."""

import json

import numpy as np
import pytest

from data.errors import ConfigurationError
from data.files import adpa_home
from data.storage.caches import read_cache
from evaluation.answers import GenerationSettings, generate_answers, read_prompts
from teacher_scoring.language_model import open_language_model

SETTINGS = GenerationSettings(max_new_tokens=8, temperature=1.0)


@pytest.fixture
def prompts(tiny_world):
    return read_prompts(str(tiny_world.pairs))


def open_model(tiny_world, **settings):
    return open_language_model(
        str(tiny_world.student), option="--model", engine="transformers", dtype="float32", **settings
    )


def test_answers_are_found_again_without_loading_the_model(tiny_world, prompts, monkeypatch):
    first = generate_answers(open_model(tiny_world), prompts.rows, SETTINGS)
    again = open_model(tiny_world)
    monkeypatch.setattr(again, "sample", lambda *args, **kwargs: pytest.fail("the model was asked again"))
    second = generate_answers(again, prompts.rows, SETTINGS)
    assert second.answers == first.answers
    assert (first.num_found, second.num_found) == (0, len(prompts.rows))


def test_answers_with_other_settings_are_not_the_same_answers(tiny_world, prompts):
    first = generate_answers(open_model(tiny_world), prompts.rows, SETTINGS)
    other = GenerationSettings(max_new_tokens=8, temperature=1.0, seed=1)
    assert generate_answers(open_model(tiny_world), prompts.rows, other).answers != first.answers


def test_a_run_that_stopped_continues_with_the_same_answers(tiny_world, prompts, monkeypatch, tmp_path):
    whole = generate_answers(open_model(tiny_world), prompts.rows, SETTINGS)
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "other"))
    generate_answers(open_model(tiny_world), prompts.rows[:4], SETTINGS)
    file = next((tmp_path / "other" / "answers").glob("*.jsonl"))
    # Killed in the middle of a line.
    file.write_bytes(file.read_bytes()[:-20])
    rest = generate_answers(open_model(tiny_world), prompts.rows, SETTINGS)
    assert rest.num_found == 3
    assert rest.answers == whole.answers
    keys = [json.loads(line).get("key") for line in file.read_bytes().splitlines() if line.endswith(b"}")]
    assert len(keys) == len(set(keys))


def test_an_answer_does_not_depend_on_what_else_is_asked(tiny_world, prompts, monkeypatch, tmp_path):
    whole = generate_answers(open_model(tiny_world), prompts.rows, SETTINGS)
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "other"))
    alone = generate_answers(open_model(tiny_world), prompts.rows[-1:], SETTINGS)
    row = prompts.rows[-1]
    assert alone.answers[row.pair_id] == whole.answers[row.pair_id]


def test_an_answer_cut_at_the_limit_says_so(tiny_world, prompts):
    answers = generate_answers(open_model(tiny_world), prompts.rows, SETTINGS).answers.values()
    assert {answer.is_cut for answer in answers if answer.num_tokens < 8} <= {False}
    assert any(answer.is_cut and answer.num_tokens == 8 for answer in answers)


def test_prompts_without_room_are_said_and_left_out(tiny_world, prompts):
    found = generate_answers(open_model(tiny_world, max_length=15), prompts.rows, SETTINGS)
    assert found.answers
    assert found.unanswered
    assert set(found.unanswered.values()) == {"longer than the 7 tokens that it has room for"}


@pytest.mark.parametrize(
    ("max_length", "said"), [(8, "no room for a prompt"), (9, "no room for any of the 10")]
)
def test_a_model_without_room_for_any_prompt_is_refused(tiny_world, prompts, max_length, said):
    with pytest.raises(ConfigurationError, match=said):
        generate_answers(open_model(tiny_world, max_length=max_length), prompts.rows, SETTINGS)


def test_prompts_are_given_as_plain_text_where_there_is_no_template(tiny_world, prompts, caplog):
    model = open_model(tiny_world)
    model.tokenizer.chat_template = None
    generate_answers(model, prompts.rows[:1], SETTINGS)
    assert "has no chat template" in caplog.text


def test_pairs_that_differ_in_answers_alone_are_one_prompt(tmp_path):
    rows = [{"prompt": "w1 w2", "chosen": f"w{i}", "rejected": "w9"} for i in range(3)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_prompts(str(path)).rows) == 1


def test_a_prompt_alone_is_enough(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "w1"}\n{"prompt": "w2"}\n')
    assert [row.prompt for row in read_prompts(str(path), limit=1).rows] == ["w1"]


def test_seeds_differ_between_prompts(tiny_world, prompts, monkeypatch):
    model = open_model(tiny_world)
    seen: list[int] = []
    sample = model.sample

    def watched(prompts_ids, seeds, **settings):
        seen.extend(seeds)
        return sample(prompts_ids, seeds, **settings)

    monkeypatch.setattr(model, "sample", watched)
    generate_answers(model, prompts.rows, SETTINGS)
    assert len(set(seen)) == len(prompts.rows)
    assert np.all(np.array(seen) >= 0)


def test_kept_answers_are_known_to_pruning(tiny_world, prompts):
    generate_answers(open_model(tiny_world), prompts.rows[:2], SETTINGS)
    folder = adpa_home() / "answers"
    assert [file.path.name for file in read_cache(folder, "answers")] == [
        p.name for p in folder.glob("*.jsonl")
    ]
    # This process could still need them; another that prunes would leave them alone.
    assert any((folder / ".users").iterdir())


def test_answers_without_thinking_are_asked_for_without_thoughts(tiny_world, prompts, monkeypatch):
    model = open_model(tiny_world)
    # Before an answer, the student's template writes what a model that thinks would be told.
    model.tokenizer.chat_template += (
        "{% if add_generation_prompt %}{{ 'w1' if enable_thinking is defined and not enable_thinking else 'w2' }}"
        "{% endif %}"
    )
    asked = []
    sample = model.sample
    monkeypatch.setattr(
        model, "sample", lambda ids, *rest, **how: (asked.extend(ids), sample(ids, *rest, **how))[1]
    )
    for thinking in ("none", "auto"):
        settings = GenerationSettings(max_new_tokens=2, thinking=thinking)
        generate_answers(model, prompts.rows[:1], settings)
    last = [model.tokenizer.decode(ids[-1:]) for ids in asked]
    assert last == ["w1", "w2"]
