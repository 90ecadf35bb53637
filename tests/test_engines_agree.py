"""Datasets written through vLLM equal those written through transformers, embeddings padded unequally."""

import itertools
import shutil

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from teacher_scoring.score import ScoreOptions, score_teacher

pytestmark = pytest.mark.slow

#: Nats. Two implementations of the same float32 model: their attention and products sum in another order.
TOLERANCE = 2e-4


#: The tokenizer has 106 tokens, the teacher's embedding 128, the reference's these.
REFERENCE_VOCAB = 112


@pytest.fixture(scope="module")
def datasets(tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines-agree")
    reference = folder / "reference"
    shutil.copytree(tiny_world.reference, reference)
    model = AutoModelForCausalLM.from_pretrained(reference)
    model.resize_token_embeddings(REFERENCE_VOCAB)
    model.save_pretrained(reference)
    common = {
        "teacher": str(tiny_world.teacher),
        "reference": str(reference),
        "data": str(tiny_world.pairs),
        "top_k": 16,
        "dtype": "float32",
        "precision": "exact",
        "pass_cache": str(folder / "passes"),
    }
    return {
        engine: score_teacher(ScoreOptions(engine=engine, out=str(folder / engine), **common)).open()
        for engine in ("transformers", "vllm")
    }


@pytest.mark.vllm
def test_every_column_agrees_and_ids_differ_in_near_ties_only(datasets):
    rows = list(itertools.zip_longest(datasets["transformers"].iterate(), datasets["vllm"].iterate()))
    assert len(rows) == 20
    num_positions, sizes = 0, []
    for expected, found in rows:
        assert (found.pair_id, found.role) == (expected.pair_id, expected.role)
        np.testing.assert_array_equal(found.prompt_ids, expected.prompt_ids)
        np.testing.assert_array_equal(found.response_ids, expected.response_ids)
        np.testing.assert_array_equal(found.support_sizes, expected.support_sizes)
        for name in ("teacher_token_logprobs", "reference_token_logprobs"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name), atol=TOLERANCE, rtol=0, err_msg=name
            )
        # Sorted by rank: a near-tie may swap neighbours, which moves neither by more than the tolerance.
        np.testing.assert_allclose(found.teacher_logprobs, expected.teacher_logprobs, atol=TOLERANCE, rtol=0)
        ends = np.cumsum(expected.support_sizes)[:-1]
        ours, theirs = np.split(expected.topk_ids, ends), np.split(found.topk_ids, ends)
        advantages = [np.split(row.advantages, ends) for row in (expected, found)]
        teacher_logprobs = np.split(expected.teacher_logprobs, ends)
        for position in range(len(ours)):
            num_positions += 1
            by_id = [
                dict(zip(ids[position], values[position], strict=True))
                for ids, values in zip((ours, theirs), advantages, strict=True)
            ]
            shared = by_id[0].keys() & by_id[1].keys()
            swapped = ours[position] != theirs[position]
            gaps = np.abs(np.diff(teacher_logprobs[position], append=-np.inf))
            assert not swapped.any() or gaps[swapped].min() < TOLERANCE
            for token in shared:
                # A difference of two log-probabilities, each within half of it.
                assert abs(by_id[0][token] - by_id[1][token]) <= TOLERANCE
            if len(shared) == len(by_id[0]):
                for name in ("teacher_tail_logprobs", "reference_tail_logprobs"):
                    assert (
                        abs(getattr(found, name)[position] - getattr(expected, name)[position]) <= TOLERANCE
                    )
        sizes.append(found.support_sizes)
        assert found.topk_ids.max() < REFERENCE_VOCAB
    assert num_positions == datasets["vllm"].num_positions > 100
    # The teacher's padding was among its 16 most probable tokens, and has no advantage.
    assert np.concatenate(sizes).min() < 16
