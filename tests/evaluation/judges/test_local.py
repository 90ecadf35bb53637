"""Judges on this machine: chat models, reward models, implicit rewards, functions, each against its definition."""

import math
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from data.errors import ConfigurationError, EvaluationError
from data.preferences.messages import PreferenceRow
from evaluation.answers import Answer
from evaluation.judges.contract import JudgeRequest
from evaluation.judges.function import FunctionJudge
from evaluation.judges.local import LocalChatModel
from evaluation.judges.reward_model import RewardModel
from evaluation.judges.scorers import ImplicitReward, ScoringJudge
from teacher_scoring.language_model import open_language_model

# The engine and the plain forward pass below add up the same float32 numbers in another order; scores are kept to 1e-4.
ROUNDING = 2e-3


def open_model(path, **settings):
    return open_language_model(str(path), option="--m", engine="transformers", dtype="float32", **settings)


def request(first="w1 w2 w3", second="w4", *, prompt="w5 w6", cut=False):
    return JudgeRequest(
        PreferenceRow("p", prompt, None, None, "here"),
        Answer(first, 4, "length" if cut else "stop"),
        Answer(second, 2, "stop"),
    )


def plain_logprob(path, text, prompt="w5 w6", *, cut=False):
    """Sum of the answer's token log-probabilities by a forward pass of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    start = tokenizer.encode(f"<s><|user|> {prompt} <|assistant|>", add_special_tokens=False)
    ids = tokenizer.encode(text, add_special_tokens=False) + ([] if cut else [2])
    with torch.no_grad():
        logprobs = model(torch.tensor([start + ids])).logits[0].log_softmax(-1)
    return sum(logprobs[len(start) + i - 1, token].item() for i, token in enumerate(ids))


@pytest.mark.parametrize("cut", [False, True])
def test_implicit_reward_is_the_log_ratio_of_the_whole_answer(tiny_world, cut):
    judge = ScoringJudge(
        ImplicitReward(open_model(tiny_world.teacher), open_model(tiny_world.reference), beta=0.3)
    )
    [(_, verdict)] = judge.judge([request(cut=cut)])
    scores = [
        plain_logprob(tiny_world.teacher, text, cut=c) - plain_logprob(tiny_world.reference, text, cut=c)
        for text, c in (("w1 w2 w3", cut), ("w4", False))
    ]
    assert verdict.scores == pytest.approx(scores, abs=ROUNDING)
    assert verdict.preference == pytest.approx(
        1 / (1 + math.exp(-0.3 * (scores[0] - scores[1]))), abs=ROUNDING
    )


def test_implicit_reward_of_every_token_adds_up(tiny_world):
    scorer = ImplicitReward(open_model(tiny_world.teacher), open_model(tiny_world.reference), beta=1.0)
    [(_, scored)] = scorer.score([(request().row, request().first)])
    assert len(scored.advantages) == len(scored.token_ids) == 4
    assert math.fsum(scored.advantages) == scored.score


def test_implicit_reward_of_an_empty_answer_is_its_terminators(tiny_world):
    scorer = ImplicitReward(open_model(tiny_world.teacher), open_model(tiny_world.reference), beta=1.0)
    [(_, scored)] = scorer.score([(request().row, Answer("", 1, "stop"))])
    assert scored.token_ids == (2,)


def test_implicit_rewards_are_kept_for_each_model(tiny_world, monkeypatch):
    request_ = request()
    teacher, reference = open_model(tiny_world.teacher), open_model(tiny_world.reference)
    first = list(ScoringJudge(ImplicitReward(teacher, reference, beta=1.0)).judge([request_]))
    again = open_model(tiny_world.teacher)
    monkeypatch.setattr(again, "score", lambda *arguments: pytest.fail("the teacher was asked again"))
    other = ImplicitReward(again, open_model(tiny_world.student), beta=1.0)
    [(_, verdict)] = ScoringJudge(other).judge([request_])
    assert verdict.scores != first[0][1].scores


def test_an_answer_without_room_is_malformed_and_says_why(tiny_world):
    teacher, reference = (open_model(tiny_world.teacher, max_length=8) for _ in range(2))
    judge = ScoringJudge(ImplicitReward(teacher, reference, beta=1.0))
    [(_, verdict)] = judge.judge([request()])
    assert verdict.preference is None
    assert "room for 8" in verdict.text


def test_a_chat_model_prefers_by_the_words_probabilities(tiny_world):
    judge = LocalChatModel(open_model(tiny_world.teacher))
    found = dict(judge.choose(["w7 w8", "w9"], ["w1", "w2"]))
    assert set(found) == {0, 1}
    tokenizer = AutoTokenizer.from_pretrained(tiny_world.teacher)
    model = AutoModelForCausalLM.from_pretrained(tiny_world.teacher, dtype=torch.float32).eval()
    ids = tokenizer.encode("<s><|user|> w7 w8 <|assistant|>", add_special_tokens=False)
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    for word in ("w1", "w2"):
        expected = logprobs[tokenizer.convert_tokens_to_ids(word)].item()
        assert found[0].logprobs[word] == pytest.approx(expected, abs=ROUNDING)


def test_words_that_begin_alike_are_no_choice(tiny_world):
    judge = LocalChatModel(open_model(tiny_world.teacher))
    # Neither is a word of this vocabulary: both are the unknown token.
    with pytest.raises(ConfigurationError, match="same token"):
        list(judge.choose(["w1"], ["Q", "R"]))


def test_a_chat_model_without_template_cannot_judge(tiny_world):
    model = open_model(tiny_world.teacher)
    model.tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="has no chat template"):
        LocalChatModel(model)


def test_a_question_without_room_is_a_choice_of_nothing(tiny_world):
    judge = LocalChatModel(open_model(tiny_world.teacher, max_length=6))
    found = dict(judge.choose(["w1 w2 w3 w4 w5 w6", "w1"], ["w1", "w2"]))
    assert found[0].word is None
    assert found[1].word is not None


def test_a_chat_model_writes_greedily_and_once(tiny_world, monkeypatch):
    model = open_model(tiny_world.teacher)
    first = dict(LocalChatModel(model).write(["w1", "w2"], max_new_tokens=4))
    monkeypatch.setattr(model, "sample", lambda *args, **kw: pytest.fail("asked again"))
    assert dict(LocalChatModel(model).write(["w1", "w2"], max_new_tokens=4)) == first


@pytest.fixture(scope="module")
def reward_model(tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward-model")
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=1,
        initializer_range=0.3,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_world.teacher).save_pretrained(folder)
    return folder


def test_a_reward_model_scores_the_templated_conversation(reward_model):
    [(_, verdict)] = ScoringJudge(RewardModel(str(reward_model))).judge([request()])
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = LlamaForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32).eval()
    expected = []
    for text in ("w1 w2 w3", "w4"):
        ids = tokenizer.encode(f"<s><|user|> w5 w6 <|assistant|> {text} </s>", add_special_tokens=False)
        with torch.no_grad():
            expected.append(model(torch.tensor([ids])).logits.item())
    assert verdict.scores == pytest.approx(expected, abs=ROUNDING)


def test_rewards_do_not_depend_on_the_batch(reward_model, monkeypatch, tmp_path):
    requests = [request(" ".join(["w1"] * n), f"w{n}") for n in range(1, 9)]
    together = dict(ScoringJudge(RewardModel(str(reward_model))).judge(requests))
    for index in (0, 7):
        monkeypatch.setenv("ADPA_HOME", str(tmp_path / str(index)))
        [(_, alone)] = ScoringJudge(RewardModel(str(reward_model))).judge([requests[index]])
        assert alone.scores == pytest.approx(together[index].scores, abs=ROUNDING)


def test_rewards_are_kept(reward_model, monkeypatch):
    first = list(ScoringJudge(RewardModel(str(reward_model))).judge([request()]))
    monkeypatch.setattr(RewardModel, "_load", lambda self: pytest.fail("loaded again"))
    assert list(ScoringJudge(RewardModel(str(reward_model))).judge([request()])) == first


def test_a_language_model_is_no_reward_model(tiny_world):
    with pytest.raises(ConfigurationError, match="LlamaForCausalLM; a reward model is a sequence classifier"):
        RewardModel(str(tiny_world.teacher))


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "my_judge.py").write_text(
        "def longer(messages, first, second):\n"
        "    assert messages == [{'role': 'user', 'content': 'w5 w6'}]\n"
        "    return len(first) > len(second)\n"
        "def none(messages, first, second): return None\n"
        "def wrong(messages, first, second): return 'first'\n"
        "def broken(messages, first, second): return 1 / 0\n"
        "constant = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "my_judge", raising=False)


def test_a_function_in_the_current_folder_judges(functions):
    judge = FunctionJudge("my_judge:longer")
    assert [v.preference for _, v in judge.judge([request(), request("w1", "w2 w3")])] == [1.0, 0.0]
    assert judge.identity.details["source_sha256"]


def test_a_function_may_give_no_verdict(functions):
    assert [v.preference for _, v in FunctionJudge("my_judge:none").judge([request()])] == [None]


@pytest.mark.parametrize(
    ("name", "said"),
    [("wrong", "returned 'first' for prompt p"), ("broken", "raised ZeroDivisionError")],
)
def test_a_function_that_fails_is_named_with_the_prompt(functions, name, said):
    with pytest.raises(EvaluationError, match=said):
        list(FunctionJudge(f"my_judge:{name}").judge([request()]))


@pytest.mark.parametrize("name", ["my_judge", "my_judge:missing", "no_such_module:f", "my_judge:constant"])
def test_a_name_that_leads_to_no_function_is_refused(functions, name):
    with pytest.raises(ConfigurationError, match="--judge-function"):
        FunctionJudge(name)


def test_preferences_of_distant_scores_do_not_overflow():
    class Far:
        identity, scale = None, 1.0

        def score(self, items):
            from evaluation.judges.scorers import ScoredAnswer

            for index in range(len(items)):
                yield index, ScoredAnswer((-1e6, 1e6)[index])

    [(_, verdict)] = ScoringJudge(Far()).judge([request()])
    assert verdict.preference == 0.0
    assert np.isfinite(verdict.scores).all()


def test_a_judge_that_was_moved_is_not_asked_again(tiny_world, tmp_path, monkeypatch):
    first = dict(LocalChatModel(open_model(tiny_world.teacher)).choose(["w1"], ["w1", "w2"]))
    moved = tmp_path / "elsewhere" / tiny_world.teacher.name
    shutil.copytree(tiny_world.teacher, moved)
    again = open_model(moved)
    monkeypatch.setattr(again, "score", lambda *arguments: pytest.fail("asked again"))
    assert dict(LocalChatModel(again).choose(["w1"], ["w1", "w2"])) == first
