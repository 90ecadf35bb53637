"""Time and memory of the fused objective, beside its three bare matrix products and the dense version.

    python -m benchmarks.objective

NLL, forward KL with the tail bucket and the clipped expected advantage, with gradients of hidden states and head
weight. On a CPU: N = 2,048 positions, d = 1,024, V = 64,000, K = 50, float32, two threads. On CUDA: N = 8,192,
d = 4,096, V = 128,256, K = 50, bfloat16.

Times are of interleaved rounds in one process, so that a busy machine slows all equally; ratios are given as the
median over rounds and of the best times. On a machine that does other work, `--threads 1 --clock cpu` counts the
seconds that this process had. Memory is the peak in a fresh process, above what the inputs and, on a CPU, the
weight's gradient take.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.resident import peak_above_now
from student_training.head.chunks import default_chunk_size
from student_training.head.fused import (
    SparseLogprobs,
    fused_objective,
    sparse_logprobs,
)
from student_training.head.lm_head import LMHead
from student_training.objectives import expected_advantage, forward_kl

MIB = 2**20
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one problem: positions N, width d, vocabulary V, support K."""

    positions: int
    width: int
    vocabulary: int
    support: int
    dtype: str
    device: str


SHAPES = {
    "cpu": Shape(2048, 1024, 64_000, 50, "float32", "cpu"),
    "cuda": Shape(8192, 4096, 128_256, 50, "bfloat16", "cuda"),
}


class Problem:
    """Random hidden states, head weight and teacher signals."""

    def __init__(self, shape: Shape):
        torch.manual_seed(0)
        n, k, v = shape.positions, shape.support, shape.vocabulary
        options = {"dtype": getattr(torch, shape.dtype), "device": shape.device}
        self.hidden = torch.randn(n, shape.width, **options).requires_grad_()
        self.weight = torch.randn(v, shape.width, **options).mul_(shape.width**-0.5).requires_grad_()
        self.labels = torch.randint(v, (n,), device=shape.device)
        # Distinct ids spread over the vocabulary: one from each of K stretches.
        stretch = v // k
        self.support_ids = torch.arange(k, device=shape.device) * stretch + torch.randint(
            stretch, (n, k), device=shape.device
        )
        self.support_mask = torch.ones_like(self.support_ids, dtype=torch.bool)
        teacher = (3 * torch.randn(n, k + 1, device=shape.device)).log_softmax(-1)
        self.teacher, self.teacher_tail = teacher[:, :k], teacher[:, k]
        self.advantages = torch.randn(n, k, device=shape.device)

    def objective(self, rows: slice, student: SparseLogprobs) -> Tensor:
        """NLL + 5 KL − 3 E, averaged over positions."""
        kl = forward_kl(student.support, student.tail, self.teacher[rows], self.teacher_tail[rows])
        advantage = expected_advantage(student.support, student.tail, self.advantages[rows], clip=(0.0, 1.0))
        return (-student.token + 5.0 * kl - 3.0 * advantage) / len(self.labels)

    def forget_gradients(self) -> None:
        """Free the gradients of the last run."""
        self.hidden.grad = self.weight.grad = None


def run_fused(problem: Problem, chunk_size: int | None) -> None:
    """The objective under test."""
    head = LMHead(weight=problem.weight)
    support = problem.labels, problem.support_ids, problem.support_mask
    loss, _ = fused_objective(problem.hidden, head, *support, problem.objective, chunk_size=chunk_size)
    loss.backward()


def run_sparse(problem: Problem, chunk_size: int | None) -> None:
    """The same through `sparse_logprobs`, which pairwise methods need: one matrix product more."""
    head = LMHead(weight=problem.weight)
    support = problem.labels, problem.support_ids, problem.support_mask
    student = sparse_logprobs(problem.hidden, head, *support, chunk_size=chunk_size)
    problem.objective(slice(None), student).sum().backward()


def run_dense(problem: Problem, chunk_size: int | None) -> None:
    """What one would write first: all the logits, one logsumexp, gathers, the tail by subtraction."""
    del chunk_size
    logits = F.linear(problem.hidden, problem.weight).float()
    normalizer = logits.logsumexp(1, keepdim=True)
    support = logits.gather(1, problem.support_ids) - normalizer
    student = SparseLogprobs(
        token=(logits.gather(1, problem.labels[:, None]) - normalizer)[:, 0],
        support=support,
        tail=torch.log1p(-support.exp().sum(1)),
        entropy=normalizer[:, 0].detach(),  # not computed: a favour to this version
    )
    problem.objective(slice(None), student).sum().backward()


