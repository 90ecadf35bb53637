"""A DCKD step beside TRL's closest trainers: DPO, and distillation with a live teacher four times the student.

    python -m benchmarks.training        (needs `pip install --constraint constraints.txt '.[bench]'`)

All train the same 30M student (Llama shape, V = 32,000, tied) on the same pairs, four at a time: eight rows of 64
prompt and 136 response tokens, one length for all, so that padding favours none. All run under
transformers.Trainer with the same arguments (float32, AdamW, clipped gradients, nothing recomputed), on the same
threads. DCKD is `train-student` on signals that `score-teacher` wrote; DPO has its reference's log-probabilities from a
pass before training. The live-teacher trainers get the given answers: GKD by its own option, DistillationTrainer by
handing them to it in place of those that it would sample.

Seconds are from the end of one optimizer step to the end of the next, so they hold everything that a step needs. The
trainers take turns in one process; ratios are to DCKD in the same round, the median over rounds. Memory is the peak of
a fresh process above what it held before it loaded models or data: weights, teacher, optimizer and two steps.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.utils import logging

from benchmarks.resident import peak_above_now
from benchmarks.trainers import TRAINERS, Task

OURS = "adpa dckd"
MIB = 2**20


def step_seconds(name: str, task: Task) -> float:
    """Train once; the median time between the ends of two optimizer steps."""
    ends: list[float] = []

    def note(*_: Any) -> None:
        ends.append(time.perf_counter())

    hook = register_optimizer_step_post_hook(note)
    with contextlib.redirect_stdout(sys.stderr):  # some trainers print
        TRAINERS[name](task)
    hook.remove()
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def measure_times(task: Task, names: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each trainer, one number a round, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            seconds = step_seconds(name, task)
            if turn:  # the first round warms up; DPO's pass over the reference is in it
                times[name].append(seconds)
    return times


def memory_in_a_fresh_process(task: Task, threads: int, name: str) -> int:
    """Peak bytes of one run in a separate process."""
    command = [sys.executable, "-m", "benchmarks.training", "--threads", str(threads), "--memory-of", name]
    finished = subprocess.run(
        [*command, "--folder", str(task.folder)], check=True, capture_output=True, text=True
    )
    return int(finished.stdout.split()[-1])


def report(times: dict[str, list[float]], memory: dict[str, int]) -> None:
    """Print one line a trainer for what was measured: seconds and peak, and both as multiples of DCKD's."""
    if times:
        print("trainer             s a step   times DCKD (rounds)")
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[OURS], strict=True)]
        spread = f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:17}  {statistics.median(values):9.3f}   {spread}")
    if memory:
        print("trainer             peak MiB   times DCKD")
    for name, peak in memory.items():
        print(f"{name:17}  {peak / MIB:9,.0f}   {peak / memory[OURS]:5.2f}")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one that warms up")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn; the first of them is not timed")
    parser.add_argument("--part", choices=["all", "prepare", "time", "memory"], default="all")
    parser.add_argument(
        "--folder", type=Path, help="keep models, pairs and signals here, and use those that are"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--memory-of", choices=TRAINERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    if arguments.memory_of:
        task = Task(folder=arguments.folder, steps=2, num_pairs=8)
        print(peak_above_now(lambda: TRAINERS[arguments.memory_of](task)))
        return
    names = list(TRAINERS)
    if importlib.util.find_spec("trl") is None:
        print(
            "trl is not installed, DCKD runs alone; to compare: pip install --constraint constraints.txt '.[bench]'"
        )
        names = [OURS]
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        task = Task(folder=folder, steps=arguments.steps)
        if not (folder / "signals" / "manifest.json").exists():
            print("weights:", ", ".join(f"{name} {count:,}" for name, count in task.prepare().items()))
        times, memory = {}, {}
        if arguments.part in ("all", "time"):
            times = measure_times(task, names, arguments.rounds)
        if arguments.part in ("all", "memory"):
            memory = {name: memory_in_a_fresh_process(task, arguments.threads, name) for name in names}
    report(times, memory)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": times, "peak_bytes": memory}, indent=1) + "\n")


if __name__ == "__main__":
    main()
