"""Which benchmarks, with how many examples in the prompt, and which of their figures counts.

The default is the set of the first Open LLM Leaderboard with its numbers of examples and figures, and IFEval. Its
group `openllm` in the harness is not used: that also runs TruthfulQA's generation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One task or group of tasks.

    Attributes:
        task: the harness's name.
        num_shots: examples in the prompt; None takes the task's own.
        metric: the figure that counts, as `METRIC,FILTER`; None picks one, see `main_metric`.
    """

    task: str
    num_shots: int | None = None
    metric: str | None = None


LEADERBOARD = (
    Benchmark(task="arc_challenge", num_shots=25, metric="acc_norm,none"),
    Benchmark(task="hellaswag", num_shots=10, metric="acc_norm,none"),
    Benchmark(task="mmlu", num_shots=5, metric="acc,none"),
    Benchmark(task="truthfulqa_mc2", num_shots=0, metric="acc,none"),
    Benchmark(task="winogrande", num_shots=5, metric="acc,none"),
    Benchmark(task="gsm8k", num_shots=5, metric="exact_match,strict-match"),
    Benchmark(task="ifeval", num_shots=0, metric="prompt_level_strict_acc,none"),
)

# In this order, where a task does not say.
_PREFERRED = ("prompt_level_strict_acc", "acc_norm", "exact_match", "acc")
_PREFERRED_FILTERS = ("none", "strict-match")


def parse_benchmarks(texts: Sequence[str]) -> tuple[Benchmark, ...]:
    """Read `TASK` or `TASK:SHOTS`; names of the leaderboard's tasks bring its shots and figure. Nothing means its set.

    Raises:
        ConfigurationError: for a number of shots that is none, or a task that is named twice.
    """
    known = {benchmark.task: benchmark for benchmark in LEADERBOARD}
    benchmarks: dict[str, Benchmark] = {}
    for text in texts:
        task, colon, shots = text.partition(":")
        usual = known.get(task, Benchmark(task=task))
        if not task or (colon and not shots.isdecimal()):
            raise ConfigurationError(
                f"--task: {text!r} is neither TASK nor TASK:SHOTS, such as arc_challenge:25"
            )
        if task in benchmarks:
            raise ConfigurationError(f"--task: {task} is named twice; name every task once")
        num_shots = int(shots) if colon else usual.num_shots
        benchmarks[task] = Benchmark(task=task, num_shots=num_shots, metric=usual.metric)
    return tuple(benchmarks.values()) or LEADERBOARD


def main_metric(metrics: Mapping[str, float], wanted: str | None) -> str | None:
    """Which of a task's figures counts.

    Args:
        metrics: figures by `METRIC,FILTER`.
        wanted: the one that is known to count; None where none is.
    Returns:
        The wanted one where it is there, else acc_norm, exact_match or acc, in this order, else the first one.
    """
    if wanted in metrics:
        return wanted
    for name in _PREFERRED:
        for filter_name in _PREFERRED_FILTERS:
            if f"{name},{filter_name}" in metrics:
                return f"{name},{filter_name}"
    return next(iter(metrics), None)
