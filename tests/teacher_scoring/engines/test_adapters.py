"""A LoRA adapter as teacher, through the whole command."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from data.errors import ConfigurationError
from teacher_scoring.score import ScoreOptions, score_teacher

# Float32 weights with the adapter added beforehand or its product added to each activation: 2e-5 nat measured.
TOLERANCE = 2e-4


@pytest.fixture
def score(tiny_world, tmp_path):
    def score(name, **options):
        common = {
            "reference": str(tiny_world.reference),
            "data": str(tiny_world.pairs),
            "engine": "transformers",
            "top_k": tiny_world.vocab_size,
            "precision": "exact",
            "pass_cache": str(tmp_path / "passes"),
        }
        result = score_teacher(ScoreOptions(out=str(tmp_path / name), **common, **options))
        return result.open(), result

    return score


def test_a_teacher_with_an_adapter_is_scored_as_the_merged_model(score, tiny_world, make_adapter):
    base = tiny_world.reference
    adapter, merged = make_adapter(base)
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    ours, _ = score("adapter", teacher=str(base), teacher_adapter=str(adapter))
    theirs, _ = score("merged", teacher=str(merged))
    largest = 0.0
    for one, other in zip(ours.iterate(), theirs.iterate(), strict=True):
        np.testing.assert_allclose(one.teacher_token_logprobs, other.teacher_token_logprobs, atol=TOLERANCE)
        largest = max(largest, float(np.abs(one.advantages).max()))
    # The reference is the base: what the adapter changed is all the advantage there is.
    assert largest > 0.1
    plain, result = score("base", teacher=str(base))
    assert result.teacher.found == 0
    assert max(float(np.abs(row.advantages).max()) for row in plain.iterate()) == 0.0


def test_a_folder_that_is_no_adapter_is_refused_before_any_work(score, tiny_world, tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"not a LoRA adapter folder, it has no adapter_config\.json"
    ):
        score("out", teacher=str(tiny_world.reference), teacher_adapter=str(tiny_world.teacher))
    assert not (tmp_path / "out").exists()
