"""The map: the order of its jobs, its figures worked by hand, and its smallest cell from end to end."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.map.__main__ import MapMaker
from benchmarks.map.figures import collect, paired_difference, pooled_difference, prompt_rewards
from benchmarks.map.plan.methods import MAP_RATE, METHODS, TUNED, Job, at_rate, rates_of
from benchmarks.map.plan.order import jobs_in_order
from benchmarks.map.plan.sizes import FAST, TEACHERS
from benchmarks.map.results import Results
from benchmarks.map.tables import write_tables
from benchmarks.map.tuning import best_rate

ABOUT = {"kind": "model", "world": "menus", "seed": 0, "teacher": "weak", "chosen": "poor", "method": "abd"}


def measured(*rewards_by_temperature: list[float]) -> dict:
    names = ("1", "0.75", "0.5", "0.25", "0")
    return {"rewards": dict(zip(names, rewards_by_temperature, strict=True)), "matched_rewards": [0.0] * 4}


def test_jobs_come_once_and_the_corners_of_both_worlds_first():
    jobs = list(jobs_in_order(fast=False, best_rate=lambda world, method: rates_of(method)[0]))
    assert len(jobs) == len(set(jobs))
    rest = next(job for job in jobs if job.teacher == "overtrained")
    first = jobs[: jobs.index(rest)]
    corners = {(job.world, job.teacher, job.chosen) for job in first if METHODS[job.method].needs_teacher}
    assert corners == {
        (world, teacher, chosen)
        for world in ("topics", "menus")
        for teacher in ("weak", "strong")
        for chosen in ("poor", "excellent")
    }
    assert {job.teacher for job in jobs if METHODS[job.method].needs_teacher} == set(TEACHERS)


def test_tuned_methods_run_on_other_seeds_at_the_rate_that_was_best():
    places = {"topics": 0, "menus": -1}
    jobs = list(jobs_in_order(fast=False, best_rate=lambda world, method: rates_of(method)[places[world]]))
    for world, place in places.items():
        others = {
            job.method for job in jobs if job.seed in (1, 2) and job.world == world and ", rate" in job.method
        }
        assert others == {at_rate(name, rates_of(name)[place]) for name in TUNED}


def test_best_rate_is_the_highest_mean_over_cells_of_the_tuning_seed():
    def line(chosen, method, seed, reward):
        about = {**ABOUT, "chosen": chosen, "method": method, "seed": seed}
        return {**about, "found": measured(*[[reward] * 4] * 5)}

    lines = [
        line(chosen, at_rate("dckd", rate), seed, reward)
        for chosen, rewards in (("poor", (0.5, 0.4, 0.3, 0.1)), ("excellent", (0.1, 0.3, 0.2, 0.1)))
        for rate, reward in zip(rates_of("dckd"), rewards, strict=True)
        for seed, reward in ((0, reward), (1, 1 - reward))
    ]
    # Means on seed 0: 0.3, 0.35, 0.25, 0.1. Other seeds do not count, nor do methods without all rates.
    assert best_rate(lines, "menus", "dckd") == MAP_RATE
    assert best_rate(lines[:2], "menus", "dckd") == MAP_RATE
    better = [line("poor", at_rate("dckd", 0.002), 0, 0.7)]
    assert best_rate([*lines, *better], "menus", "dckd") == 0.002


def test_best_temperature_is_chosen_on_the_other_half_of_the_prompts():
    # Even prompts earn most at 0.5, odd ones at 0.25: each half has the other's temperature.
    found = measured([0.1] * 4, [0.1] * 4, [0.9, 0.0, 0.9, 0.0], [0.2, 0.6, 0.2, 0.6], [0.1] * 4)
    assert prompt_rewards(found, "best").tolist() == [0.2, 0.0, 0.2, 0.0]


def test_paired_difference_takes_its_interval_from_seeds():
    ours = {seed: measured([0.5 + step] * 4, *[[0.0] * 4] * 4) for seed, step in enumerate((0.1, 0.2, 0.3))}
    theirs = {seed: measured([0.5] * 4, *[[0.0] * 4] * 4) for seed in (0, 1, 2, 3)}
    found = paired_difference(ours, theirs, "sampled")
    assert found is not None
    assert (found.num_seeds, found.num_positive) == (3, 3)
    assert found.mean == pytest.approx(0.2)
    assert found.half_width == pytest.approx(4.303 * 0.1 / np.sqrt(3))
    assert paired_difference(ours, {}, "sampled") is None
    # Two worlds of three seeds each: six differences, five degrees of freedom.
    both = pooled_difference([(ours, theirs), (ours, theirs)], "sampled")
    assert both is not None
    assert (both.num_seeds, both.num_positive) == (6, 6)
    assert both.half_width == pytest.approx(2.571 * np.std([0.1, 0.2, 0.3] * 2, ddof=1) / np.sqrt(6))


def test_methods_without_a_teacher_are_in_the_cell_of_every_teacher():
    sft = {**ABOUT, "teacher": "none", "method": "sft", "found": {"x": 1}}
    weak = {**ABOUT, "found": {"x": 2}}
    assert collect([sft, weak]) == {("menus", "weak", "poor"): {"sft": {0: {"x": 1}}, "abd": {0: {"x": 2}}}}


def test_results_pass_over_a_line_that_was_cut(tmp_path):
    path = tmp_path / "results.jsonl"
    Results(path).add(ABOUT, {"x": 1})
    path.write_text(path.read_text() + '{"kind": "mod')
    again = Results(path)
    again.add({**ABOUT, "seed": 1}, {"x": 2})
    assert [line["found"]["x"] for line in Results(path)] == [1, 2]
    assert {**ABOUT, "seed": 1} in Results(path)
    assert {**ABOUT, "seed": 2} not in Results(path)


@pytest.mark.slow
def test_the_smallest_cell_gives_a_table_and_is_not_made_twice(tmp_path):
    plan = dataclasses.replace(
        FAST,
        num_conversations=200,
        num_pairs=48,
        teacher_share=0.02,
        reference_steps=3,
        student_sft_steps=3,
        student_steps=3,
        num_prompts=24,
        num_measured_pairs=8,
        teacher_width=16,
    )
    jobs = [
        Job("menus", 0, "weak" if METHODS[method].needs_teacher else "none", "excellent", method)
        for method in ("sft", "dckd", "adpa, gamma 1", "adpa+, gamma 1")
    ]
    maker = MapMaker(tmp_path, plan)
    for job in jobs:
        maker.do(job)
    before = (tmp_path / "results.jsonl").read_bytes()
    again = MapMaker(tmp_path, plan)
    for job in jobs:
        again.do(job)
    assert (tmp_path / "results.jsonl").read_bytes() == before

    table = write_tables(again.results, tmp_path / "tables").read_text()
    cell = next(line for line in table.splitlines() if line.startswith("| menus | weak | excellent | 1 |"))
    means = [text.strip("* ") for text in cell.split("|")[5:-1]]
    assert len(means) == len(jobs)
    assert all(0 <= float(mean) <= 1 for mean in means)
    assert "**" in cell
    signals = [json.loads(line) for line in before.decode().splitlines() if '"signals"' in line]
    assert 0 <= signals[0]["found"]["ranking_accuracy"] <= 1
