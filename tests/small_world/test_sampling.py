"""Sampling many prompts at once is what the model alone would do."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from small_world.models import MAX_ANSWER_TOKENS, save_untrained_student
from small_world.sampling import answer_prompts
from small_world.world import prompt_text

PROMPTS = [prompt_text((first, first + 1, first + 2)) for first in range(12)]


@pytest.fixture(scope="module")
def model_and_tokenizer(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("student")
    save_untrained_student(folder, seed=3)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        model.lm_head.weight *= 8  # sharp enough for greedy choices to be far from ties
    return model, AutoTokenizer.from_pretrained(folder)


def ids_of_prompt(tokenizer, prompt: str) -> torch.Tensor:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])


def test_greedy_answers_are_those_of_generate(model_and_tokenizer) -> None:
    model, tokenizer = model_and_tokenizer
    answers = answer_prompts(model, tokenizer, PROMPTS, temperature=0, seed=0)
    assert answers.entropy == 0
    for prompt, answer in zip(PROMPTS, answers.texts, strict=True):
        ids = ids_of_prompt(tokenizer, prompt)
        generated = model.generate(ids, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False)[0, ids.shape[1] :]
        words = tokenizer.convert_ids_to_tokens(generated.tolist())
        assert answer.split() == [word for word in words if word != "<end>"]


def test_the_seed_decides_the_answers(model_and_tokenizer) -> None:
    first, again, other = (
        answer_prompts(*model_and_tokenizer, PROMPTS, temperature=1, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.texts != other.texts


@pytest.mark.slow
def test_first_words_are_drawn_from_the_models_distribution(model_and_tokenizer) -> None:
    model, tokenizer = model_and_tokenizer
    logits = model(ids_of_prompt(tokenizer, PROMPTS[0])).logits[0, -1] / 0.7
    probabilities = logits.softmax(-1)
    count = 4000
    drawn = answer_prompts(model, tokenizer, [PROMPTS[0]] * count, temperature=0.7, seed=0)
    firsts = Counter(text.split()[0] if text else "<end>" for text in drawn.texts)
    observed = (
        np.array([firsts[word] for word in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]) / count
    )
    # Five standard deviations of a binomial share, for each of 198 tokens; the draw itself is fixed by the seed.
    allowed = 5 * np.sqrt(0.25 / count)
    assert np.abs(observed - probabilities.detach().numpy()).max() < allowed


def test_entropy_rises_with_temperature_towards_the_logarithm_of_the_vocabulary(model_and_tokenizer) -> None:
    entropies = [
        answer_prompts(*model_and_tokenizer, PROMPTS, temperature=temperature, seed=0).entropy
        for temperature in (0.1, 0.3, 1, 3, 1000)
    ]
    assert entropies == sorted(entropies)
    # At temperature 1000 what is left of the logits changes the entropy by their variance over 2 million.
    assert entropies[-1] == pytest.approx(np.log(len(model_and_tokenizer[1])), abs=1e-3)
