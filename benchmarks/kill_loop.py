"""Kill score-teacher at random moments until it has been killed often enough; the bytes must come out the same.

    python -m benchmarks.kill_loop

Three ways to run it (transformers in the command's process, vLLM in a process of its own, two workers on Ray), each
compared with an uninterrupted run of one transformers or vLLM engine. A run is killed in the teacher's pass, in the
reference's, or while it starts: the command by SIGKILL, SIGTERM or Ctrl-C, the engine's process or a Ray actor by
SIGKILL. Then the same command goes on. Finished datasets are compared byte by byte.
"""

import argparse
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scoring_world import save_models, write_rows

ROOT = Path(__file__).parent.parent
NUM_ROWS, ROWS_PER_SHARD = 48, 4
#: Two roles, two models.
NUM_PASS_FILES = 4 * NUM_ROWS // ROWS_PER_SHARD
_GIVE_UP_AFTER_S = 600


@dataclass(frozen=True)
class Setting:
    """One way to run the command, what has to be installed, and whom to kill how often: (victim, signal, times)."""

    name: str
    engine: str
    arguments: tuple[str, ...]
    kills: tuple[tuple[str, signal.Signals, int], ...]
    needs: tuple[str, ...] = ()


SETTINGS = (
    Setting(
        "transformers, in the command",
        "transformers",
        (),
        (("command", signal.SIGKILL, 5), ("command", signal.SIGTERM, 2), ("command", signal.SIGINT, 1)),
    ),
    Setting(
        "vLLM, in its own process",
        "vllm",
        (),
        (
            ("command", signal.SIGKILL, 5),
            ("command", signal.SIGTERM, 2),
            ("command", signal.SIGINT, 1),
            ("engine", signal.SIGKILL, 2),
        ),
        ("vllm",),
    ),
    Setting(
        "transformers, two workers on Ray",
        "transformers",
        ("--workers", "2"),
        (
            ("actor", signal.SIGKILL, 6),
            ("engine", signal.SIGKILL, 3),
            ("command", signal.SIGKILL, 2),
            ("command", signal.SIGTERM, 1),
        ),
        ("ray",),
    ),
)


