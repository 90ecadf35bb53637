"""What the methods are worth on real text.

    python -m benchmarks.real_text --fast --world friendly --out runs/real-text
    python -m benchmarks.real_text --full --world constraints --seed 1 --out runs/real-text

SmolLM2-135M-Instruct is the reference; the teacher is DPO from it on pairs of its own answers, labelled by a reward
that a program computes; students are layers cut out of it, healed by SFT on its answers. Everything goes through the
public commands; a run that is interrupted continues with the same line.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.real_text.fluency import mean_logprobs
from benchmarks.real_text.pipeline import FAST, FULL, Pipeline
from benchmarks.real_text.worlds import WORLDS
from data.files import write_atomic
from evaluation.metrics.statistics import mean_estimate

_TEMPERATURES = (1.0, 0.5, 0.0)


def _rewards(
    pipeline: Pipeline, model: str, temperature: float
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Mean and best reward of each held-out prompt, shape (n,); mean length in tokens; share that was finished."""
    answers = pipeline.answers(model, temperature)
    means, bests, lengths, finished = [], [], [], []
    for prompt in pipeline.held_out:
        found = answers.get(prompt.id, [("", False, 0)])
        values = [pipeline.world.reward(prompt, text, done) for text, done, _ in found]
        means.append(np.mean(values))
        bests.append(max(values))
        lengths += [length for _, _, length in found]
        finished += [done for _, done, _ in found]
    return np.array(means), np.array(bests), float(np.mean(lengths)), float(np.mean(finished))


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--fast", action="store_true", help="under half an hour on two cores")
    size.add_argument("--full", action="store_true", help="some nights on two cores")
    parser.add_argument("--world", choices=sorted(WORLDS), default="friendly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/real-text"))
    options = parser.parse_args()
    name = f"{options.world}-{options.seed}-{'fast' if options.fast else 'full'}"
    pipeline = Pipeline(
        options.out / name, WORLDS[options.world], options.seed, FAST if options.fast else FULL
    )
    models = pipeline.make()
    rows, stored = [], {}
    baseline: np.ndarray | None = None
    for model in models:
        cells = [model]
        stored[model] = {}
        for temperature in _TEMPERATURES:
            means, bests, length, finished = _rewards(pipeline, model, temperature)
            estimate = mean_estimate(means, bounds=(0.0, 1.0))
            cells.append(f"{estimate.value:.3f} ± {(estimate.high - estimate.low) / 2:.3f}")
            stored[model][f"{temperature:g}"] = {
                "rewards": means.tolist(),
                "tokens": length,
                "finished": finished,
            }
            if temperature == 1.0:
                if model == "student":
                    baseline = means
                stored[model]["best"] = float(bests.mean())
                difference = "" if baseline is None else mean_estimate(means - baseline)
                gain = (
                    f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
                    if difference and model != "student"
                    else ""
                )
                first = (f"{bests.mean():.3f}", f"{length:.0f}", f"{finished:.0%}")
        fluency = mean_logprobs(
            pipeline.model("reference"), pipeline.out / "rollouts", pipeline.model(model).name
        )
        stored[model]["fluency"] = fluency
        rows.append([*cells, gain, *first, f"{fluency:.2f}"])
    write_atomic(pipeline.out / "results.json", json.dumps(stored, indent=1) + "\n")
    head = ["model", *(f"T = {t:g}" if t else "greedy" for t in _TEMPERATURES)]
    head += ["against the student, T = 1", "best of n", "tokens", "finished", "fluency, nats a token"]
    print("\n| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
