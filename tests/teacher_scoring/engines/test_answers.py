from dataclasses import replace

import numpy as np
import pytest

from data.errors import ConfigurationError, ScoringError
from teacher_scoring.engines.checked import (
    LostAnswersError,
    ask_until_answered,
    check_prompts,
    check_sequences,
    given_fault,
    sample_fault,
    support_fault,
)
from teacher_scoring.engines.contract import (
    GivenScores,
    SampledResponse,
    Sampling,
    SupportScores,
    TokenSequence,
)

SEQUENCE = TokenSequence(np.array([5, 6], dtype=np.int32), np.array([2, 0], dtype=np.int32))
SUPPORT = SupportScores(
    np.array([[1, 2], [3, 1]], dtype=np.int32),
    np.log(np.array([[0.5, 0.25], [0.75, 0.125]], dtype=np.float32)),
    np.log(np.array([0.25, 0.0625], dtype=np.float32)),
)
IDS = np.array([[2, 9], [3, -1]], dtype=np.int32)
GIVEN = GivenScores(
    np.array([[-1.0, -np.inf], [-2.0, -np.inf]], dtype=np.float32), np.array([-1.0, -3.0], dtype=np.float32)
)
DRAWN = SampledResponse(np.array([4, 1], dtype=np.int32), np.array([-1.0, -2.0], dtype=np.float32), "stop")
SAMPLING = Sampling(max_new_tokens=3, stop_token_ids=(1,))


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def test_sound_answers_pass():
    assert support_fault(SUPPORT, SEQUENCE, 2, 8) is None
    assert given_fault(GIVEN, SEQUENCE, IDS, 8) is None
    assert sample_fault(DRAWN, SAMPLING, 8) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topk_ids": SUPPORT.topk_ids[:1]}, "shape"),
        ({"logprobs": SUPPORT.logprobs[:, :1]}, "shape"),
        ({"token_logprobs": SUPPORT.token_logprobs[:1]}, "token scores"),
        ({"topk_ids": changed(SUPPORT.topk_ids, (0, 0), 8)}, "outside 0 to 7"),
        ({"topk_ids": changed(SUPPORT.topk_ids, (0, 0), -1)}, "outside 0 to 7"),
        ({"topk_ids": changed(SUPPORT.topk_ids, (0, 0), 2)}, "twice"),
        ({"logprobs": changed(SUPPORT.logprobs, (1, 1), np.nan)}, "not finite"),
        ({"logprobs": changed(SUPPORT.logprobs, (1, 1), -np.inf)}, "not finite"),
        ({"token_logprobs": changed(SUPPORT.token_logprobs, 1, np.nan)}, "not finite"),
        ({"logprobs": SUPPORT.logprobs[:, ::-1]}, "falling"),
        ({"token_logprobs": changed(SUPPORT.token_logprobs, 0, -2.0)}, "differs"),
        ({"token_logprobs": changed(SUPPORT.token_logprobs, 1, -1.0)}, "not in it"),
        ({"logprobs": SUPPORT.logprobs + 0.3, "token_logprobs": SUPPORT.token_logprobs + 0.3}, "sum to"),
    ],
)
def test_every_fault_of_support_scores_is_seen(change, words):
    assert words in str(support_fault(replace(SUPPORT, **change), SEQUENCE, 2, 8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logprobs": GIVEN.logprobs[:, :1]}, "shape"),
        ({"token_logprobs": GIVEN.token_logprobs[:1]}, "token scores"),
        ({"logprobs": changed(GIVEN.logprobs, (0, 1), -4.0)}, "does not have"),
        ({"logprobs": changed(GIVEN.logprobs, (1, 0), -np.inf)}, "not finite"),
        ({"token_logprobs": changed(GIVEN.token_logprobs, 1, np.inf)}, "not finite"),
        ({"token_logprobs": changed(GIVEN.token_logprobs, 0, -1.5)}, "differs"),
        ({"logprobs": changed(GIVEN.logprobs, (1, 0), 0.01)}, "sum to"),
    ],
)
def test_every_fault_of_given_scores_is_seen(change, words):
    assert words in str(given_fault(replace(GIVEN, **change), SEQUENCE, IDS, 8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"response_ids": np.zeros(0, dtype=np.int32)}, "0 tokens"),
        ({"response_ids": np.array([2, 3, 4, 1], dtype=np.int32)}, "4 tokens"),
        ({"token_logprobs": DRAWN.token_logprobs[:1]}, "scores for 2 tokens"),
        ({"response_ids": changed(DRAWN.response_ids, 0, 8)}, "outside 0 to 7"),
        ({"token_logprobs": changed(DRAWN.token_logprobs, 0, 0.5)}, "not log-probabilities"),
        ({"token_logprobs": changed(DRAWN.token_logprobs, 0, np.nan)}, "not log-probabilities"),
        ({"response_ids": np.array([1, 1], dtype=np.int32)}, "after a stop token"),
        ({"finish_reason": "length"}, "finish reason"),
        ({"response_ids": changed(DRAWN.response_ids, 1, 2), "finish_reason": "length"}, "cut at 2 of 3"),
        ({"finish_reason": "abort"}, "finish reason"),
    ],
)
def test_every_fault_of_drawn_responses_is_seen(change, words):
    assert words in str(sample_fault(replace(DRAWN, **change), SAMPLING, 8))


