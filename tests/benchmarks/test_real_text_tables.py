"""The tables of the real-text benchmark: what they say of rewards over seeds, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.real_text.costs import cost_table
from benchmarks.real_text.distributions import Distributions
from benchmarks.real_text.judging import Comparison, Judged, at_entropy, pooled, win_rate
from benchmarks.real_text.tables import (
    difference_table,
    fill_page,
    matched_table,
    reward_table,
    tuning_table,
)
from benchmarks.real_text.tuning import chosen_factors, tuned
from data.signals.rollouts import Rollout


def _judged(*rewards: list[float], nll: float = 1.0, entropy: float = np.nan) -> Judged:
    return Judged(rewards=np.array(rewards), tokens=10.0, finished=1.0, nll=nll, entropy=entropy)


def _seed(student: float, trained: float) -> Comparison:
    """Two prompts with one sample; the trained model earns .1 more at the second."""
    return {
        "student": {t: _judged([student], [student]) for t in (1.0, 0.5, 0.0)},
        "DCKD": {t: _judged([trained], [trained + 0.1]) for t in (1.0, 0.5, 0.0)},
    }


def _rollout(prompt: list[int], answer: list[int]) -> Rollout:
    return Rollout(
        pair_id="a",
        sample_index=0,
        prompt_ids=np.array(prompt),
        response_ids=np.array(answer),
        response_text="",
        token_logprobs=np.zeros(len(answer)),
        finish_reason="length",
    )


def test_win_rate_of_the_benchmark_counts_every_sample_and_half_of_ties() -> None:
    # First prompt: 0.5 wins against 0.4 and ties with 0.5, 0.3 loses twice: 1.5 of 4. Second: 2 of 2 against 0.1.
    ours, theirs = _judged([0.5, 0.3], [0.2, 0.2]), _judged([0.4, 0.5], [0.1, 0.1])
    assert win_rate(ours, theirs).value == pytest.approx((1.5 / 4 + 1.0) / 2)
    assert win_rate(ours, theirs).value + win_rate(theirs, ours).value == pytest.approx(1.0)


def test_pooled_seeds_have_all_prompts_and_fewer_samples_where_a_seed_has_fewer() -> None:
    few = {"student": {t: _judged([0.2, 0.4]) for t in (1.0, 0.5, 0.0)}}
    many = {"student": {t: _judged([0.1, 0.1, 0.5, 0.9]) for t in (1.0, 0.5, 0.0)}}
    found = pooled([few, {**many, "DPO": many["student"]}])
    assert list(found) == ["student"]
    assert found["student"][1.0].per_prompt == pytest.approx([0.3, 0.4])
    assert found["student"][1.0].mean().value == pytest.approx(0.35)
    # Of two: both prompts count; of four: the second one alone.
    assert found["student"][1.0].best(2) == pytest.approx((0.4 + 0.1) / 2)
    assert found["student"][1.0].best(4) == pytest.approx(0.9)
    assert win_rate(found["student"][1.0], found["student"][1.0]).value == pytest.approx(0.5)


def test_pooled_refuses_seeds_of_different_numbers_of_prompts() -> None:
    with pytest.raises(ValueError, match="different numbers of prompts"):
        pooled([_seed(0.5, 0.5), {"student": {t: _judged([0.1]) for t in (1.0, 0.5, 0.0)}}])


def test_tables_give_the_mean_over_seeds_and_every_seed_beside_it() -> None:
    seeds = [_seed(0.4, 0.5), _seed(0.5, 0.4)]
    rewards = reward_table(seeds, baseline="student")
    assert "| DCKD    | .500 ± " in rewards
    assert " | .550 .450     | .550 .450 " in rewards
    differences = difference_table(seeds, [("DCKD", "student"), ("DCKD", "not trained")])
    assert "| DCKD − student | +.050 (" in differences
    assert "| +.150 -.050   |" in differences
    assert "not trained" not in differences


def test_at_entropy_is_between_the_temperatures_that_were_measured() -> None:
    found = {1.0: _judged([0.4], [0.6], nll=3.0), 0.5: _judged([0.8], [0.6], entropy=1.0)}
    # A quarter of the way from 1 to 3 nats.
    rewards = at_entropy(found, 1.5)
    assert rewards is not None
    assert rewards == pytest.approx([0.7, 0.6])
    assert at_entropy(found, 3.1) is None
    assert at_entropy(found, 0.9) is None


def test_matched_table_cools_the_less_sharp_of_two_models() -> None:
    sharp = {1.0: _judged([0.75], [0.75], nll=1.5), 0.5: _judged([0.9], [0.9], entropy=0.5)}
    soft = {1.0: _judged([0.4], [0.4], nll=3.0), 0.5: _judged([0.8], [0.8], entropy=1.0)}
    # The soft one earns 0.7 at 1.5 nats: of a difference of 0.35 little is left.
    table = matched_table([{"ADPA": sharp, "DCKD": soft}], [("ADPA", "DCKD"), ("ADPA", "DPO")])
    assert "| ADPA − DCKD | 1.50 " in table
    assert "| +.050 (+.050 to +.050) |" in table
    assert "DPO" not in table


def test_fill_page_replaces_what_is_between_the_markers() -> None:
    page = "Text.\n<!-- table: costs -->\nold\n<!-- end of table -->\nMore.\n"
    filled = "Text.\n<!-- table: costs -->\nnew\n<!-- end of table -->\nMore.\n"
    assert fill_page(page, {"costs": "new"}) == fill_page(filled, {"costs": "new"}) == filled
    with pytest.raises(SystemExit, match="no table 'costs'; there are wins"):
        fill_page(page, {"wins": "new"})


def test_cost_table_adds_up_the_steps_of_one_kind(tmp_path: Path) -> None:
    lines = [("train-student", "dckd", 30.0), ("train-student", "dpo", 40.4), ("score-teacher", "pairs", 9.0)]
    (tmp_path / "seconds.jsonl").write_text(
        "".join(
            json.dumps({"command": command, "out": out, "cpu_seconds": seconds}) + "\n"
            for command, out, seconds in lines
        )
    )
    (tmp_path / "signals/pairs").mkdir(parents=True)
    (tmp_path / "signals/pairs/0.parquet").write_bytes(b"x" * 1234)
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in cost_table(tmp_path).splitlines()]
    assert cells[2:] == [
        ["a method's training", "2", "70", "30 to 40", ""],
        ["signals of the pairs and the student's answers", "1", "9", "", "1,234"],
        ["in all", "3", "79", "", ""],
    ]


def test_distributions_of_a_model_give_logprob_and_entropy_at_a_temperature(chat_model: Path) -> None:
    prompt, answers = [3, 4, 5], ([6, 7], [8, 9, 10, 11])
    rows = [_rollout(prompt, ids) for ids in answers]
    network = AutoModelForCausalLM.from_pretrained(chat_model)
    logprobs, entropies = [], []
    for ids in answers:
        with torch.no_grad():
            logits = network(torch.tensor([prompt + ids])).logits[0, 2:-1]
        logprobs += logits.log_softmax(-1)[range(len(ids)), ids].tolist()
        entropies += torch.distributions.Categorical(logits=logits / 0.5).entropy().tolist()
    found = Distributions(chat_model)
    # Float32, one row alone against a padded batch.
    assert found.mean_logprob(rows) == pytest.approx(np.mean(logprobs), rel=1e-5)
    assert found.mean_entropy(rows, 0.5) == pytest.approx(np.mean(entropies), rel=1e-5)


def test_a_rate_is_chosen_on_other_seeds_than_it_is_judged_on() -> None:
    by_rate = {"SFT on chosen": 0.5, "SFT on chosen, rate × 0.3": 0.4, "SFT on chosen, rate × 3": 0.6}
    usual = {name: {t: _judged([value]) for t in (1.0, 0.5, 0.0)} for name, value in by_rate.items()}
    # The high rate breaks this one: the others' choice knows it, its own must not.
    odd = {**usual, "SFT on chosen, rate × 3": {t: _judged([0.1]) for t in (1.0, 0.5, 0.0)}}
    seeds = [usual, usual, odd]
    assert chosen_factors(seeds, "SFT on chosen") == (1.0, 1.0, 3.0)
    assert [found["SFT on chosen"][1.0].mean().value for found in tuned(seeds)] == [0.5, 0.5, 0.1]
    table = tuning_table(seeds)
    assert "| SFT on chosen | .400 " in table
    assert "| 1 1 3 " in table
    assert "hybrid" not in table


def test_one_seed_alone_leaves_none_to_choose_a_rate_on() -> None:
    seed = {name: {t: _judged([0.5]) for t in (1.0, 0.5, 0.0)} for name in ("DPO", "DPO, rate × 3")}
    assert tuned([seed]) == [{}]
    assert "DPO" not in tuning_table([seed])