class Loop:
    """Datasets made one after the other in one setting, each killed now and then until it is finished."""

    def __init__(self, setting: Setting, folder: Path, draw: random.Random) -> None:
        """Make the models, the rows and the dataset of an uninterrupted run."""
        self.setting = setting
        self.kills: list[tuple[str, str, str, int | None]] = []
        self.num_same = 0
        self.slowest_stop_s = 0.0
        self._draw = draw
        self._folder = folder
        self._todo = [(victim, number) for victim, number, times in setting.kills for _ in range(times)]
        draw.shuffle(self._todo)
        self._number = 0
        self._run_to_end("whole", ())
        self._whole = _contents(folder / "whole" / "out")

    def run(self) -> None:
        """Kill as often as the setting says; finish and compare every dataset that was begun."""
        while self._todo:
            self._number += 1
            name = f"killed-{self._number}"
            while self._todo and not self._is_finished(name):
                self._interrupt(name)
            self._run_to_end(name, self.setting.arguments)
            if _contents(self._folder / name / "out") != self._whole:
                raise SystemExit(f"{self.setting.name}: {name} came out different")
            self.num_same += 1
            print(f"  {name}: finished, the same bytes", flush=True)

    def _is_finished(self, name: str) -> bool:
        return (self._folder / name / "out" / "manifest.json").exists()

    def _command(self, name: str, more: tuple[str, ...]) -> list[str]:
        return [
            sys.executable, str(ROOT / "cli.py"), "score-teacher", "--teacher", str(self._folder / "teacher"),
            "--reference", str(self._folder / "reference"), "--data", str(self._folder / "pairs.jsonl"),
            "--engine", self.setting.engine, "--top-k", "20", "--shard-pairs", str(ROWS_PER_SHARD), "--max-length",
            "200", "--pass-cache", str(self._folder / name / "passes"), "--out", str(self._folder / name / "out"),
            *more,
        ]  # fmt: skip

    def _run_to_end(self, name: str, more: tuple[str, ...]) -> None:
        done = subprocess.run(self._command(name, more), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.setting.name}: exit code {done.returncode}\n{done.stderr}")

    def _num_done(self, name: str) -> int:
        return len(list((self._folder / name).glob("passes/*.parquet")))

    def _interrupt(self, name: str) -> None:
        """Run until a random number of pass files is there, and a little longer; kill; wait for the end."""
        with tempfile.TemporaryFile("w+") as said:
            # In the background of a script Ctrl-C is ignored, and children inherit that; this one must not.
            running = subprocess.Popen(
                self._command(name, self.setting.arguments),
                stderr=said,
                stdout=subprocess.DEVNULL,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )
            is_fatal = self._kill_at_random(name, running)
            code = running.wait(_GIVE_UP_AFTER_S)
            if not is_fatal and code:
                said.seek(0)
                raise SystemExit(f"{self.setting.name}: did not survive its worker, {code}\n{said.read()}")

    def _kill_at_random(self, name: str, running: subprocess.Popen) -> bool:
        """Send signals to one running command until one of them ends it; whether one did."""
        first = self._num_done(name)
        while self._todo:
            victim, number = self._todo[-1]
            process = self._wait_for_moment(name, running, victim)
            if process is None:
                return False
            self._todo.pop()
            done, asked_at = self._num_done(name), time.monotonic()
            os.kill(process, number)
            where = "start" if done == first else "teacher" if 2 * done < NUM_PASS_FILES else "reference"
            # A command without workers ends with its engine.
            is_fatal = victim == "command" or "--workers" not in self.setting.arguments
            code = running.wait(_GIVE_UP_AFTER_S) if is_fatal else None
            if number == signal.SIGTERM:
                self.slowest_stop_s = max(self.slowest_stop_s, time.monotonic() - asked_at)
            self.kills.append((victim, number.name, where, code))
            print(f"  {victim}, {number.name}, {where} at {done} of {NUM_PASS_FILES}: {code}", flush=True)
            if is_fatal:
                return True
        return False

    def _wait_for_moment(self, name: str, running: subprocess.Popen, victim: str) -> int | None:
        """Wait for a random number of pass files and a random while more; whom to kill, None if it ended before."""
        # One in eight anywhere in the first seconds; otherwise anywhere in what is left of both passes.
        is_early = victim == "command" and self._draw.random() < 0.125
        done = self._num_done(name)
        target = done if is_early else self._draw.randrange(done, NUM_PASS_FILES + 1)
        delay_s = self._draw.uniform(0, 8.0 if is_early else 0.05)
        deadline = time.monotonic() + _GIVE_UP_AFTER_S
        while running.poll() is None:
            process = self._find(running.pid, victim)
            if process is not None and self._num_done(name) >= target:
                time.sleep(delay_s)
                return process if running.poll() is None and Path(f"/proc/{process}").exists() else None
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.setting.name}: no progress in {_GIVE_UP_AFTER_S} s")
            time.sleep(0.002)
        return None

    def _find(self, command: int, victim: str) -> int | None:
        if victim == "command":
            return command
        mark = "ray::_EngineActor" if victim == "actor" else "multiprocessing.spawn"
        found = [pid for pid in _descendants(command) if mark in _command_line(pid)]
        return self._draw.choice(found) if found else None


def _descendants(pid: int) -> list[int]:
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return children + [other for child in children for other in _descendants(child)]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    """Run the loops and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="only settings whose name has this in it")
    arguments = parser.parse_args()
    lines = []
    for setting in SETTINGS:
        if arguments.only and arguments.only not in setting.name:
            continue
        if any(importlib.util.find_spec(name) is None for name in setting.needs):
            print(f"{setting.name}: skipped, {' or '.join(setting.needs)} is not installed")
            continue
        print(f"{setting.name}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            save_models(Path(folder))
            write_rows(Path(folder) / "pairs.jsonl", NUM_ROWS)
            loop = Loop(setting, Path(folder), random.Random(arguments.seed))
            loop.run()
        places = Counter(where for _, _, where, _ in loop.kills)
        whom = Counter(f"{victim} {number}" for victim, number, _, _ in loop.kills)
        codes = sorted({str(code) for *_, code in loop.kills})
        lines.append(
            f"| {setting.name} | {', '.join(f'{n} {w}' for w, n in whom.items())} | {places['start']} / "
            f"{places['teacher']} / {places['reference']} | {', '.join(codes)} | {loop.slowest_stop_s:.1f} s | "
            f"{loop.num_same} of {loop.num_same} |"
        )
    print("\n| run | killed | start / teacher / reference | exit codes | slowest SIGTERM | same bytes |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
