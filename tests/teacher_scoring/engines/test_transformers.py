import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from data.errors import ConfigurationError, ScoringError
from teacher_scoring.engines.checked import LostAnswersError
from teacher_scoring.engines.contract import EngineOptions, Sampling, TokenSequence
from teacher_scoring.engines.open import open_engine

# Float32 logits of up to 8 nats, whose unit in the last place is 5e-7, from sums of some hundred products in another
# order, in another batch shape or another kernel of attention: about ten units, measured too, and by no chance forty.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return make_checkpoint("llama")


@pytest.fixture(scope="module")
def engine(checkpoint):
    engine = open_engine("transformers", EngineOptions(model=str(checkpoint), max_num_batched_tokens=256))
    yield engine
    engine.close()


def random_ids(sequences, num_ids, below, seed=1):
    rng = np.random.default_rng(seed)
    rows = [rng.permuted(np.tile(np.arange(below), (len(s.response_ids), 1)), axis=1) for s in sequences]
    return [row[:, :num_ids].astype(np.int32) for row in rows]


@pytest.mark.parametrize("top_k", [1, 7, 97])
def test_support_equals_the_dense_log_softmax(engine, checkpoint, make_sequences, dense_logprobs, top_k):
    sequences = make_sequences()
    for sequence, scores in zip(sequences, engine.score_support(sequences, top_k), strict=True):
        dense = dense_logprobs(checkpoint, sequence)
        best = -np.sort(-dense, axis=1)[:, :top_k]
        np.testing.assert_allclose(scores.logprobs, best, atol=ROUNDING)
        np.testing.assert_allclose(
            scores.logprobs, np.take_along_axis(dense, scores.topk_ids.astype(int), axis=1), atol=ROUNDING
        )
        token_logprobs = dense[np.arange(len(dense)), sequence.response_ids]
        np.testing.assert_allclose(scores.token_logprobs, token_logprobs, atol=ROUNDING)
        assert scores.topk_ids.dtype == np.int32
        assert scores.logprobs.dtype == scores.token_logprobs.dtype == np.float32


def test_given_ids_equal_the_dense_log_softmax_and_unknown_ones_are_minus_infinity(
    engine, checkpoint, make_sequences, dense_logprobs
):
    sequences = make_sequences()
    ids = random_ids(sequences, 11, below=120)
    ids[0][:, -1] = -1
    for sequence, given, scores in zip(sequences, ids, engine.score_given(sequences, ids), strict=True):
        dense = np.full((len(given), 121), -np.inf)
        dense[:, :97] = dense_logprobs(checkpoint, sequence)
        expected = np.take_along_axis(dense, given.astype(int), axis=1)
        np.testing.assert_allclose(scores.logprobs, expected, atol=ROUNDING)


def test_each_sequence_may_bring_its_own_number_of_ids(engine, make_sequences):
    sequences = make_sequences(4)
    ids = [row[:, : 2 + number] for number, row in enumerate(random_ids(sequences, 8, below=97))]
    together = engine.score_given(sequences, ids)
    for sequence, given, scores in zip(sequences, ids, together, strict=True):
        assert scores.logprobs.shape == given.shape
        alone = engine.score_given([sequence], [given])[0]
        np.testing.assert_allclose(scores.logprobs, alone.logprobs, atol=ROUNDING)


def test_scores_do_not_depend_on_order_or_company(engine, make_sequences):
    sequences = make_sequences(12)
    together = engine.score_support(sequences, 5)
    backwards = engine.score_support(sequences[::-1], 5)[::-1]
    for sequence, one, other in zip(sequences, together, backwards, strict=True):
        alone = engine.score_support([sequence], 5)[0]
        np.testing.assert_array_equal(one.topk_ids, alone.topk_ids)
        np.testing.assert_array_equal(one.topk_ids, other.topk_ids)
        # Another batch shape is another order of float32 additions, nothing more.
        np.testing.assert_allclose(one.logprobs, alone.logprobs, atol=ROUNDING)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=ROUNDING)


