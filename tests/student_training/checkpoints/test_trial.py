"""A run that could not be saved or take a step never starts and leaves nothing; students of every kind train."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Mamba2Config,
    Mamba2ForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from data.errors import ConfigurationError, TrainingError
from student_training.checkpoints.checkpoints import last_whole_checkpoint
from student_training.checkpoints.trial import check_saving
from student_training.run import train_student

pytestmark = pytest.mark.slow


@pytest.fixture
def student(scored, tmp_path):
    """A copy of the student to spoil."""
    return shutil.copytree(scored.student, tmp_path / "student")


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_sampling_values_without_do_sample_are_repaired_and_said(scored, student, tmp_path, caplog):
    edit(student / "generation_config.json", temperature=0.9, top_p=0.6)
    scored.train("dckd", tmp_path / "run", student=str(student))
    assert "sets sampling values without do_sample" in caplog.text
    saved = json.loads((tmp_path / "run" / "generation_config.json").read_text())
    assert (saved["do_sample"], saved["temperature"], saved["top_p"]) == (True, 0.9, 0.6)


@pytest.mark.parametrize(
    "values",
    [
        {"early_stopping": True},  # of a search with one beam
        {"num_return_sequences": 2},  # of a greedy search; transformers does not even load it
        {"cache_implementation": "nonsense"},
        {"pad_token_id": -1},
    ],
)
def test_a_generation_config_that_stays_invalid_is_refused_by_name(values, scored, student, tmp_path):
    edit(student / "generation_config.json", **values)
    with pytest.raises(
        ConfigurationError, match=r"generation_config\.json is invalid and could not be saved .*; correct or"
    ):
        scored.train("dckd", tmp_path / "run", student=str(student))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("token_id", [128, -1])
def test_a_padding_id_without_an_embedding_in_config_json_is_left_out(token_id, scored, student, tmp_path):
    """At -1 the last token's embedding would never be trained, at 128 the embedding could not be made."""
    edit(student / "config.json", pad_token_id=token_id)
    run = scored.train("dckd", tmp_path / "run", student=str(student))
    assert run.steps > 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert saved.config.pad_token_id is None
    assert saved.get_input_embeddings().padding_idx is None


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}])
def test_an_adapter_folder_as_student_is_refused_with_how_to_merge_it(changes, scored, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(scored.student)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(scored.student).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigurationError, match=r"adapter is a LoRA adapter .*merge_and_unload"):
        scored.train("dckd", tmp_path / "run", student=str(tmp_path / "adapter"), **changes)
    assert not (tmp_path / "run").exists()


