"""Masked responses: only what the mask has is scored, and as if each range of it were a separate response."""

from types import SimpleNamespace

import numpy as np
import pytest

from data.errors import ScoringError
from teacher_scoring.engines.contract import EngineOptions, TokenSequence
from teacher_scoring.engines.open import open_engine
from teacher_scoring.engines.vllm.requests import GatheredRequests, NativeRequests

# The same kernels at other batch shapes: float32 sums in another order.
TOLERANCE = 1e-5


@pytest.fixture(
    scope="module",
    params=["transformers", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow])],
)
def engine(request, make_checkpoint):
    checkpoint = make_checkpoint("llama", tie_word_embeddings=True)
    engine = open_engine(request.param, EngineOptions(model=str(checkpoint), max_length=64))
    yield engine
    engine.close()


def masked(sequence, rng):
    mask = rng.random(len(sequence.response_ids)) < 0.5
    mask[rng.integers(len(mask))] = True
    return TokenSequence(sequence.prompt_ids, sequence.response_ids, mask)


def turns(sequence):
    """Each stretch of the mask as a response after all that precedes it."""
    ids = np.concatenate([sequence.prompt_ids, sequence.response_ids])
    places = sequence.scored_places
    for stretch in np.split(places, 1 + np.flatnonzero(np.diff(places) > 1)):
        first, end = len(sequence.prompt_ids) + stretch[[0, -1]] + [0, 1]
        yield TokenSequence(ids[:first], ids[first:end])


def test_spans_that_are_scored_in_one_pass_equal_turns_scored_one_by_one(engine, make_sequences):
    rng = np.random.default_rng(0)
    sequences = [masked(sequence, rng) for sequence in make_sequences(12)]
    given = [rng.permuted(np.tile(np.arange(97), (len(s.scored_ids), 1)), axis=1)[:, :9] for s in sequences]
    given = [ids.astype(np.int32) for ids in given]
    supports, scores = engine.score_support(sequences, 5), engine.score_given(sequences, given)
    for sequence, support, score, ids in zip(sequences, supports, scores, given, strict=True):
        pieces = list(turns(sequence))
        ends = np.cumsum([len(piece.response_ids) for piece in pieces])[:-1]
        alone = engine.score_support(pieces, 5)
        np.testing.assert_allclose(
            support.logprobs, np.concatenate([one.logprobs for one in alone]), atol=TOLERANCE
        )
        alone = engine.score_given(pieces, np.split(ids, ends))
        for name in ("logprobs", "token_logprobs"):
            together = np.concatenate([getattr(one, name) for one in alone])
            np.testing.assert_allclose(getattr(score, name), together, atol=TOLERANCE)


def test_a_mask_without_any_position_is_refused(engine):
    ids = np.array([1, 2], np.int32)
    with pytest.raises(ScoringError, match="its mask leaves no position to score"):
        engine.score_support([TokenSequence(ids, ids, np.zeros(2, bool))], 3)


SEQUENCE = TokenSequence(
    np.array([5, 6, 7], np.int32), np.array([2, 0, 3], np.int32), np.array([True, False, True])
)


def test_vllm_requests_ask_for_nothing_where_the_mask_is_off():
    requests = NativeRequests(8)
    ids = np.array([[1, 9], [4, 5]], np.int32)
    _, parameters = requests.given_request(0, SEQUENCE, ids)
    np.testing.assert_array_equal(
        parameters["prompt_logprob_token_ids"], [[2, 1, -1], [-1, -1, -1], [3, 4, 5]]
    )
    assert parameters["prompt_logprob_start"] == 2
    scores = np.arange(9, dtype=np.float32).reshape(3, 3)
    output = SimpleNamespace(prompt_token_ids=[5, 6, 7, 2, 0, 3], prompt_token_id_logprobs=scores)
    (answer,) = requests.read_given([output], [0], [SEQUENCE])
    np.testing.assert_array_equal(answer.token_logprobs, [0, 6])
    np.testing.assert_array_equal(answer.logprobs, [[1, 2], [7, 8]])


def test_gathered_requests_name_the_places_that_predict_what_the_mask_has():
    requests = GatheredRequests(lambda *_, **__: [])
    prompt, parameters = requests.support_request(4, SEQUENCE, 2)
    (question,) = parameters["extra_args"].values()
    assert prompt == [5, 6, 7, 2, 0]
    np.testing.assert_array_equal(np.frombuffer(question["places"], np.int32), [2, 4])
    np.testing.assert_array_equal(np.frombuffer(question["token_ids"], np.int32), [2, 3])
