import numpy as np
import pytest
import torch

from teacher_scoring.engines.logprobs import given_logprobs, support_logprobs

# A float32 log-softmax of 30,000 logits of a few nats against float64: one rounding of a sum near 10.
ROUNDING = 5e-6
# Wider than a vocabulary's blocks, and not a multiple of them.
V = 30_011


def whole_sort(logprobs, top_k):
    """What `support_logprobs` promises, the slow way: all sorted, equal ones with the lower id first."""
    values, ids = logprobs.sort(dim=-1, descending=True, stable=True)
    return ids[:, :top_k].int(), values[:, :top_k]


def logits(kind, num_rows=6, width=V):
    spread = 3 * torch.randn(num_rows, width, generator=torch.Generator().manual_seed(0))
    return {
        "spread": spread,
        "many ties": (2 * spread).round() / 2,
        "bfloat16": spread.bfloat16(),
        "all equal": torch.zeros(num_rows, width),
        "few tokens possible": spread.masked_fill(spread < 8, float("-inf")),
        "largest at the end": spread.sort(dim=-1).values,
    }[kind]


@pytest.mark.parametrize(
    "kind", ["spread", "many ties", "bfloat16", "all equal", "few tokens possible", "largest at the end"]
)
@pytest.mark.parametrize("top_k", [1, 50, 200])
def test_the_support_is_what_sorting_the_whole_vocabulary_gives(kind, top_k):
    given = logits(kind)
    token_ids = torch.arange(len(given)) * 1000
    ids, logprobs, token_logprobs = support_logprobs(given, token_ids, top_k)
    dense = torch.log_softmax(given.float(), dim=-1)
    expected_ids, expected = whole_sort(dense, top_k)
    assert torch.equal(ids, expected_ids)
    assert torch.equal(logprobs, expected)
    assert torch.equal(token_logprobs, dense[torch.arange(len(given)), token_ids])


def test_log_probabilities_equal_those_in_float64():
    given = logits("spread")
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, V, (len(given), 30)))
    dense = torch.log_softmax(given.double(), dim=-1)
    support_ids, support, _ = support_logprobs(given, ids[:, 0], 50)
    scores, token_logprobs = given_logprobs(given, ids[:, 0], ids)
    assert (support - dense.gather(-1, support_ids.long())).abs().max() < ROUNDING
    assert (scores - dense.gather(-1, ids)).abs().max() < ROUNDING
    assert torch.equal(scores[:, 0], token_logprobs)


def test_what_is_not_a_number_shows_in_the_scores():
    given = logits("many ties")
    given[2, 17] = float("nan")
    _, logprobs, _ = support_logprobs(given, torch.zeros(len(given), dtype=torch.int64), 50)
    assert logprobs.isnan().all(dim=-1).tolist() == [False, False, True, False, False, False]
