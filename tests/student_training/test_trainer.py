"""What a run writes, what stops it, and what never changes its numbers."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.errors import ConfigurationError, TrainingError
from data.signals.dataset import SignalDataset
from data.storage.transfer import push_dataset
from student_training.batching.transport import Batch
from student_training.checkpoints.checkpoints import last_whole_checkpoint
from student_training.methods import METHODS, Method, MethodSpec, Needs, Term
from student_training.run import train_student
from student_training.trainer import StudentTrainer


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out):
    return load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def finished(scored, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "dckd"
    scored.train("dckd", out)
    return out


def test_the_checkpoint_loads_with_transformers_and_has_moved(finished, scored):
    model = AutoModelForCausalLM.from_pretrained(finished)
    assert AutoTokenizer.from_pretrained(finished).eos_token == "</s>"
    before = AutoModelForCausalLM.from_pretrained(scored.student)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    assert {path.name for path in finished.iterdir()} >= {
        "run.toml",
        "metrics.jsonl",
        "config.json",
        "checkpoints",
    }


def test_metrics_hold_every_promised_key_at_every_step(finished):
    keys = {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "loss/nll",
            "loss/kl_chosen", "loss/kl_rejected", "advantage_coverage", "entropy"}  # fmt: skip
    assert [line["step"] for line in lines(finished)] == [1, 2]
    for line in lines(finished):
        assert keys <= set(line)
        expected = line["loss/nll"] + 5 * (line["loss/kl_chosen"] + line["loss/kl_rejected"])
        assert line["loss"] == pytest.approx(expected, rel=1e-5)  # both are float32 sums


def test_running_a_finished_run_again_does_nothing(finished, scored, caplog):
    caplog.set_level("INFO", "student_training")
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    result = train_student(scored.options("dckd", finished))
    assert result.already_finished
    assert caplog.messages[-1] == f"{finished} holds this run already, finished; nothing to do"
    assert str(result).startswith(f"{finished}: 2 steps; loss ")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_another_run_is_refused_in_the_same_folder_and_the_field_named(finished, scored):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(
        TrainingError, match=r"holds another run: options\.learning_rate is \S+ there, 0\.5 here; choose"
    ):
        scored.train("dckd", finished, learning_rate=0.5)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_accumulated_gradients_equal_one_big_batch(scored, finished, tmp_path):
    scored.train("dckd", tmp_path / "split", batch_size=1, gradient_accumulation=4)
    for whole, split in zip(lines(finished), lines(tmp_path / "split"), strict=True):
        assert split["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert split["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)
    other = weights(tmp_path / "split")
    for name, value in weights(finished).items():
        # Adam divides by a gradient's own size: where that is near 0, rounding decides the sign of a whole
        # step of 1e-3. So most weights agree to rounding, and none is off by more than its two steps.
        assert (other[name] - value).abs().max() <= 4.1e-3, name
        assert (other[name] - value).abs().median() < 1e-6, name


@pytest.mark.slow
def test_reading_ahead_in_another_process_changes_no_number(scored, finished, tmp_path):
    scored.train("dckd", tmp_path / "ahead", loader_workers=1)
    assert weights(tmp_path / "ahead").keys() == weights(finished).keys()
    for name, value in weights(finished).items():
        assert torch.equal(weights(tmp_path / "ahead")[name], value)


@pytest.fixture
def student_of_another_end(scored, tmp_path):
    """A student whose configuration names an end token that its tokenizer's is not, and a tokenizer without padding."""
    folder = tmp_path / "student"
    model = AutoModelForCausalLM.from_pretrained(scored.student)
    model.config.eos_token_id = model.generation_config.eos_token_id = 7
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(scored.student)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_trained_student_stops_where_its_tokenizer_ends(scored, student_of_another_end, tmp_path, capfd):
    out = tmp_path / "run"
    scored.train("sft", out, student=str(student_of_another_end), max_steps=1)
    end = AutoTokenizer.from_pretrained(out).eos_token_id
    model = AutoModelForCausalLM.from_pretrained(out)
    assert end != 7
    assert model.generation_config.eos_token_id == model.config.eos_token_id == [end, 7]
    assert model.config.pad_token_id is None
    assert AutoTokenizer.from_pretrained(out).pad_token is None
    assert "PAD/BOS/EOS" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_a_trained_student_stops_at_the_end_of_a_turn(scored, student_of_another_end, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(student_of_another_end)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content + ' ' }}"
        "{% if m.role == 'assistant' %}<|assistant|>{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(student_of_another_end)
    out = tmp_path / "run"
    scored.train("sft", out, student=str(student_of_another_end), data=str(scored.pairs), max_steps=1)
    turn, sequence = tokenizer.convert_tokens_to_ids("<|assistant|>"), tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_pretrained(out)
    assert turn != sequence
    assert model.generation_config.eos_token_id == model.config.eos_token_id == [turn, sequence, 7]


