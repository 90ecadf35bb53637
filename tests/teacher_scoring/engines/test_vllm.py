import numpy as np
import pytest

from data.errors import ConfigurationError, ScoringError
from teacher_scoring.engines.contract import EngineOptions, Sampling, TokenSequence
from teacher_scoring.engines.open import open_engine
from teacher_scoring.engines.vllm import engine as vllm_engine
from teacher_scoring.engines.vllm import worker_extension as worker_gathering

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

# Two libraries' float32 kernels: sums in another order, other exponentials. Measured 2e-6 to 6e-5 nat.
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return make_checkpoint("llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def oracle(checkpoint):
    engine = open_engine("transformers", EngineOptions(model=str(checkpoint)))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine(checkpoint):
    """One for all of this file: vLLM's engines in one process share a state that goes with the first that is closed."""
    engine = open_engine("vllm", EngineOptions(model=str(checkpoint), max_length=64))
    yield engine
    engine.close()


def test_both_engines_describe_the_model_alike(engine, oracle):
    assert (engine.vocab_size, engine.dtype) == (oracle.vocab_size, oracle.dtype) == (97, "float32")


@pytest.mark.parametrize("top_k", [1, 7, 97])
def test_support_scores_equal_those_of_transformers(engine, oracle, make_sequences, top_k):
    sequences = make_sequences(12)
    for ours, theirs in zip(
        engine.score_support(sequences, top_k), oracle.score_support(sequences, top_k), strict=True
    ):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=TOLERANCE)
        np.testing.assert_allclose(ours.token_logprobs, theirs.token_logprobs, atol=TOLERANCE)
        for position in zip(ours.topk_ids, theirs.topk_ids, ours.logprobs, theirs.logprobs, strict=True):
            assert_same_ids_except_near_ties(*position)
        assert ours.topk_ids.dtype == np.int32
        assert ours.logprobs.dtype == ours.token_logprobs.dtype == np.float32


def assert_same_ids_except_near_ties(our_ids, their_ids, our_logprobs, their_logprobs):
    theirs = dict(zip(their_ids.tolist(), their_logprobs.tolist(), strict=True))
    for token_id, logprob in zip(our_ids.tolist(), our_logprobs.tolist(), strict=True):
        # An id that only one engine kept must be as good as level with the last one that the other kept.
        assert abs(theirs.get(token_id, their_logprobs[-1]) - logprob) < TOLERANCE


def test_given_scores_equal_those_of_transformers(engine, oracle, make_sequences):
    sequences = make_sequences(12)
    rng = np.random.default_rng(0)
    ids = [rng.permutation(130)[:9] + np.zeros((len(s.response_ids), 1), dtype=np.int64) for s in sequences]
    ids = [rng.permuted(given, axis=1).astype(np.int32) for given in ids]
    ids[0] = ids[0][:, :4]
    ids[1][:, 0] = -1
    for given, ours, theirs in zip(
        ids, engine.score_given(sequences, ids), oracle.score_given(sequences, ids), strict=True
    ):
        assert ours.logprobs.shape == given.shape
        assert (np.isneginf(ours.logprobs) == ((given < 0) | (given >= 97))).all()
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=TOLERANCE)
        np.testing.assert_allclose(ours.token_logprobs, theirs.token_logprobs, atol=TOLERANCE)


def test_how_many_positions_go_through_the_head_at_once_changes_nothing(engine, make_sequences, monkeypatch):
    sequences = make_sequences(12)
    ids = [np.tile(np.arange(9, dtype=np.int32), (len(s.response_ids), 1)) for s in sequences]
    whole = [*engine.score_support(sequences, 7), *engine.score_given(sequences, ids)]
    # Five positions of 97 float32 logits: pieces end in the middle of responses and hold parts of several.
    monkeypatch.setattr(worker_gathering, "_CPU_LOGITS_BYTES", 5 * 97 * 4)
    pieces = [*engine.score_support(sequences, 7), *engine.score_given(sequences, ids)]
    for ours, theirs in zip(pieces, whole, strict=True):
        # Another matrix shape may add in another order.
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)
        np.testing.assert_allclose(ours.token_logprobs, theirs.token_logprobs, atol=1e-5)


def test_requests_of_one_call_are_bounded_and_change_nothing(engine, make_sequences, monkeypatch):
    sequences = make_sequences(12)
    ids = [np.tile(np.arange(7, dtype=np.int32), (len(s.response_ids), 1)) for s in sequences]
    whole = [*engine.score_support(sequences, 7), *engine.score_given(sequences, ids)]
    generate, asked = engine.backend._llm.generate, []

    def count(prompts, *arguments, **options):
        asked.append(sum(8 * (len(prompt["prompt_token_ids"]) + 1) for prompt in prompts))
        return generate(prompts, *arguments, **options)

    monkeypatch.setattr(engine.backend._llm, "generate", count)
    monkeypatch.setattr(vllm_engine, "_MAX_SCORES", 500)
    pieces = [*engine.score_support(sequences, 7), *engine.score_given(sequences, ids)]
    assert len(asked) > 4
    assert max(asked) <= 500
    for ours, theirs in zip(pieces, whole, strict=True):
        # Another batch may add in another order.
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


