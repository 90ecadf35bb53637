"""What a run tells people and trackers while it goes on."""

import json
import re
import threading

import pytest
from transformers import TrainingArguments

from data.errors import ConfigurationError
from student_training.arguments import training_arguments
from student_training.run import train_student

TERMS = ("loss/nll", "loss/kl_chosen", "loss/kl_rejected", "entropy", "advantage_coverage")


def scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]
    }


def test_every_term_of_every_line_arrives_in_tensorboard(scored, tmp_path):
    out = tmp_path / "run"
    scored.train("dckd", out, report_to=("tensorboard",), eval_fraction=0.3, save_steps=1)
    seen = scalars(out / "tensorboard")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        prefix = "eval" if "eval_loss" in line else "train"
        for name in ("loss", *TERMS):
            value = line[f"eval_{name}" if prefix == "eval" else name]
            assert seen[f"{prefix}/{name}"][line["step"]] == pytest.approx(value, rel=1e-6)
    assert len(lines) == 5, "two steps, each with an evaluation, and one before"
    assert "train/tokens_per_second" in seen


def test_a_tracker_that_is_not_installed_is_named(scored, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="the package wandb is not installed; pip install wandb"):
        scored.train("dckd", tmp_path / "run", report_to=("wandb",))
    assert not (tmp_path / "run").exists()


def test_the_bar_on_a_terminal_shows_loss_and_speed(scored, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("student_training.trainer.peak_flops", lambda device: 1e9)
    caplog.set_level("INFO", "student_training")
    scored.train("dckd", tmp_path / "run", eval_fraction=0.3)
    shown = capsys.readouterr().err
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-2])
    assert (
        f"loss {last['loss']:.4g}, {last['tokens_per_second']:,.0f} tokens/s, {last['tflops']:.3g} TFLOP/s"
        in shown
    )
    assert f", {last['model_flops_utilisation']:.0%} of peak" in shown
    assert "step 2: eval_loss" in caplog.text
    assert "2/2" in shown


def test_without_a_terminal_lines_say_as_much(scored, tmp_path, caplog):
    caplog.set_level("INFO", "student_training")
    options = scored.options("dckd", tmp_path / "run", eval_fraction=0.3)
    train_student(options)
    steps = [line for line in caplog.messages if line.startswith("step ")]
    assert steps[-2].startswith("step 2/2: loss ")
    assert "tokens/s" in steps[-2]
    assert "TFLOP/s" in steps[-2]
    assert steps[-1].startswith("step 2: eval_loss")


def test_several_gpus_without_a_launcher_are_not_taken_by_splitting_tensors(scored, tmp_path, monkeypatch):
    prepare = TrainingArguments.__post_init__

    def on_four_gpus(self):
        prepare(self)
        self._n_gpu = 4

    monkeypatch.setattr(TrainingArguments, "__post_init__", on_four_gpus)
    arguments = training_arguments(scored.options("dckd", tmp_path / "run"), evaluate=False)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == arguments.per_device_train_batch_size


def test_without_a_terminal_no_long_step_passes_in_silence(scored, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("data.progress.EVERY_S", 0.001)
    caplog.set_level("INFO", "data.progress")
    scored.train("dpo", tmp_path / "run", max_steps=3)
    counted = [line for line in caplog.messages if line.startswith("train: ")]
    assert counted
    assert all(re.match(r"train: \d of 3 steps \(\d+%\), ", line) for line in counted)
    threads = {thread.name for thread in threading.enumerate()}
    assert "progress" not in threads