def run_liger(problem: Problem, chunk_size: int | None) -> None:
    """Liger's fused linear JSD, with a teacher of the same size live: another loss, for scale."""
    del chunk_size
    liger = importlib.import_module("liger_kernel.transformers")  # a peer, never a dependency
    hidden, weight = problem.hidden.detach(), problem.weight.detach()
    liger.LigerFusedLinearJSD()(problem.hidden, problem.weight, hidden, weight, problem.labels).backward()


VARIANTS = {"fused": run_fused, "sparse": run_sparse, "dense": run_dense, "liger": run_liger}


def bare_products(problem: Problem) -> Callable[[], None]:
    """The three products on whole matrices, results in buffers that exist already."""
    hidden, weight = problem.hidden.detach(), problem.weight.detach()
    logits = hidden @ weight.t()
    d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> None:
        torch.mm(hidden, weight.t(), out=logits)
        torch.mm(logits, weight, out=d_hidden)
        torch.mm(logits.t(), hidden, out=d_weight)

    return run


def seconds(run: Callable[[], None], device: str, clock: Callable[[], float]) -> float:
    """Seconds of one run, all of its kernels included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure_times(arguments: argparse.Namespace, shape: Shape, names: list[str]) -> dict[str, list[float]]:
    """Seconds of the bare products and of each variant, one number a round, interleaved."""
    problem = Problem(shape)
    products = bare_products(problem)
    clock = CLOCKS[arguments.clock]
    times: dict[str, list[float]] = {"products": []} | {name: [] for name in names}
    for turn in range(arguments.rounds + 1):
        row = {"products": seconds(products, shape.device, clock)}
        for name in names:
            problem.forget_gradients()
            run = partial(VARIANTS[name], problem, arguments.chunk_size)
            row[name] = seconds(run, shape.device, clock)
        if turn:  # the first round warms up
            for name, value in row.items():
                times[name].append(value)
    return times


def measure_memory(shape: Shape, chunk_size: int | None, name: str) -> int:
    """Peak bytes of one run in this process, above inputs and, on a CPU, the weight's gradient."""
    run = VARIANTS[name]
    # A small problem first: libraries, threads and their buffers are not the objective's.
    run(Problem(replace(shape, positions=64, width=64, vocabulary=1024)), chunk_size)
    problem = Problem(shape)
    if shape.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(problem, chunk_size)
        return torch.cuda.max_memory_allocated() - before
    weight_gradient = problem.weight.numel() * problem.weight.element_size()
    return peak_above_now(lambda: run(problem, chunk_size)) - weight_gradient


def memory_in_a_fresh_process(arguments: argparse.Namespace, name: str) -> int:
    """`measure_memory` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.objective", "--memory-of", name]
    command += ["--device", arguments.device, "--threads", str(arguments.threads)]
    if arguments.chunk_size:
        command += ["--chunk-size", str(arguments.chunk_size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report(arguments: argparse.Namespace) -> dict:
    """Measure one device and print its tables."""
    shape = SHAPES[arguments.device]
    names = arguments.variants.split(",")
    if "liger" in names and (shape.device == "cpu" or not importlib.util.find_spec("liger_kernel")):
        print("liger: needs CUDA and the package liger_kernel, left out")
        names.remove("liger")
    chunk_size = arguments.chunk_size or default_chunk_size(shape.vocabulary)
    print(f"{shape}, chunks of {chunk_size}, torch {torch.__version__}")
    times = measure_times(arguments, shape, names)
    memory = {name: memory_in_a_fresh_process(arguments, name) for name in names}
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, times["products"], strict=True))
        for name, values in times.items()
    }
    print(
        f"variant    median s   best s   times products: median   best   peak MiB   ({arguments.clock} clock)"
    )
    for name, values in times.items():
        peak = f"{memory[name] / MIB:10,.0f}" if name in memory else "         –"
        seen = f"{statistics.median(values):8.3f}  {min(values):7.3f}"
        print(f"{name:9}  {seen}  {ratios[name]:22.3f}  {min(values) / min(times['products']):5.3f} {peak}")
    if "fused" in memory and "dense" in memory:
        print(f"peak memory, fused / dense: 1/{memory['dense'] / memory['fused']:.1f}")
    return {"shape": asdict(shape), "seconds": times, "times_products": ratios, "peak_bytes": memory}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["all", *SHAPES], default="all")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one that warms up")
    parser.add_argument(
        "--chunk-size", type=int, help="positions at a time; the library's choice unless given"
    )
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="which, separated by commas")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(measure_memory(SHAPES[arguments.device], arguments.chunk_size, arguments.memory_of))
        return
    results = {}
    for device in SHAPES if arguments.device == "all" else [arguments.device]:
        if device == "cuda" and not torch.cuda.is_available():
            print("cuda: no such device here, skipped")
            continue
        arguments.device = device
        results[device] = report(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
