"""What a run's health metrics say of finished students, beside their rewards: by one pass over their rollouts.

    python -m benchmarks.run_health runs/map --pairs 150

reads the folder of a `benchmarks.map`: its students, signals and results. Every student is measured on the answers of
the student that training began with, so that all of them are compared alike. Prints a Markdown table.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.map.measures import mean_rewards
from benchmarks.map.results import Results
from data.signals.dataset import SignalDataset
from data.signals.schema import ResponseSignals
from student_training.batching.collator import PairCollator, model_inputs
from student_training.head.fused import SparseLogprobs, sparse_logprobs
from student_training.head.lm_head import split_model
from student_training.methods.base import Needs, Positions
from student_training.monitoring.health import sharpness_values
from student_training.objectives import expected_advantage

_COLUMNS = (
    "world", "teacher", "chosen", "method", "entropy share", "top-1 share", "E / teacher's", "rollout mass",
    "rollout ESS", "reward T = 1", "greedy",
)  # fmt: skip


def rows(folder: Path, *, num_pairs: int) -> Iterator[tuple[str, ...]]:
    """One row for each student with a teacher, as text."""
    for line in Results(folder / "results.jsonl"):
        if line["kind"] != "model" or line["teacher"] == "none" or line["method"] == "teacher":
            continue
        world = folder / f"{line['world']}-{line['seed']}"
        name = f"{line['teacher']}-{line['chosen']}-{line['method'].replace(', ', '-').replace(' ', '-')}"
        signals = world / "signals" / f"student-{line['teacher']}-{line['chosen']}"
        if not (signals / "manifest.json").exists() or not (world / "models" / name).exists():
            continue
        batch = _rollouts(signals, num_pairs)
        positions = Positions.from_batch(batch)
        before = _logprobs(world / "models" / "student", batch, positions)
        now = _logprobs(world / "models" / name, batch, positions)
        rewards = mean_rewards(line["found"])
        figures = (*_health(positions, now, before), rewards["sampled"], rewards["greedy"])
        yield (
            *(line[key] for key in ("world", "teacher", "chosen", "method")),
            *(f"{figure:.2f}" for figure in figures[:-2]),
            *(f"{figure:.3f}" for figure in figures[-2:]),
        )


def _rollouts(signals: Path, num_pairs: int) -> dict[str, torch.Tensor]:
    """The student's answers of the first pairs, as one batch."""
    dataset = SignalDataset.open(signals)
    needs = Needs(roles=frozenset({"student"}), signals=frozenset({"student"}), advantages=True)
    pairs = [
        (index, [row for row in dataset.pair(index) if row.role == "student"]) for index in range(num_pairs)
    ]
    largest = max(
        int(row.topk_ids.max()) for _, found in pairs for row in found if isinstance(row, ResponseSignals)
    )
    return PairCollator(needs, vocab_size=largest + 1, pad_token_id=0)(pairs)


@torch.no_grad()
def _logprobs(folder: Path, batch: dict[str, torch.Tensor], positions: Positions) -> SparseLogprobs:
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    backbone, head = split_model(model)
    hidden = backbone(**model_inputs(batch)).flatten(0, 1)[batch["position_index"]]
    return sparse_logprobs(hidden, head, positions.labels, positions.support_ids, positions.support_mask)


def _health(positions: Positions, now: SparseLogprobs, before: SparseLogprobs) -> tuple[float, ...]:
    """Shares of the teacher's entropy, top mass and expected advantage; mass and effective size of the rollouts."""
    means = {name: values.mean() for name, values in sharpness_values(positions, now, end_id=None).items()}
    ratio = (now.token - before.token).exp()
    advantages = [
        expected_advantage(
            *distribution, positions.advantages, clip=(0.0, 1.0), support_mask=positions.support_mask
        ).mean()
        for distribution in (
            (now.support, now.tail),
            (positions.teacher_logprobs, positions.teacher_tail),
        )
    ]
    return (
        float(means["support_entropy"] / means["teacher_support_entropy"]),
        float(means["top1_mass"] / means["teacher_top1_mass"]),
        float(advantages[0] / advantages[1]),
        float(ratio.mean()),
        float(ratio.mean().square() / ratio.square().mean()),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a finished or unfinished map")
    parser.add_argument("--pairs", type=int, default=150, help="whose rollouts to measure on")
    options = parser.parse_args()
    print("| " + " | ".join(_COLUMNS) + " |\n" + "| --- " * len(_COLUMNS) + "|")
    for row in rows(options.folder, num_pairs=options.pairs):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
