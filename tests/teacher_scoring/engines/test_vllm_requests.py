"""What vLLM is asked, and that nothing it may answer wrongly passes for scores."""

from types import SimpleNamespace

import numpy as np
import pytest

from teacher_scoring.engines.contract import GivenScores, SupportScores, TokenSequence
from teacher_scoring.engines.vllm.requests import GatheredRequests, NativeRequests

SEQUENCE = TokenSequence(np.array([5, 6, 7], dtype=np.int32), np.array([2, 0], dtype=np.int32))
ALL_IDS = [5, 6, 7, 2, 0]
GIVEN_IDS = np.array([[2, 9], [3, -1]], dtype=np.int32)
# For each prompt token but the first: the token that was there, then the two most probable ones.
FLAT_IDS = [6, 1, 2, 7, 1, 2, 2, 3, 4, 0, 4, 0]
FLAT_LOGPROBS = [-9.0, -1.0, -2.0, -9.0, -1.0, -2.0, -5.0, -0.5, -2.5, -1.5, -1.5, -1.5]


class Flat(SimpleNamespace):
    """vLLM's flat log-probabilities: one list for all positions; its length is the number of positions."""

    def __len__(self):
        return self.positions


def flat_output(**changed):
    flat = Flat(positions=5, token_ids=FLAT_IDS, logprobs=FLAT_LOGPROBS)
    return SimpleNamespace(**{"prompt_token_ids": ALL_IDS, "prompt_logprobs": flat, **changed})


def native_support(output):
    return NativeRequests(8).read_support([output], [0], [SEQUENCE], 2)[0]


def test_flat_scores_become_positions_ties_with_the_lower_id_first():
    scores = native_support(flat_output())
    assert isinstance(scores, SupportScores)
    np.testing.assert_array_equal(scores.topk_ids, [[3, 4], [0, 4]])
    np.testing.assert_array_equal(scores.logprobs, np.float32([[-0.5, -2.5], [-1.5, -1.5]]))
    np.testing.assert_array_equal(scores.token_logprobs, np.float32([-5.0, -1.5]))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt_token_ids": [5, 6, 7, 2, 1]}, "echoed another prompt"),
        ({"prompt_logprobs": None}, "no scores"),
        ({"prompt_logprobs": Flat(positions=4, token_ids=FLAT_IDS, logprobs=FLAT_LOGPROBS)}, "no scores"),
        (
            {"prompt_logprobs": Flat(positions=5, token_ids=FLAT_IDS[3:], logprobs=FLAT_LOGPROBS[3:])},
            "9 scores instead of 12",
        ),
        (
            {"prompt_logprobs": Flat(positions=5, token_ids=[*FLAT_IDS[:6], 1, *FLAT_IDS[7:]], logprobs=FLAT_LOGPROBS)},
            "other tokens than the response's",
        ),
    ],
)  # fmt: skip
def test_flat_scores_that_are_missing_or_of_another_response_are_lost(changed, words):
    answer = native_support(flat_output(**changed))
    assert isinstance(answer, str)
    assert words in answer


def test_given_ids_are_asked_from_the_first_response_position_on():
    prompt, parameters = NativeRequests(8).given_request(0, SEQUENCE, GIVEN_IDS)
    assert prompt == ALL_IDS
    assert parameters["prompt_logprob_start"] == 2
    np.testing.assert_array_equal(parameters["prompt_logprob_token_ids"], [[2, 2, -1], [0, 3, -1]])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt_token_ids": ALL_IDS[:4]}, "echoed another prompt"),
        ({"prompt_token_id_logprobs": None}, "no scores"),
    ],
)
def test_given_scores_that_are_missing_or_of_another_prompt_are_lost(changed, words):
    scores = np.float32([[-1, -1, -np.inf], [-2, -3, -np.inf]])
    valid = {"prompt_token_ids": ALL_IDS, "prompt_token_id_logprobs": scores}
    read = NativeRequests(8).read_given
    (answer,) = read([SimpleNamespace(**valid)], [0], [SEQUENCE])
    assert isinstance(answer, GivenScores)
    np.testing.assert_array_equal(answer.token_logprobs, [-1, -2])
    np.testing.assert_array_equal(answer.logprobs, scores[:, 1:])
    (answer,) = read([SimpleNamespace(**{**valid, **changed})], [0], [SEQUENCE])
    assert isinstance(answer, str)
    assert words in answer


@pytest.mark.parametrize(
    ("echoed", "gathered", "words"),
    [(ALL_IDS[:4], 0, None), ([5, 6, 7, 3], 0, "echoed another prompt"), (ALL_IDS[:4], 1, "no scores")],
)
def test_gathered_scores_belong_to_their_question_or_are_lost(echoed, gathered, words):
    scores = np.float32([[-1, -np.inf], [-2, -np.inf]])
    tokens = np.float32([-1, -3])
    worker = [(gathered, 2, GIVEN_IDS.tobytes(), scores.tobytes(), tokens.tobytes())]

    def call_workers(method, args=()):
        # Only one worker of a tensor-parallel group has logits.
        return {"start_gathering": [None, None], "take_gathered": [[], worker]}[method]

    requests = GatheredRequests(call_workers)
    assert requests.given_request(0, SEQUENCE, GIVEN_IDS)[0] == ALL_IDS[:4]
    (answer,) = requests.read_given([SimpleNamespace(prompt_token_ids=echoed)], [0], [SEQUENCE])
    if words is None:
        assert isinstance(answer, GivenScores)
        np.testing.assert_array_equal(answer.logprobs, scores)
        np.testing.assert_array_equal(answer.token_logprobs, tokens)
    else:
        assert isinstance(answer, str)
        assert words in answer
