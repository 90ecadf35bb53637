"""Peak memory of the scoring command at one and ten times the rows, and how soon a million rows are being scored.

    python -m benchmarks.memory_of_scoring

Real commands, on a tiny teacher and reference whose engine has a process of its own, so that what is measured is the
command itself: reading, encoding, handing over, assembling. Memory is the peak that the kernel noted (Linux).
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.scoring_world import save_models, write_rows

ROOT = Path(__file__).parent.parent
_POLL_S = 0.02


def scoring(folder: Path, rows: Path, out: str) -> list[str]:
    """The command that scores some rows."""
    return [
        sys.executable, str(ROOT / "cli.py"), "score-teacher", "--teacher", str(folder / "teacher"),
        "--reference", str(folder / "reference"), "--data", str(rows), "--engine", "transformers", "--own-process",
        "--top-k", "10", "--pass-cache", str(folder / out / "passes"), *_out(folder / out),
    ]  # fmt: skip


def sampling(folder: Path, rows: Path, out: str) -> list[str]:
    """The command that samples answers to their prompts."""
    return [
        sys.executable, str(ROOT / "cli.py"), "sample-student", "--student", str(folder / "reference"), "--data",
        str(rows), "--engine", "transformers", "--own-process", "--max-new-tokens", "4", *_out(folder / out),
    ]  # fmt: skip


def _out(folder: Path) -> list[str]:
    """A folder for the dataset; for the one named `store` none, so that it lies in ADPA_HOME by its fingerprint."""
    return [] if folder.name == "store" else ["--out", str(folder / "out")]


def peak_bytes(command: list[str]) -> tuple[int, float]:
    """Run a command to its end; its own peak resident memory, children not counted, and the seconds that it took."""
    start, peak = time.monotonic(), 0
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while running.poll() is None:
        for line in Path(f"/proc/{running.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = int(line.split()[1]) * 1024
        time.sleep(_POLL_S)
    assert running.stderr is not None
    if running.returncode:
        raise SystemExit(running.stderr.read())
    return peak, time.monotonic() - start


def seconds_to_first(command: list[str], folder: Path, pattern: str) -> float:
    """Start a command, wait until its first file of results is whole, stop it."""
    start = time.monotonic()
    environment = {**os.environ, "ADPA_HOME": str(folder.parent / "home")}
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    while not any(folder.glob(pattern)):
        if running.poll() is not None:
            assert running.stderr is not None
            raise SystemExit(running.stderr.read())
        time.sleep(_POLL_S)
    seconds = time.monotonic() - start
    os.kill(running.pid, signal.SIGTERM)
    running.wait()
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4_000, help="pairs of the smaller data set")
    parser.add_argument(
        "--many-rows", type=int, default=1_000_000, help="pairs of the data set that is begun"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_models(folder)
        peaks = []
        for times in (1, 10):
            rows = write_rows(folder / f"pairs-{times}.jsonl", times * arguments.rows)
            peak, seconds = peak_bytes(scoring(folder, rows, f"scored-{times}"))
            peaks.append(peak)
            print(
                f"{times * arguments.rows:,} pairs: peak {peak / 2**20:.0f} MiB, {seconds:.0f} s", flush=True
            )
        print(
            f"ratio {peaks[1] / peaks[0]:.3f}; {(peaks[1] - peaks[0]) / (9 * arguments.rows):.0f} bytes a pair"
        )
        rows = write_rows(folder / "many.jsonl", arguments.many_rows)
        found = {
            "score-teacher": seconds_to_first(
                scoring(folder, rows, "begun"), folder / "begun" / "passes", "*.parquet"
            ),
            "score-teacher without --out": seconds_to_first(
                scoring(folder, rows, "store"), folder / "store" / "passes", "*.parquet"
            ),
            "sample-student": seconds_to_first(
                sampling(folder, rows, "sampled"), folder / "sampled" / "out", "shard-*.parquet"
            ),
        }
        for command, seconds in found.items():
            verdict = "under a minute" if seconds < 60 else "ABOVE A MINUTE"
            print(f"{command}, {arguments.many_rows:,} rows: first results after {seconds:.0f} s, {verdict}")


if __name__ == "__main__":
    main()
