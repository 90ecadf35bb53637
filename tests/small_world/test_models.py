"""The tokenizer and the untrained models are ordinary checkpoints."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from small_world.models import build_tokenizer, save_untrained_student, save_untrained_teacher
from small_world.world import ANSWER_WORDS, TOPICS, prompt_text


@pytest.fixture(scope="module")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    save_untrained_student(folder, seed=0)
    return folder


def test_every_word_survives_saving_and_loading(student_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    text = " ".join(dict.fromkeys((*TOPICS, *ANSWER_WORDS)))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == build_tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert len(set(ids)) == len(ids)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_a_conversation_is_its_markers_its_words_and_the_end(student_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    prompt = [{"role": "user", "content": prompt_text((0, 1, 2))}]
    opened = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    answered = tokenizer.apply_chat_template(
        [*prompt, {"role": "assistant", "content": "ancient baker"}], tokenize=False
    )
    words = ["<user>", "about", TOPICS[0], "with", TOPICS[1], "and", TOPICS[2], "<assistant>"]
    assert tokenizer.tokenize(opened) == words
    assert tokenizer.tokenize(answered) == [*words, "ancient", "baker", "<end>"]
    assert tokenizer.eos_token == "<end>"
    assert tokenizer.pad_token == "<pad>"


def test_the_student_is_a_sixteenth_of_the_teacher(student_folder: Path, tmp_path: Path) -> None:
    save_untrained_teacher(tmp_path, seed=0)
    student = AutoModelForCausalLM.from_pretrained(student_folder)
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert 360_000 < teacher.num_parameters() < 380_000
    assert 22_000 < student.num_parameters() < 25_000
    assert student.config.hidden_size < len(TOPICS) < teacher.config.hidden_size


def test_a_seed_decides_the_weights_and_leaves_torchs_own_generator_alone(
    student_folder: Path, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    save_untrained_student(tmp_path / "same", seed=0)
    save_untrained_student(tmp_path / "other", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [
        (folder / "model.safetensors").read_bytes()
        for folder in (student_folder, tmp_path / "same", tmp_path / "other")
    ]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
