"""Every metric that a run writes is explained, and numbers of a line agree with each other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import ConfigurationError
from student_training.methods import METHODS
from student_training.monitoring.glossary import GLOSSARY, HELD_OUT_PREFIX, explain_metric
from student_training.options import resolve_method
from student_training.result import TrainingResult

ROOT = Path(__file__).parents[3]

#: Settings that add a term to a method.
MORE_TERMS = {"adpa": {"initial_kl": 0.1}, "dppo-token": {"initial_kl": 0.1}}


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("normalize", ["token", "sequence"])
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "adpa" else pytest.mark.slow) for name in METHODS]
)
def test_every_metric_of_a_run_is_explained_and_the_loss_is_its_terms(
    method, normalize, scored, tmp_path, monkeypatch
):
    monkeypatch.setattr("student_training.trainer.peak_flops", lambda device: 1e9)
    changes = {
        "eval_fraction": 0.3,
        "batch_size": 3,
        "max_steps": 5,
        "logging_steps": 2,
        "normalize": normalize,
    }
    options = scored.options(method, tmp_path / "run", **changes | MORE_TERMS.get(method, {}))
    scored.train(method, tmp_path / "run", **changes | MORE_TERMS.get(method, {}))
    built, _ = resolve_method(options)
    weights = {term.name: term.weight for term in (*built.terms, *built.sequence_terms)}
    for line in lines(tmp_path / "run"):
        prefix = HELD_OUT_PREFIX if "eval_loss" in line else ""
        assert {name.removeprefix(prefix) for name in line} <= GLOSSARY.keys()
        expected = sum(weight * line[prefix + name] for name, weight in weights.items())
        # A held-out loss is added up in float32.
        assert line[f"{prefix}loss"] == pytest.approx(expected, rel=1e-5 if prefix else 1e-12, abs=1e-9)


@pytest.mark.parametrize("divergence", ["by-role", "forward", "reverse", "jsd"])
def test_every_divergence_on_rows_of_every_role_is_explained(divergence, scored):
    built, _ = resolve_method(scored.options("abd", Path("unused"), on="all", divergence=divergence))
    assert {term.name for term in built.terms} <= GLOSSARY.keys()
    assert len(built.terms) == 4  # NLL, and a divergence for each role


def test_every_entry_says_what_it_is_which_way_is_good_and_when_to_worry():
    for name, entry in GLOSSARY.items():
        assert entry.name == name
        assert entry.what
        assert entry.better
        assert entry.worry
        assert str(entry).startswith(f"{name}\n  what    ")


def test_a_metric_is_found_by_its_held_out_name_and_a_wrong_one_by_its_like():
    assert explain_metric("eval_loss/nll").what.startswith("on the held-out pairs: mean negative")
    with pytest.raises(ConfigurationError, match="'entropie'; did you mean entropy"):
        explain_metric("entropie")


def test_the_glossary_comes_without_torch():
    program = "import sys, student_training.monitoring.glossary; print('torch' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert finished.stdout == "False\n"


def result(*rows, window, saved_step=None):
    return TrainingResult.from_metrics(
        Path("out"), rows, window=window, saved_step=saved_step or rows[-1]["step"], steps=rows[-1]["step"]
    )


def test_the_closing_line_weighs_its_lines_by_their_steps():
    closing = result(
        {"step": 1, "loss": 9.0},
        {"step": 10, "loss": 2.0, "grad_norm": 5.0},
        {"step": 11, "loss": 4.0, "grad_norm": 1.0},
        window=3,
    )
    # Nine steps at 2 and the small batch at the end at 4, not half and half.
    assert closing.last["loss"] == pytest.approx((9 * 2 + 4) / 10)
    assert closing.last["grad_norm"] == 1.0, "a number of one step is not averaged"
    assert closing.last_steps == 10
    assert str(closing) == "out: 11 steps; loss 9 at step 1, 2.2 over the last 10 steps"


def test_the_closing_line_gives_held_out_numbers_first_and_last():
    rows = (
        {"step": 0, "eval_loss": 7.0},
        {"step": 1, "loss": 9.0},
        {"step": 2, "loss": 8.0},
        {"step": 2, "eval_loss": 5.0},
        {"step": 4, "loss": 6.0},
        {"step": 4, "eval_loss": 6.0},
    )
    assert str(result(*rows, window=1, saved_step=2)) == (
        "out: 4 steps; loss 9 at step 1, 6 over the last 2 steps; held-out loss 7 before training, 5 at step 2"
    )
