"""score-teacher --dry-run: its counts are those of the run, its times and break-even are worked by hand."""

import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data.hardware import CARDS, UTILISATION
from teacher_scoring.dry_run import LiveTeacher, describe_plan, model_size, plan_scoring
from teacher_scoring.options import ScoreOptions
from teacher_scoring.score import score_teacher


@pytest.fixture
def options(tiny_world, tmp_path):
    """Options of a small run, of which any may be replaced."""

    def make(**changed):
        given = {
            "teacher": str(tiny_world.teacher),
            "reference": str(tiny_world.reference),
            "data": str(tiny_world.pairs),
            "out": str(tmp_path / "out"),
            "pass_cache": str(tmp_path / "passes-out"),
            "engine": "transformers",
            "top_k": 8,
            "shard_pairs": 2,
        }
        return ScoreOptions(**{**given, **changed})

    return make


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
    assert "312 TFLOP/s in bfloat16 (dense, by the data sheet of a100-80gb" in said
    # Two models of 13.5 GiB, one after the other; 989 and 121 TFLOP/s for the same operations.
    on_h100, on_l4 = (sum(plan.flops.values()) / (peak * 1e12 * 0.4) for peak in (989, 121))
    assert f"on one card of another kind: h100-sxm {on_h100:.2g} seconds, rtx-4090" in said
    assert f"l4 {on_l4:.2g} seconds" in said
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
    experts, norms = 2 * 4 * 3 * 16 * 32, 5 * 16
    assert moe.body == moe.parameters - 2 * 50 * 16 - experts * 3 // 4 - norms
    assert tied.body == tied.parameters - 50 * 16 - norms
    assert tied.head == 50 * 16
    assert tied.attention_width == 2 * 16
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "moe"))
        assert made.num_parameters() == moe.parameters


@pytest.mark.parametrize(
    ("scoring", "epoch_hours", "epoch"),
    [
        (2.0, 2.0, 2),  # level after the first
        (2.0, 1.0, 3),  # the teacher alone, of two equal models that were scored
        (0.1 + 0.2, 0.3, 2),  # level, but for the last digit
        (0.5, 2.0, 1),  # three quarters were stored already
        (0.0, 2.0, 1),
    ],
)
def test_break_even_is_the_first_epoch_after_which_live_took_longer(scoring, epoch_hours, epoch):
    assert LiveTeacher.beside(scoring, models="teacher", epoch_hours=epoch_hours).break_even == epoch


def test_a_plan_weighs_live_models_by_all_data_and_scoring_by_what_is_not_stored(options):
    plan = plan_scoring(options())
    teacher, reference = plan.hours["teacher"], plan.hours["reference"]
    alone, both = plan.live
    assert (alone.epoch_hours, both.epoch_hours) == pytest.approx((teacher, teacher + reference))
    # Both have one shape, so two passes are two epochs of the teacher alone.
    assert (alone.break_even, both.break_even) == (3, 2)
    assert "stored signals are cheaper from epoch 3 on, counted over all students" in str(plan)
    score_teacher(options(reference=None, out=str(options().out) + "-teacher"))
    again = plan_scoring(options())
    assert again.hours == {"teacher": 0.0, "reference": pytest.approx(reference)}
    assert [live.epoch_hours for live in again.live] == pytest.approx([teacher, teacher + reference])
    assert [live.break_even for live in again.live] == [2, 1]
    assert [live.break_even for live in plan_scoring(options(reference=None)).live] == [1]


@pytest.mark.parametrize(
    ("changed", "peak"),
    [({"dtype": "float32"}, 67), ({"dtype": "bfloat16"}, 989), ({"dtype": "float16"}, 989), ({}, 67)],
)
def test_a_plan_counts_with_the_peak_of_the_dtype_of_the_run(options, changed, peak):
    """The tiny models are stored in float32, which `auto` keeps."""
    plan = plan_scoring(options(card="h100-sxm", **changed))
    assert plan.hours["teacher"] == pytest.approx(plan.flops["teacher"] / (peak * 1e12 * UTILISATION) / 3600)


def test_eight_bit_floats_have_their_own_peak_where_the_card_has_them():
    assert CARDS["h100-sxm"].tflops("float8_e4m3fn") == 1979
    assert CARDS["a100-80gb"].tflops("float8_e4m3fn") == CARDS["a100-80gb"].tflops("bfloat16") == 312


@pytest.mark.parametrize(
    ("device", "card"), [("NVIDIA L40S", "l40s"), ("Some Future Thing", "h100-sxm"), (None, "h100-sxm")]
)
def test_a_plan_is_for_this_machines_card_unless_one_is_named(options, device, card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: device)
    assert plan_scoring(options()).card.name == card
    assert plan_scoring(options(card="l4")).card.name == "l4"
