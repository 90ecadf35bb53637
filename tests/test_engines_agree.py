"""Datasets written through vLLM equal those written through transformers."""

import itertools

import numpy as np
import pytest

from teacher_scoring.score import ScoreOptions, score_teacher

#: Nats. Two implementations of the same float32 model: their attention and products sum in another order.
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def datasets(tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines-agree")
    common = {
        "teacher": str(tiny_world.teacher),
        "reference": str(tiny_world.reference),
        "data": str(tiny_world.pairs),
        "top_k": 16,
        "dtype": "float32",
        "precision": "exact",
        "pass_cache": str(folder / "passes"),
    }
    return {
        engine: score_teacher(ScoreOptions(engine=engine, out=str(folder / engine), **common))
        for engine in ("transformers", "vllm")
    }


@pytest.mark.vllm
def test_every_column_agrees_and_ids_differ_in_near_ties_only(datasets):
    rows = list(itertools.zip_longest(datasets["transformers"].iterate(), datasets["vllm"].iterate()))
    assert len(rows) == 20
    num_positions = 0
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
        shape = (len(expected.response_ids), -1)
        ours, theirs = expected.topk_ids.reshape(shape), found.topk_ids.reshape(shape)
        for position in range(shape[0]):
            num_positions += 1
            by_id = [
                dict(zip(ids[position], row.advantages.reshape(shape)[position], strict=True))
                for ids, row in ((ours, expected), (theirs, found))
            ]
            shared = by_id[0].keys() & by_id[1].keys()
            swapped = ours[position] != theirs[position]
            gaps = np.abs(np.diff(expected.teacher_logprobs.reshape(shape)[position], append=-np.inf))
            assert not swapped.any() or gaps[swapped].min() < TOLERANCE
            for token in shared:
                # A difference of two log-probabilities, each within half of it.
                assert abs(by_id[0][token] - by_id[1][token]) <= TOLERANCE
            if len(shared) == len(by_id[0]):
                for name in ("teacher_tail_logprobs", "reference_tail_logprobs"):
                    assert (
                        abs(getattr(found, name)[position] - getattr(expected, name)[position]) <= TOLERANCE
                    )
    assert num_positions == datasets["vllm"].num_positions > 100
