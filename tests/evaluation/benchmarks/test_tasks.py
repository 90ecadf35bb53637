import pytest

from data.errors import ConfigurationError
from evaluation.benchmarks.harness import TaskFigures
from evaluation.benchmarks.options import BenchmarkOptions
from evaluation.benchmarks.run import _difference, benchmark_table
from evaluation.benchmarks.tasks import LEADERBOARD, Benchmark, main_metric, parse_benchmarks


def test_benchmarks_are_the_leaderboard_with_its_shots_and_figures_by_default():
    assert parse_benchmarks(()) == LEADERBOARD
    assert {benchmark.task: (benchmark.num_shots, benchmark.metric) for benchmark in LEADERBOARD} == {
        "arc_challenge": (25, "acc_norm,none"),
        "hellaswag": (10, "acc_norm,none"),
        "mmlu": (5, "acc,none"),
        "truthfulqa_mc2": (0, "acc,none"),
        "winogrande": (5, "acc,none"),
        "gsm8k": (5, "exact_match,strict-match"),
        "ifeval": (0, "prompt_level_strict_acc,none"),
    }


def test_benchmarks_take_the_leaderboards_shots_unless_others_are_given():
    assert parse_benchmarks(("arc_challenge", "gsm8k:0", "mine", "other:3")) == (
        Benchmark(task="arc_challenge", num_shots=25, metric="acc_norm,none"),
        Benchmark(task="gsm8k", num_shots=0, metric="exact_match,strict-match"),
        Benchmark(task="mine"),
        Benchmark(task="other", num_shots=3),
    )


@pytest.mark.parametrize("texts", [("arc:many",), (":5",), ("arc:",), ("a", "a:3")])
def test_benchmarks_refuse_what_is_no_task(texts):
    with pytest.raises(ConfigurationError, match="--task"):
        parse_benchmarks(texts)


def test_main_metric_prefers_the_wanted_one_and_else_the_usual_ones():
    assert main_metric({"acc,none": 0.1, "acc_norm,none": 0.2}, "acc,none") == "acc,none"
    assert main_metric({"acc,none": 0.1, "acc_norm,none": 0.2}, None) == "acc_norm,none"
    assert main_metric({"exact_match,flexible-extract": 0.1, "exact_match,strict-match": 0.2}, None) == (
        "exact_match,strict-match"
    )
    assert main_metric({"bleu,none": 3.0}, "acc,none") == "bleu,none"
    assert main_metric({}, None) is None


@pytest.mark.parametrize("size", ["0", "many"])
def test_benchmark_options_refuse_a_batch_size_that_is_none(size):
    with pytest.raises(ConfigurationError, match="--batch-size"):
        BenchmarkOptions(model=("m",), out="out", batch_size=size)


def figures(values: dict[str, float], *, questions: bool = True) -> TaskFigures:
    mean = sum(values.values()) / len(values)
    return TaskFigures(
        task="t",
        metric="acc,none",
        value=mean,
        standard_error=0.05,
        higher_is_better=True,
        metrics={"acc,none": mean},
        standard_errors={"acc,none": 0.05},
        num_questions=len(values),
        num_shots={"t": 2},
        versions={"t": 1.0},
        questions={"t": values} if questions else {},
    )


def test_benchmark_differences_are_paired_over_questions():
    before = figures({str(n): float(n % 2) for n in range(40)})
    after = figures({str(n): float(n % 2 or n == 0) for n in range(40)})
    difference = _difference("after", after, before, 0)
    assert difference.difference == pytest.approx(1 / 40)
    assert difference.num_questions == 40
    assert difference.interval is not None
    # One question of forty has changed; unpaired, the interval would be 0.4 wide.
    assert difference.interval.low >= -1e-12
    assert difference.interval.high < 0.12
    table = benchmark_table({"after": [after], "before": [before]}, [difference], "before")
    assert "+2.50 (+0.00 to" in table
    assert "52.50 ± 5.00" in table


def test_benchmark_differences_have_no_interval_without_questions():
    values = {"0": 1.0, "1": 0.0}
    difference = _difference("a", figures(values, questions=False), figures(values), 0)
    assert (difference.interval, difference.difference) == (None, 0)