def test_equal_probabilities_come_with_the_lower_id_first(make_checkpoint, make_sequences, tmp_path):
    shutil.copytree(make_checkpoint("llama", tie_word_embeddings=False), tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"][10:] = 0.0  # a padded vocabulary: 87 tokens with logit 0
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    engine = open_engine("transformers", EngineOptions(model=str(tmp_path)))
    for scores in engine.score_support(make_sequences(3), 40):
        for ids, logprobs in zip(scores.topk_ids, scores.logprobs, strict=True):
            assert list(zip(-logprobs, ids, strict=True)) == sorted(zip(-logprobs, ids, strict=True))
            padded = ids[ids >= 10]
            assert padded.tolist() == list(range(10, 10 + len(padded)))


def test_a_bfloat16_model_keeps_a_float32_head(make_checkpoint, make_sequences):
    folder = make_checkpoint("llama", dtype="bfloat16", tie_word_embeddings=True)
    engine = open_engine("transformers", EngineOptions(model=str(folder)))
    assert engine.dtype == "bfloat16"
    logprobs = np.concatenate(
        [scores.logprobs.ravel() for scores in engine.score_support(make_sequences(), 97)]
    )
    # bfloat16 logits of one position take few values; float32 ones are nearly all different.
    assert len(np.unique(logprobs)) > 0.95 * len(logprobs)


def test_sampled_scores_are_those_of_scoring_and_each_seed_draws_its_own(engine, make_sequences, caplog):
    prompts = [sequence.prompt_ids for sequence in make_sequences(6)]
    sampling = Sampling(max_new_tokens=10, temperature=0.7, top_p=0.9, stop_token_ids=(3, 4, 5, 6))
    drawn = engine.sample(prompts, range(6), sampling)
    other_order = engine.sample(prompts[::-1], list(range(6))[::-1], sampling)[::-1]
    sequences = [TokenSequence(p, d.response_ids) for p, d in zip(prompts, drawn, strict=True)]
    scores = engine.score_support(sequences, 1)
    for one, other, scored in zip(drawn, other_order, scores, strict=True):
        np.testing.assert_array_equal(one.response_ids, other.response_ids)
        np.testing.assert_allclose(one.token_logprobs, scored.token_logprobs, atol=ROUNDING)
    assert "one at a time" not in caplog.text
    same_prompt = engine.sample([prompts[0]] * 8, range(8), sampling)
    assert len({tuple(one.response_ids) for one in same_prompt}) > 1


def test_responses_end_with_a_stop_token_or_at_the_limit(engine, make_sequences):
    prompts = [make_sequences(1)[0].prompt_ids] * 40
    sampling = Sampling(max_new_tokens=12, stop_token_ids=tuple(range(10)))
    drawn = engine.sample(prompts, range(40), sampling)
    assert {one.finish_reason for one in drawn} == {"stop", "length"}
    for one in drawn:
        is_stop = np.isin(one.response_ids, sampling.stop_token_ids)
        assert not is_stop[:-1].any()
        assert (one.finish_reason == "stop") == is_stop[-1]
        assert one.finish_reason == "stop" or len(one.response_ids) == 12


def test_temperature_zero_takes_the_most_probable_token(engine, make_sequences):
    prompts = [sequence.prompt_ids for sequence in make_sequences(3)]
    drawn = engine.sample(prompts, [0, 1, 2], Sampling(max_new_tokens=5, temperature=0))
    sequences = [TokenSequence(p, d.response_ids) for p, d in zip(prompts, drawn, strict=True)]
    for sequence, scores in zip(sequences, engine.score_support(sequences, 1), strict=True):
        np.testing.assert_array_equal(scores.topk_ids[:, 0], sequence.response_ids)


def test_a_model_whose_batches_are_wrong_is_sampled_one_prompt_at_a_time(
    make_checkpoint, make_sequences, caplog
):
    """transformers' RWKV generates wrong tokens in batches; scoring batches, padded on the right, is exact."""
    folder = make_checkpoint("rwkv", attention_hidden_size=64)
    engine = open_engine("transformers", EngineOptions(model=str(folder)))
    prompts = [sequence.prompt_ids for sequence in make_sequences(4)]
    drawn = engine.sample(prompts, range(4), Sampling(max_new_tokens=6))
    assert [message for message in caplog.messages if "prompts are answered one at a time" in message]
    sequences = [TokenSequence(p, d.response_ids) for p, d in zip(prompts, drawn, strict=True)]
    for one, scored in zip(drawn, engine.score_support(sequences, 1), strict=True):
        np.testing.assert_allclose(one.token_logprobs, scored.token_logprobs, atol=ROUNDING)
    engine.close()


@pytest.mark.slow
def test_draws_follow_the_models_distribution(checkpoint, make_sequences, dense_logprobs):
    engine = open_engine("transformers", EngineOptions(model=str(checkpoint), max_num_batched_tokens=20_000))
    prompt = make_sequences(1)[0].prompt_ids
    drawn = engine.sample([prompt] * 4000, range(4000), Sampling(max_new_tokens=1))
    counts = np.bincount([one.response_ids[0] for one in drawn], minlength=97)
    expected = 4000 * np.exp(dense_logprobs(checkpoint, TokenSequence(prompt, prompt[:1]))[0])
    # Chi-squared with 96 degrees of freedom exceeds 160 once in 20,000 seeds.
    assert ((counts - expected) ** 2 / expected).sum() < 160


def test_top_p_draws_only_from_the_smallest_mass_of_most_probable_tokens(
    engine, checkpoint, make_sequences, dense_logprobs
):
    prompt = make_sequences(1)[0].prompt_ids
    probabilities = np.exp(dense_logprobs(checkpoint, TokenSequence(prompt, prompt[:1]))[0])
    order = np.argsort(-probabilities)
    kept = order[: int((probabilities[order].cumsum() < 0.5).sum()) + 1]
    drawn = engine.sample([prompt] * 500, range(500), Sampling(max_new_tokens=1, top_p=0.5))
    assert {int(one.response_ids[0]) for one in drawn} == set(kept.tolist())


@pytest.mark.parametrize("top_k", [0, 98])
def test_a_support_outside_the_vocabulary_is_refused(engine, make_sequences, top_k):
    with pytest.raises(ConfigurationError, match=rf"top_k: {top_k} .* 1 to 97"):
        engine.score_support(make_sequences(1), top_k)


def test_ids_that_the_model_lacks_and_sequences_too_long_are_refused(engine):
    one = np.array([1], dtype=np.int32)
    with pytest.raises(ScoringError, match=r"token id 97, but .* has ids 0 to 96"):
        engine.score_support([TokenSequence(one, one + 96)], 5)
    with pytest.raises(ScoringError, match=r"129 tokens, but .* at most 128"):
        engine.score_support([TokenSequence(np.repeat(one, 100), np.repeat(one, 29))], 5)


def test_missing_weights_are_refused_instead_of_drawn_at_random(make_checkpoint, tmp_path):
    shutil.copytree(make_checkpoint("llama"), tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ScoringError, match=r"1 weights are missing, the first model\.layers\.1\.mlp\.up_proj"
    ):
        open_engine("transformers", EngineOptions(model=str(tmp_path)))


def test_options_of_the_other_engine_are_refused(checkpoint):
    with pytest.raises(ConfigurationError, match="tensor_parallel_size: 2"):
        open_engine("transformers", EngineOptions(model=str(checkpoint), tensor_parallel_size=2))
    with pytest.raises(ConfigurationError, match="quantization"):
        open_engine("transformers", EngineOptions(model=str(checkpoint), quantization="fp8"))


def test_loading_says_nothing(checkpoint, capfd):
    open_engine("transformers", EngineOptions(model=str(checkpoint))).close()
    assert capfd.readouterr() == ("", "")


def test_an_adapter_changes_the_scores_as_merging_it_does(
    make_checkpoint, make_adapter, make_sequences, dense_logprobs
):
    base = make_checkpoint("llama")
    adapter, merged = make_adapter(base)
    engine = open_engine("transformers", EngineOptions(model=str(base), adapter=str(adapter)))
    for sequence in make_sequences(3):
        scores = engine.score_support([sequence], 97)[0]
        dense = dense_logprobs(merged, sequence)
        expected = np.take_along_axis(dense, scores.topk_ids.astype(int), axis=1)
        # Merging rounds every weight of two layers once more, by 6e-8 of its size, and adds their products otherwise.
        np.testing.assert_allclose(scores.logprobs, expected, atol=1e-4)
        assert np.abs(dense_logprobs(base, sequence) - dense).max() > 0.1


def test_engine_is_heard_for_every_response_and_position_while_it_works(engine, make_sequences):
    sequences, heard = make_sequences(16), []
    engine.report_to(heard.append)
    engine.score_support(sequences, 5)
    assert len(heard) > 1
    assert sum(heard) == sum(len(sequence.response_ids) for sequence in sequences)
    heard.clear()
    # Some responses stop early and are then worth all that they might have been.
    sampling = Sampling(max_new_tokens=8, stop_token_ids=tuple(range(0, 97, 9)))
    drawn = engine.sample([sequence.prompt_ids for sequence in sequences], range(16), sampling)
    assert {response.finish_reason for response in drawn} == {"stop", "length"}
    assert len(heard) >= 8
    assert sum(heard) == pytest.approx(16)
    engine.report_to(lambda _: None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompts_that_make_a_model_overflow_are_lost_and_the_others_answered(
    checkpoint, make_sequences, temperature, tmp_path
):
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][7] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    engine = open_engine("transformers", EngineOptions(model=str(broken)))
    prompts = [np.array(ids, dtype=np.int32) for ids in ([3, 4, 5], [3, 7, 5], [8, 9])]
    with pytest.raises(LostAnswersError) as lost:
        engine.sample(prompts, range(3), Sampling(max_new_tokens=1, temperature=temperature))
    assert lost.value.reasons == {1: "scores that are not log-probabilities"}
    assert [answer is None for answer in lost.value.answers] == [False, True, False]
