"""The steps from real weights to students, each a public command; what is finished is not made again."""

import dataclasses
import json
import random
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.real_text.weights import cut_student, extract_smollm2
from benchmarks.real_text.worlds import Prompt, World
from data.files import write_atomic
from data.signals.rollouts import RolloutDataset

__all__ = ["METHODS", "Pipeline", "Size"]

_COMMAND_LINE = Path(__file__).parents[2] / "cli.py"
_SYSTEM = "You answer in one or two short sentences."


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything.

    Attributes:
        train_prompts: prompts of the pairs.
        samples: answers of the reference to each of them.
        held_out: prompts that models are judged on.
        max_new_tokens: longest answer.
        teacher_steps: of the teacher's DPO.
        heal_steps: of the cut student's SFT on the reference's answers.
        student_steps: of every method.
        batch_size: pairs in a step.
        judged_samples: answers to each held-out prompt at temperature 1.
        layers: of the reference that the student keeps.
    """

    train_prompts: int
    samples: int
    held_out: int
    max_new_tokens: int
    teacher_steps: int
    heal_steps: int
    student_steps: int
    batch_size: int
    judged_samples: int
    layers: tuple[int, ...]


FAST = Size(
    train_prompts=128,
    samples=3,
    held_out=64,
    max_new_tokens=48,
    teacher_steps=24,
    heal_steps=60,
    student_steps=40,
    batch_size=8,
    judged_samples=2,
    layers=(0, 1, 2, 27, 28, 29),
)
FULL = Size(
    train_prompts=1024,
    samples=4,
    held_out=256,
    max_new_tokens=64,
    teacher_steps=200,
    heal_steps=800,
    student_steps=300,
    batch_size=16,
    judged_samples=4,
    layers=(0, 1, 2, 3, 4, 25, 26, 27, 28, 29),
)

#: What each method starts from, trains on, and its own options. Equal steps for all.
METHODS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "SFT on chosen": ("student", "data", ("--method", "sft")),
    "DPO on student": ("student", "data", ("--method", "dpo")),
    "SimPO on student": ("student", "data", ("--method", "simpo")),
    "vanilla KD": ("student", "pairs", ("--method", "vanilla-kd")),
    "DCKD": ("student", "pairs", ("--method", "dckd")),
    "ABD": ("student", "pairs", ("--method", "abd")),
    "ADPA": ("student", "student", ("--method", "adpa")),
    "ADPA, gamma 1": ("student", "student", ("--method", "adpa", "--gamma", "1")),
    "ADPA+": ("DCKD", "DCKD", ("--method", "adpa")),
}


class Pipeline:
    """Makes data, models, rollouts and signals of one world and seed in one folder."""

    def __init__(self, out: Path, world: World, seed: int, size: Size) -> None:
        """Take the folder, unless it holds another run.

        Raises:
            SystemExit: naming what differs.
        """
        self.out, self.world, self.seed, self.size = out, world, seed, size
        self._models = out.parent / "weights"
        asked = json.dumps({"world": world.name, "seed": seed, **dataclasses.asdict(size)}, indent=2)
        record = out / "plan.json"
        out.mkdir(parents=True, exist_ok=True)
        if record.exists() and json.loads(record.read_text()) != json.loads(asked):
            raise SystemExit(f"{out}: holds a run of another size, world or seed; choose another --out")
        write_atomic(record, asked + "\n")
        self.train = world.prompts(seed, size.train_prompts)
        held_out = world.prompts(seed + 1000, size.held_out + size.train_prompts)
        seen = {prompt.text for prompt in self.train}
        self.held_out = [prompt for prompt in held_out if prompt.text not in seen][: size.held_out]

    def model(self, name: str) -> Path:
        """Folder of a model by the name in the tables."""
        return self.out / "models" / name.replace(" ", "-").replace(",", "").replace("+", "-plus").lower()

    def make(self) -> list[str]:
        """Run every step; the names of all models, in the order of the tables."""
        size = self.size
        reference = extract_smollm2(self._models / "smollm2-135m-instruct")
        cut = cut_student(reference, self._models / f"cut-{len(size.layers)}", size.layers)
        if not self.model("reference").exists():
            self.model("reference").parent.mkdir(parents=True, exist_ok=True)
            self.model("reference").symlink_to(reference.resolve())
        self._write_prompts("train", self.train)
        self._write_prompts("held-out", self.held_out)
        self.sample("reference", "train", size.samples, 1.0)
        self._write_pairs()
        self._train("teacher", reference, "data", ("--method", "dpo"), size.teacher_steps, 2e-6)
        self._train("student", cut, "answers", ("--method", "sft"), size.heal_steps, 3e-4)
        self._score("pairs", ())
        for name, (start, trained_on, options) in METHODS.items():
            if trained_on in ("student", "DCKD"):
                self.sample(trained_on, "train", 1, 1.0)
                folder = self._rollouts(trained_on, "train", 1.0)
                self._score(trained_on, ("--rollouts", str(folder), "--score", "student"))
            self._train(name, self.model(start), trained_on, options, size.student_steps, 5e-5)
        return ["reference", "teacher", "student", *METHODS]

    def answers(self, model: str, temperature: float) -> dict[str, list[tuple[str, bool, int]]]:
        """A model's answers to the held-out prompts: for each prompt text, finished or not, number of tokens."""
        samples = self.size.judged_samples if temperature == 1.0 else 1
        self.sample(model, "held-out", samples, temperature)
        return self._read(model, "held-out", temperature)

    def sample(self, model: str, prompts: str, samples: int, temperature: float) -> None:
        """Answers of a model to a file of prompts, as rollouts."""
        out = self._rollouts(model, prompts, temperature)
        options = ["--student", str(self.model(model)), "--data", str(self._data(prompts)), "--out", str(out)]
        options += [
            "--num-samples",
            str(samples),
            "--temperature",
            str(temperature),
            "--seed",
            str(self.seed),
        ]
        options += ["--max-new-tokens", str(self.size.max_new_tokens)]
        self._run("sample-student", options, out / "manifest.json")

    def _read(self, model: str, prompts: str, temperature: float) -> dict[str, list[tuple[str, bool, int]]]:
        found: dict[str, list[tuple[str, bool, int]]] = defaultdict(list)
        for row in RolloutDataset.open(self._rollouts(model, prompts, temperature)).iterate():
            answer = (row.response_text.strip(), row.finish_reason == "stop", len(row.response_ids))
            found[row.pair_id].append(answer)
        return found

    def _write_prompts(self, name: str, prompts: list[Prompt]) -> None:
        if not self._data(name).exists():
            self._write(name, ({"id": prompt.id, "prompt": _messages(prompt)} for prompt in prompts))

    def _write_pairs(self) -> None:
        """Pairs out of the reference's answers, labelled by the reward with noise; and its finished answers."""
        if self._data("answers").exists():
            return
        rng = random.Random(f"labels {self.seed}")
        answers = self._read("reference", "train", 1.0)
        pairs, finished = [], []
        for prompt in self.train:
            found = [answer for answer in answers.get(prompt.id, ()) if answer[0]]
            finished += [(prompt, text) for text, is_finished, _ in found if is_finished]
            values = [
                (self.world.reward(prompt, text, is_finished) + rng.gauss(0, 0.05), text)
                for text, is_finished, _ in found
            ]
            best, worst = max(values, default=None), min(values, default=None)
            if best is not None and worst is not None and best[1] != worst[1]:
                pairs.append((prompt, best[1], worst[1]))
        self._write(
            "data",
            (
                {"id": prompt.id, "prompt": _messages(prompt), "chosen": chosen, "rejected": rejected}
                for prompt, chosen, rejected in pairs
            ),
        )
        self._write(
            "answers",
            (
                {"id": f"{prompt.id}-{number}", "prompt": _messages(prompt), "chosen": text}
                for number, (prompt, text) in enumerate(finished)
            ),
        )

    def _write(self, name: str, rows: Iterator[dict]) -> None:
        self._data(name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._data(name), "".join(json.dumps(row) + "\n" for row in rows))

    def _train(
        self, name: str, start: Path, trained_on: str, options: tuple[str, ...], steps: int, rate: float
    ) -> None:
        file = self._data(trained_on)
        source = ["--data", str(file)] if file.exists() else ["--signals", str(self._signals(trained_on))]
        given = ["--student", str(start), *source, *options, "--out", str(self.model(name))]
        given += ["--max-steps", str(steps), "--learning-rate", str(rate), "--seed", str(self.seed)]
        given += ["--batch-size", str(self.size.batch_size), "--warmup-steps", str(max(steps // 10, 1))]
        self._run("train-student", given, self.model(name) / "config.json")

    def _score(self, name: str, more: tuple[str, ...]) -> None:
        given = ["--teacher", str(self.model("teacher")), "--reference", str(self.model("reference"))]
        given += ["--data", str(self._data("data")), "--out", str(self._signals(name)), *more]
        self._run("score-teacher", given, self._signals(name) / "manifest.json")

    def _data(self, name: str) -> Path:
        return self.out / "data" / f"{name}.jsonl"

    def _signals(self, name: str) -> Path:
        return self.out / "signals" / self.model(name).name

    def _rollouts(self, model: str, prompts: str, temperature: float) -> Path:
        return self.out / "rollouts" / f"{self.model(model).name}-{prompts}-{temperature:g}"

    def _run(self, command: str, options: list[str], finished: Path) -> None:
        if finished.exists():
            return
        line = ["adpa", command, *options]
        with (self.out / "commands.sh").open("a") as file:
            file.write(shlex.join(line) + "\n")
        started = time.monotonic()
        subprocess.run(
            [sys.executable, str(_COMMAND_LINE), command, *options], check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.monotonic() - started
        with (self.out / "seconds.jsonl").open("a") as file:
            file.write(
                json.dumps({"command": command, "out": str(finished.parent), "seconds": seconds}) + "\n"
            )
        print(f"  {command} {finished.parent.name}: {seconds:.0f} s", flush=True)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": prompt.text}]