def test_a_padding_token_that_the_embedding_lacks_does_not_matter(scored, student, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens([f"x{number}" for number in range(40)])
    # The embedding has 128 rows; the tokenizer now has more tokens than that.
    assert len(tokenizer) > 128
    tokenizer.pad_token = "x39"
    assert tokenizer.pad_token_id >= 128
    tokenizer.save_pretrained(student)
    for place, path in (("outside", student), ("inside", scored.student)):
        scored.train("sft", tmp_path / place, student=str(path), data=str(scored.pairs))
    assert (tmp_path / "outside" / "model.safetensors").read_bytes() == (
        tmp_path / "inside" / "model.safetensors"
    ).read_bytes()


def test_a_student_whose_configuration_has_no_padding_field_trains(scored, tmp_path):
    torch.manual_seed(0)
    config = RwkvConfig(
        vocab_size=128, hidden_size=16, attention_hidden_size=16, num_hidden_layers=2, eos_token_id=2
    )
    assert not hasattr(config, "pad_token_id")
    RwkvForCausalLM(config).save_pretrained(tmp_path / "rwkv")
    AutoTokenizer.from_pretrained(scored.student).save_pretrained(tmp_path / "rwkv")
    assert scored.train("sft", tmp_path / "run", student=str(tmp_path / "rwkv"), max_steps=1).steps == 1


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_student_without_attention_trains(method, scored, tmp_path):
    torch.manual_seed(0)
    config = Mamba2Config(vocab_size=128, hidden_size=32, num_hidden_layers=1, state_size=8, num_heads=8, head_dim=8,
                          n_groups=1, chunk_size=16, bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    Mamba2ForCausalLM(config).save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(scored.student).save_pretrained(tmp_path / "student")
    result = scored.train(
        method, tmp_path / "run", student=str(tmp_path / "student"), data=str(scored.pairs), max_steps=4
    )
    assert result.last["loss"] < result.first["loss"]
    assert result.last["tflops"] > 0


class Unsavable(torch.nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def save_pretrained(self, folder):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("a field that cannot be written"), RuntimeError()])
def test_a_student_that_cannot_be_saved_is_refused_before_training(error, scored, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(scored.student)
    with pytest.raises(
        TrainingError, match=r"could not be saved there, so nothing was trained \((Value|Runtime)"
    ):
        check_saving(Unsavable(error), tokenizer, tmp_path / "run", trust_remote_code=False)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_too_small_is_refused_with_what_is_needed(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "student_training.checkpoints.trial.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0)
    )
    with pytest.raises(TrainingError, match=r"GB are free there, a checkpoint and the trained student need"):
        scored.train("dckd", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_trial_changes_no_number_of_the_run(scored, student_with_dropout, tmp_path, monkeypatch):
    changes = {"student": str(student_with_dropout), "threads": 1}
    scored.train("dckd", tmp_path / "tried", **changes)
    monkeypatch.setattr("student_training.run.check_saving", lambda *arguments, **named: None)
    monkeypatch.setattr("student_training.trainer.StudentTrainer.try_batch", lambda self: None)
    scored.train("dckd", tmp_path / "untried", **changes)
    assert (tmp_path / "tried" / "model.safetensors").read_bytes() == (
        tmp_path / "untried" / "model.safetensors"
    ).read_bytes()
    assert not list((tmp_path / "tried").glob(".*"))


def test_weights_that_leave_nothing_to_train_on_are_refused(scored, tmp_path):
    with pytest.raises(ConfigurationError, match="leave no pair to train on in an epoch"):
        scored.train("dckd", tmp_path / "run", signal_weight=(0.01,))
    assert not (tmp_path / "run").exists()


def test_the_adapter_is_kept_beside_the_merged_weights_when_asked(scored, tmp_path):
    scored.train("dckd", tmp_path / "run", lora_rank=2, keep_adapter=True, learning_rate=1e-2)
    base = AutoModelForCausalLM.from_pretrained(scored.student)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    before = AutoModelForCausalLM.from_pretrained(scored.student).state_dict()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(adapted.state_dict()[name], value)
    assert any(not torch.equal(before[name], value) for name, value in merged.state_dict().items())
    with pytest.raises(ConfigurationError, match="--keep-adapter: there is no adapter without --lora-rank"):
        scored.options("dckd", tmp_path / "other", keep_adapter=True)


def test_the_model_card_says_what_was_trained_how_and_with_what_result(scored, tmp_path):
    scored.train("abd", tmp_path / "run", boost=0.5, eval_fraction=0.3)
    card = (tmp_path / "run" / "README.md").read_text()
    for part in ("- adpa\n- abd\n", "| `boost` | 0.5 |", "teacher `teacher`, reference `reference`", "| `eval_loss` |",
                 "*fill in*", '--exclude "checkpoints/*"'):  # fmt: skip
        assert part in card
    assert str(tmp_path) not in card
    # One's own text stays, also when the run is extended; an untouched card is written anew.
    (tmp_path / "run" / "README.md").write_text("mine")
    scored.train("abd", tmp_path / "run", boost=0.5, eval_fraction=0.3, max_steps=3)
    assert (tmp_path / "run" / "README.md").read_text() == "mine"


def test_a_run_that_cannot_take_a_step_stops_before_the_first(scored, tmp_path, monkeypatch):
    from student_training.student import StudentWithObjective

    forward = StudentWithObjective.forward
    monkeypatch.setattr(
        StudentWithObjective,
        "forward",
        lambda self, *args, **named: {**forward(self, *args, **named), "loss": torch.tensor(float("nan"))},
    )
    with pytest.raises(TrainingError, match="step 1: the loss is nan, on pairs"):
        train_student(scored.options("dckd", tmp_path / "run"))
    assert last_whole_checkpoint(tmp_path / "run" / "checkpoints") is None
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free some space or choose another --out"),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "free some space or choose another --out",
        ),
        (ValueError("this cannot be saved"), "correct its checkpoint, or take another student"),
    ],
)
def test_a_trial_on_a_full_disk_does_not_blame_the_student(error, advice, tmp_path):
    def save_pretrained(folder):
        raise error

    student = SimpleNamespace(save_pretrained=save_pretrained)
    with pytest.raises(TrainingError, match=f"nothing was trained .*; {advice}$"):
        check_saving(student, None, tmp_path / "run", trust_remote_code=False)
    assert not (tmp_path / "run").exists()
