"""Kill train-student at random moments until it has been killed often enough; the weights must come out the same.

    python -m benchmarks.kill_training --signals SIGNALS --student STUDENT

A run on a given signal dataset is killed at a random moment by SIGKILL, SIGTERM or Ctrl-C, and started again by the
same command line, until it is done; then the next run begins, until there were as many kills as asked for. Every run
must end with the weights and the lines of metrics.jsonl (but for clocks) of one that was never interrupted.
"""

import argparse
import collections
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import cli

STEPS, SAVE_STEPS = 240, 40
#: How often each signal comes, in tenths.
SIGNALS = [signal.SIGKILL] * 5 + [signal.SIGTERM] * 3 + [signal.SIGINT] * 2
#: What a killed run and its continuation cannot share.
CLOCKED = {"tokens_per_second", "data_share", "tflops", "model_flops_utilisation"}


def start(arguments: argparse.Namespace, out: Path) -> int:
    """Start the command in a copy of this process, which has its libraries loaded already; its process id."""
    child = os.fork()
    if child:
        return child
    words = [
        "adpa", "train-student", "--method", arguments.method, "--signals", arguments.signals, "--student",
        arguments.student, "--out", str(out), "--max-steps", str(STEPS), "--save-steps", str(SAVE_STEPS),
        "--batch-size", "16", "--learning-rate", "1e-3", "--logging-steps", "7", "--eval-fraction", "0.02",
        "--save-minutes", "0.02", "--threads", "1",
    ]  # fmt: skip
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (out.parent / f"{out.name}.log").open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.argv = words
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a process; its exit code, or minus the signal that ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def numbers(out: Path) -> list[dict]:
    """The lines of metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKED} for line in lines]


def main() -> None:
    """Run the loop and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signals", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--method", default="dckd")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    import student_training.run  # noqa: F401, PLC0415  (loaded once for all copies)

    draw = random.Random(arguments.seed)
    killed: collections.Counter[tuple[str, int]] = collections.Counter()
    slowest_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        began_s = time.monotonic()
        if ended(start(arguments, whole)):
            raise SystemExit((Path(folder) / "whole.log").read_text())
        takes_s = time.monotonic() - began_s
        print(f"uninterrupted: {STEPS} steps in {takes_s:.1f} s", flush=True)
        runs = 0
        while killed.total() < arguments.kills:
            runs += 1
            out = Path(folder) / f"run-{runs}"
            while True:
                child = start(arguments, out)
                if killed.total() >= arguments.kills:
                    code = ended(child)
                    break
                time.sleep(draw.uniform(0, takes_s))
                number = draw.choice(SIGNALS)
                if os.waitpid(child, os.WNOHANG)[0]:
                    code = 0
                    break
                asked_s = time.monotonic()
                os.kill(child, number)
                code = ended(child)
                if code == 0:
                    break  # it came when all was done
                if number != signal.SIGKILL:
                    slowest_s = max(slowest_s, time.monotonic() - asked_s)
                killed[number.name, code] += 1
            if code or not (out / "config.json").exists():
                raise SystemExit(
                    f"run {runs}: exit code {code}\n{(out.parent / f'{out.name}.log').read_text()}"
                )
            same = (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
            if not same or numbers(out) != numbers(whole):
                raise SystemExit(f"run {runs} came out different")
            print(f"run {runs}: the same weights and lines, {killed.total()} kills so far", flush=True)
    print("\n| killed by | exit code | times |\n| --- | --- | --- |")
    for (name, code), times in sorted(killed.items()):
        print(f"| {name} | {code} | {times} |")
    print(f"\n{runs} runs, all the same; slowest end after SIGTERM or Ctrl-C: {slowest_s:.1f} s")


if __name__ == "__main__":
    main()
