"""A dataset made in parts, and its plan."""

import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data.errors import ConfigurationError, ShardError
from teacher_scoring.build.merge import merge_parts
from teacher_scoring.dry_run import describe_plan, model_size, plan_scoring
from teacher_scoring.options import ScoreOptions
from teacher_scoring.score import score_teacher


@pytest.fixture
def options(tiny_world, tmp_path):
    def make(out="out", **changed):
        given = {
            "teacher": str(tiny_world.teacher),
            "reference": str(tiny_world.reference),
            "data": str(tiny_world.pairs),
            "out": str(tmp_path / out),
            "pass_cache": str(tmp_path / f"passes-{out}"),
            "engine": "transformers",
            "top_k": 8,
            "shard_pairs": 2,
        }
        return ScoreOptions(**{**given, **changed})

    return make


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_parts_in_any_order_merge_to_the_bytes_of_one_run(options):
    whole = score_teacher(options("whole"))
    out = whole.path.with_name("parts")
    parts = [score_teacher(options("parts", shard_range=part)) for part in ("3/3", "1/3")]
    with pytest.raises(ShardError, match="parts 2/3 are not finished"):
        merge_parts(out)
    assert not (out / "manifest.json").exists()
    parts.append(score_teacher(options("parts", shard_range="2/3")))
    merged = merge_parts(out)
    assert merged.num_pairs == 10
    assert contents(out) == contents(whole.path)
    assert merge_parts(out).manifest == merged.manifest
    assert contents(out) == contents(whole.path)
    # Each shard was scored once: the parts' counts add up to the whole.
    assert [part.part for part in parts] == ["3/3", "1/3", "2/3"]
    assert sum(part.teacher.scored for part in parts) == whole.positions
    assert sum(part.positions for part in parts) == whole.positions
    assert sum(part.pairs for part in parts) == whole.pairs


def test_a_part_of_a_finished_dataset_is_there_already(options):
    whole = score_teacher(options())
    part = score_teacher(options(shard_range="1/2"))
    assert part.reused
    assert (part.part, part.positions) == (None, whole.positions)


def test_parts_of_different_data_are_not_merged(options, tiny_world, tmp_path):
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(tiny_world.pairs.read_text().splitlines(keepends=True)[:8]))
    score_teacher(options(shard_range="1/2"))
    score_teacher(options(shard_range="2/2", data=str(fewer)))
    with pytest.raises(ShardError, match="part 2-of-2 differs from part 1-of-2 in data"):
        merge_parts(tmp_path / "out")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_range_that_is_none_is_refused(options, text):
    with pytest.raises(ConfigurationError, match="--shard-range"):
        options(shard_range=text)


def test_a_plan_counts_what_the_run_then_does_and_writes_nothing(options, tmp_path):
    given = options()
    plan = plan_scoring(given)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "passes-out").exists()
    dataset = score_teacher(given).open()
    assert sum(plan.positions.values()) == dataset.num_positions
    assert plan.rows == {"chosen": 10, "rejected": 10}
    assert plan.cached == {"teacher": 0, "reference": 0}
    assert plan.tokens == sum(len(row.prompt_ids) + len(row.response_ids) for row in dataset.iterate())
    again = plan_scoring(given)
    assert again.cached == {"teacher": dataset.num_positions, "reference": dataset.num_positions}
    assert again.hours == {"teacher": 0.0, "reference": 0.0}


def test_a_plan_needs_no_weights(options, tiny_world, tmp_path):
    """Tokenizer and configuration of a 7-billion-parameter model."""
    large = tmp_path / "large"
    shutil.copytree(tiny_world.teacher, large)
    next(large.glob("*.safetensors")).unlink()
    AutoConfig.for_model(
        "mistral", vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False,
    ).save_pretrained(large)  # fmt: skip
    plan = plan_scoring(options(teacher=str(large), card="a100-80gb", dtype="bfloat16"))
    said = "\n".join(describe_plan(plan))
    assert (
        "teacher: 7.24 billion parameters, 13.5 GiB in bfloat16; cached: cannot be told without its weights"
        in said
    )
    assert "312 TFLOP/s (dense bfloat16, by its data sheet) at an assumed utilisation of 40%" in said
    # By hand: 6.98 billion parameters in the layers, for every token; 131 million in the head, for every position.
    positions = sum(plan.positions.values())
    by_hand = plan.tokens * 2 * 6.98e9 + positions * 2 * 32000 * 4096
    assert plan.flops["teacher"] == pytest.approx(by_hand, rel=1e-2)
    assert plan.hours["teacher"] == pytest.approx(plan.flops["teacher"] / (312e12 * 0.4) / 3600)


def test_idle_experts_and_tied_heads_cost_nothing_twice(tmp_path):
    shape = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    AutoConfig.for_model("mixtral", num_local_experts=4, num_experts_per_tok=1, **shape).save_pretrained(
        tmp_path / "moe"
    )
    AutoConfig.for_model("llama", tie_word_embeddings=True, **shape).save_pretrained(tmp_path / "tied")
    moe, tied = (model_size(tmp_path / name, trust_remote_code=False) for name in ("moe", "tied"))
    experts = 2 * 4 * 3 * 16 * 32
    assert moe.body_parameters == moe.parameters - 2 * 50 * 16 - experts * 3 // 4
    assert tied.body_parameters == tied.parameters - 50 * 16
    assert tied.head_parameters == 50 * 16
    assert tied.attention_width == 2 * 16
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "moe"))
        assert made.num_parameters() == moe.parameters