@pytest.mark.slow
def test_adapters_are_merged_into_the_saved_student(scored, tmp_path):
    scored.train("dckd", tmp_path / "run", lora_rank=2)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert not [name for name in weights(tmp_path / "run") if "lora" in name]
    checkpoint = last_whole_checkpoint(tmp_path / "run" / "checkpoints")
    base = AutoModelForCausalLM.from_pretrained(scored.student)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        untrained = base(ids).logits
        adapted = PeftModel.from_pretrained(base, checkpoint)(ids).logits
        torch.testing.assert_close(
            merged(ids).logits, adapted, rtol=1e-4, atol=1e-4
        )  # float32 sums in another order
        assert (adapted - untrained).abs().max() > 1e-3


@pytest.mark.slow
def test_adapters_learn_the_same_when_activations_are_recomputed(scored, tmp_path):
    changes = {"lora_rank": 2, "lora_targets": ("q_proj", "up_proj")}
    scored.train("dckd", tmp_path / "kept", **changes)
    scored.train("dckd", tmp_path / "recomputed", gradient_checkpointing=True, **changes)
    for one, other in zip(lines(tmp_path / "kept"), lines(tmp_path / "recomputed"), strict=True):
        assert one["grad_norm"] > 0
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    base, trained = weights(scored.student), weights(tmp_path / "recomputed")
    changed = {name.split(".")[-2] for name in base if not torch.equal(base[name], trained[name])}
    assert changed == {"q_proj", "up_proj"}