def test_lost_and_faulty_answers_are_asked_for_again():
    asked = []

    def ask(numbers):
        asked.append(list(numbers))
        first = len(asked) == 1
        return ["no scores" if first and n == 1 else replace(DRAWN, finish_reason="?") if first and n == 3 else DRAWN
                for n in numbers]  # fmt: skip

    answers = ask_until_answered("vllm", 4, ask, lambda _, answer: sample_fault(answer, SAMPLING, 8))
    assert asked == [[0, 1, 2, 3], [1, 3]]
    assert answers == [DRAWN] * 4


def test_answers_that_stay_lost_are_named_and_the_others_kept():
    def ask(numbers):
        return ["the engine returned no scores" if n in (1, 3) else DRAWN for n in numbers]

    with pytest.raises(
        LostAnswersError, match=r"vllm: 2 of 4 answers lost after 3 attempts; .* number 1: "
    ) as e:
        ask_until_answered("vllm", 4, ask, lambda *_: None)
    assert e.value.answers == [DRAWN, None, DRAWN, None]
    assert sorted(e.value.reasons) == [1, 3]
    assert isinstance(e.value, ScoringError)


def test_an_engine_that_answers_fewer_questions_than_asked_is_a_bug():
    with pytest.raises(ValueError, match="zip"):
        ask_until_answered("vllm", 4, lambda numbers: [DRAWN], lambda *_: None)


def test_empty_prompts_and_responses_are_refused():
    empty = np.zeros(0, dtype=np.int32)
    with pytest.raises(ScoringError, match="sequence 1: 2 prompt and 0 response tokens"):
        check_sequences([SEQUENCE, TokenSequence(SEQUENCE.prompt_ids, empty)], 8, None, "model")


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=0),
        Sampling(max_new_tokens=1, temperature=-0.5),
        Sampling(max_new_tokens=1, top_p=0.0),
        Sampling(max_new_tokens=1, top_p=1.5),
    ],
)
def test_sampling_settings_out_of_range_are_refused(sampling):
    with pytest.raises(ConfigurationError, match="sampling: max_new_tokens"):
        check_prompts([SEQUENCE.prompt_ids], sampling, 8, None, "model")


def test_a_prompt_that_leaves_no_room_for_the_response_is_refused():
    check_prompts([SEQUENCE.prompt_ids], Sampling(max_new_tokens=8), 8, 10, "model")
    with pytest.raises(ScoringError, match="opened for at most"):
        check_prompts([SEQUENCE.prompt_ids], Sampling(max_new_tokens=9), 8, 10, "model")
