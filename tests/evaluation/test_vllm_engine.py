"""Answers and local judges through vLLM: one model after another in this process, as an evaluation opens them."""

import os
import sys

import pytest
import torch

from evaluation.answers import GenerationSettings, generate_answers, read_prompts
from evaluation.judges.local import LocalChatModel
from teacher_scoring.language_model import open_language_model

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

# Two libraries' float32 kernels, as in the tests of the engines.
TOLERANCE = 2e-4


@pytest.fixture(autouse=True)
def _nothing_of_vllm_is_left():
    """In this very process it changes the environment, torch's threads and its compiler for all that comes after."""
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    yield
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads = set_num_threads
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].config.disable = False


def test_both_engines_answer_and_judge_alike_one_model_after_another(tiny_world):
    prompts = read_prompts(str(tiny_world.pairs), limit=4)
    greedy = GenerationSettings(max_new_tokens=6, temperature=0.0)
    answers, choices = {}, {}
    for engine in ("vllm", "transformers"):
        for path in (tiny_world.teacher, tiny_world.reference):
            model = open_language_model(
                str(path), option="--model", engine=engine, dtype="float32", max_length=64
            )
            answers[engine, path.name] = generate_answers(model, prompts.rows, greedy).answers
            choices[engine, path.name] = dict(LocalChatModel(model).choose(["w1 w2", "w3"], ["w4", "w5"]))
            model.close()
    for name in ("teacher", "reference"):
        assert answers["vllm", name] == answers["transformers", name]
        for index in (0, 1):
            ours, theirs = (choices[engine, name][index].logprobs for engine in ("vllm", "transformers"))
            assert ours == pytest.approx(theirs, abs=TOLERANCE)
    assert answers["vllm", "teacher"] != answers["vllm", "reference"]
