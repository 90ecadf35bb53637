"""A LoRA adapter under vLLM: a separate engine, because two cannot be in one process."""

import numpy as np
import pytest

from teacher_scoring.engines.contract import EngineOptions
from teacher_scoring.engines.open import open_engine

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

# Two libraries' float32 kernels: sums in another order, other exponentials. Measured 2e-6 to 6e-5 nat.
TOLERANCE = 2e-4


def test_an_adapter_changes_the_scores_as_merging_it_does(make_checkpoint, make_adapter, make_sequences):
    base = make_checkpoint("llama")
    adapter, merged = make_adapter(base)
    sequences = make_sequences(4)
    engine = open_engine("vllm", EngineOptions(model=str(base), adapter=str(adapter), max_length=64))
    ours = engine.score_support(sequences, 97)
    engine.close()
    oracle = open_engine("transformers", EngineOptions(model=str(merged)))
    ids = [scores.topk_ids for scores in ours]
    for scores, theirs in zip(ours, oracle.score_given(sequences, ids), strict=True):
        np.testing.assert_allclose(scores.logprobs, theirs.logprobs, atol=TOLERANCE)