def test_sampled_scores_equal_those_of_transformers_and_order_never_matters(engine, oracle, make_sequences):
    prompts = [sequence.prompt_ids for sequence in make_sequences(12)]
    sampling = Sampling(max_new_tokens=12, temperature=0.7, top_p=0.9, stop_token_ids=tuple(range(12)))
    drawn = engine.sample(prompts, range(12), sampling)
    other_order = engine.sample(prompts[::-1], list(range(12))[::-1], sampling)[::-1]
    scores = oracle.score_support(
        [TokenSequence(p, d.response_ids) for p, d in zip(prompts, drawn, strict=True)], 1
    )
    for one, other, scored in zip(drawn, other_order, scores, strict=True):
        np.testing.assert_array_equal(one.response_ids, other.response_ids)
        np.testing.assert_allclose(one.token_logprobs, scored.token_logprobs, atol=TOLERANCE)
        is_stop = np.isin(one.response_ids, sampling.stop_token_ids)
        assert not is_stop[:-1].any()
        assert one.finish_reason == ("stop" if is_stop[-1] else "length")
    assert {one.finish_reason for one in drawn} == {"stop", "length"}
    same_prompt = engine.sample([prompts[0]] * 8, range(8), sampling)
    assert len({tuple(one.response_ids) for one in same_prompt}) > 1


def test_temperature_zero_draws_what_transformers_draws(engine, oracle, make_sequences):
    prompts = [sequence.prompt_ids for sequence in make_sequences(4)]
    greedy = Sampling(max_new_tokens=6, temperature=0)
    for ours, theirs in zip(
        engine.sample(prompts, range(4), greedy), oracle.sample(prompts, range(4), greedy), strict=True
    ):
        np.testing.assert_array_equal(ours.response_ids, theirs.response_ids)


def test_the_longest_sequence_allowed_is_scored_and_one_more_token_is_refused(engine, oracle, make_sequences):
    ids = np.arange(65, dtype=np.int32)
    whole = [TokenSequence(ids[:1], ids[1:64])]
    ours, theirs = engine.score_support(whole, 3)[0], oracle.score_support(whole, 3)[0]
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=TOLERANCE)
    with pytest.raises(ScoringError, match=r"65 tokens, but .* at most 64"):
        engine.score_support([TokenSequence(ids[:1], ids[1:65])], 3)


@pytest.mark.parametrize("top_k", [0, 98])
def test_a_support_outside_the_vocabulary_is_refused(engine, make_sequences, top_k):
    with pytest.raises(ConfigurationError, match=rf"top_k: {top_k} .* 1 to 97"):
        engine.score_support(make_sequences(1), top_k)


def test_scores_that_get_lost_on_the_worker_are_asked_for_again(engine, oracle, make_sequences, monkeypatch):
    sequences = make_sequences(5)
    take, calls = engine.backend._requests._call_workers, []

    def lose_some(method, args=()):
        taken = take(method, args=args)
        calls.append(len(args[0]))
        return [[answer for answer in worker if answer[0] % 2 == 0 or len(calls) > 1] for worker in taken]

    monkeypatch.setattr(engine.backend._requests, "_call_workers", lose_some)
    for ours, theirs in zip(
        engine.score_support(sequences, 5), oracle.score_support(sequences, 5), strict=True
    ):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=TOLERANCE)
    assert calls == [5, 2]


def test_an_engine_that_dies_is_an_error_that_names_the_model(engine, make_sequences, monkeypatch):
    from vllm.v1.engine.exceptions import EngineDeadError

    def die(*_, **__):
        raise EngineDeadError()

    monkeypatch.setattr(engine.backend._llm, "generate", die)
    with pytest.raises(ScoringError, match=r"llama.*: vLLM failed while it was scoring: "):
        engine.score_support(make_sequences(2), 3)


def test_engine_is_heard_for_every_response_and_position_that_it_finishes(engine, make_sequences):
    sequences, heard = make_sequences(6), []
    engine.report_to(heard.append)
    engine.score_support(sequences, 5)
    assert len(heard) > 1
    assert sum(heard) == pytest.approx(sum(len(sequence.response_ids) for sequence in sequences))
    heard.clear()
    engine.sample([sequence.prompt_ids for sequence in sequences], range(6), Sampling(max_new_tokens=8))
    assert sum(heard) == pytest.approx(6)
    engine.report_to(lambda _: None)