def test_a_student_that_cannot_recompute_activations_is_refused_by_the_option(scored, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.LlamaForCausalLM.supports_gradient_checkpointing", False)
    with pytest.raises(ConfigurationError, match="LlamaForCausalLM cannot compute its activations"):
        scored.train("sft", tmp_path / "run", gradient_checkpointing=True)
    assert not (tmp_path / "run").exists()


def test_signals_reach_the_device_unrounded_under_deepspeed_too():
    trainer = object.__new__(StudentTrainer)
    trainer.args = SimpleNamespace(device=torch.device("cpu"))
    trainer.is_deepspeed_enabled = True
    dtypes = SimpleNamespace(dtype=lambda: torch.bfloat16)
    plugin = SimpleNamespace(hf_ds_config=dtypes)
    trainer.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    batch = Batch({"teacher_logprobs": torch.full((3,), -5.01), "labels": torch.arange(3)})
    for name, value in trainer._prepare_input(batch).items():
        assert torch.equal(value, batch[name])
        assert value.dtype is batch[name].dtype


def broken_method(fail, from_step):
    """Supervised training that goes wrong from the given step on, in its value or only in its gradient."""
    steps = []

    def values(positions, student):
        if student.token.requires_grad:
            steps.append(1)
        broken = student.token * float("nan") if fail == "loss" else (student.token * 0).sqrt()
        return -student.token + (broken if len(steps) >= from_step else 0)

    def build(settings):
        return Method(
            "broken", Needs(roles=frozenset({"chosen"})), terms=(Term("loss/x", "chosen", 1.0, values),)
        )

    return MethodSpec(name="broken", summary="", build=build)


@pytest.mark.slow
@pytest.mark.parametrize("fail", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_optimizer_moves(fail, scored, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "broken", broken_method(fail, from_step=4))
    # The batch that is tried out before training counts as one.
    with pytest.raises(TrainingError, match=rf"step 3: the {fail}.* is nan, on pairs ") as raised:
        scored.train("broken", tmp_path / "run", batch_size=5, max_steps=5, save_steps=1)
    named = str(raised.value).split("on pairs ")[1].split("; ")[0].split(", ")
    known = set(SignalDataset.open(scored.full).pair_ids)
    assert len(named) == 5
    assert set(named) <= known
    checkpoint = last_whole_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-2"
    assert all(value.isfinite().all() for value in weights(checkpoint).values())
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_the_best_checkpoint_on_held_out_pairs_is_the_one_that_is_saved(scored, tmp_path):
    out = tmp_path / "run"
    # A learning rate that is far too high: the held-out loss is best early and patience runs out.
    scored.train(
        "dckd", out, max_steps=12, save_steps=1, learning_rate=0.5, eval_fraction=0.3, early_stopping=1
    )
    evaluations = [line for line in lines(out) if "eval_loss" in line]
    terms = {"eval_loss/nll", "eval_loss/kl_chosen", "eval_loss/kl_rejected", "eval_entropy"}
    assert all(terms <= set(line) for line in evaluations)
    for line in evaluations:
        parts = line["eval_loss/nll"] + 5 * (line["eval_loss/kl_chosen"] + line["eval_loss/kl_rejected"])
        assert line["eval_loss"] == pytest.approx(parts, rel=1e-5)
    assert len(evaluations) < 12, "it did not stop early"
    best = min(evaluations, key=lambda line: line["eval_loss"])["step"]
    saved, kept = weights(out), weights(out / "checkpoints" / f"checkpoint-{best}")
    assert all(torch.equal(saved[name], kept[name]) for name in saved)


@pytest.mark.slow
def test_datasets_mix_by_weight_and_batches_may_be_grouped_by_length(scored, tmp_path):
    signals, weight = (str(scored.full), str(scored.pairs_only)), (1.0, 0.5)
    changes = {"max_steps": None, "batch_size": 5, "group_by_length": True}
    result = scored.train("dckd", tmp_path / "run", signals=signals, signal_weight=weight, **changes)
    assert result.steps == 3  # 10 pairs of one and 5 of the other, in batches of 5
    assert "signal_weight = [\n    1.0,\n    0.5,\n]" in (tmp_path / "run" / "run.toml").read_text()


def test_held_out_pairs_never_enter_training(scored):
    from student_training.inputs.inputs import open_inputs
    from student_training.run import resolve_method

    options = scored.options("dckd", scored.full / "unused", eval_fraction=0.3)
    method, _ = resolve_method(options)
    tokenizer = AutoTokenizer.from_pretrained(scored.student)
    inputs = open_inputs(options, method.needs, tokenizer)
    training = {index for blocks in inputs.train_blocks for block in blocks for index in block.tolist()}
    assert not training & set(inputs.eval_indices.tolist())
    assert training | set(inputs.eval_indices.tolist()) == set(range(10))


@pytest.mark.slow
def test_another_dataset_may_be_what_a_run_is_evaluated_on(scored, tmp_path, caplog):
    caplog.set_level("INFO", "student_training")
    changes = {"signals": (str(scored.pairs_only),), "eval_signals": (str(scored.full),), "save_steps": 1}
    out = tmp_path / "run"
    train_student(scored.options("dckd", out, learning_rate=0.0, **changes))
    assert "10 pairs are for evaluation" in caplog.messages
    assert any(
        line.startswith("10 of the pairs for evaluation are trained on too") for line in caplog.messages
    )
    # The same pairs under the same teacher, with weights that stand still: all of them at once.
    scored.train("dckd", tmp_path / "once", learning_rate=0.0, batch_size=10, max_steps=1)
    evaluations = [line for line in lines(out) if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [0, 1, 2]
    for line in evaluations:
        assert line["eval_loss"] == pytest.approx(lines(tmp_path / "once")[0]["loss"], rel=1e-5)
    assert "eval_signals = [" in (out / "run.toml").read_text()


def test_a_moved_signal_dataset_is_still_the_same_run(scored, finished, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(scored.full, moved)
    assert train_student(scored.options("dckd", finished, signals=(str(moved),))).already_finished


@pytest.mark.slow
def test_training_from_an_address_equals_training_from_the_folder(finished, scored, tmp_path):
    address = "memory://bucket/signals"
    push_dataset(scored.full, address)
    scored.train("dckd", tmp_path / "out", signals=(address,))
    for name, weight in weights(tmp_path / "out").items():
        torch.testing.assert_close(weight, weights(finished)[name], rtol=0, atol=0)
