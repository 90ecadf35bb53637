"""Speed on the real model: both scoring passes and a DCKD step, beside plain transformers loops that do the same.

python -m benchmarks.real_text.speed runs/real-text/friendly-0-fast

The plain loops keep nothing for later and compute whole matrices: scoring takes log-softmax and top-k of the teacher's
logits and the reference's at the same tokens, in batches of sixteen rows of similar length; distillation runs the
teacher beside the student in every step and takes the KL over the whole vocabulary. CPU seconds of one thread, so that
other processes on the machine count as little as possible; only the ratios are meant.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM

from adpa import ScoreOptions, SignalDataset, TrainOptions, score_teacher, train_student

_PAIRS, _BATCH, _STEPS, _TOP_K = 32, 16, 4, 50


def _rows(signals: Path) -> list[tuple[torch.Tensor, int]]:
    """Ids of the first pairs' rows with the length of their prompts."""
    dataset, found = SignalDataset.open(signals), []
    for index in range(_PAIRS):
        for row in dataset.pair(index):
            if row.role in ("chosen", "rejected"):
                ids = torch.cat([torch.tensor(row.prompt_ids), torch.tensor(row.response_ids)]).long()
                found.append((ids, len(row.prompt_ids)))
    return found


def _batches(rows: list[tuple[torch.Tensor, int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Padded ids, and where a response's tokens are predicted; both of shape (rows, tokens)."""
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        ids = torch.nn.utils.rnn.pad_sequence([row for row, _ in batch], batch_first=True)
        counts = torch.zeros(ids.shape, dtype=torch.bool)
        for number, (row, prompt) in enumerate(batch):
            counts[number, prompt - 1 : len(row) - 1] = True
        yield ids, counts


def _plain_scoring(teacher: Any, reference: Any, rows: list[tuple[torch.Tensor, int]]) -> None:
    with torch.no_grad():
        for ids, counts in _batches(sorted(rows, key=lambda row: len(row[0]))):
            logprobs, tokens = teacher(ids).logits[counts].log_softmax(-1).topk(_TOP_K)
            _ = logprobs - reference(ids).logits[counts].log_softmax(-1).gather(1, tokens)


def _plain_distillation(teacher: Any, student: Any, rows: list[tuple[torch.Tensor, int]]) -> None:
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)
    for ids, counts in _batches(rows):
        with torch.no_grad():
            target = teacher(ids).logits[counts].log_softmax(-1)
        logprobs = student(ids).logits[counts].log_softmax(-1)
        actual = ids.roll(-1, dims=1)[counts]
        nll = -logprobs.gather(1, actual[:, None]).mean()
        (nll + 5 * kl_div(logprobs, target, log_target=True, reduction="batchmean")).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(run: Path, folder: Path) -> dict[str, float]:
    """CPU seconds: of scoring the pairs, of one training step.

    Args:
        run: folder of a finished comparison.
        folder: for what is written meanwhile.
    """
    torch.set_num_threads(1)
    rows = _rows(run / "signals" / "pairs")
    lines = (run / "data" / "data.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(lines[:_PAIRS]), encoding="utf-8")
    teacher, reference, student = (
        AutoModelForCausalLM.from_pretrained(run / "models" / name)
        for name in ("teacher", "reference", "student")
    )
    plain = _cpu_seconds(lambda: _plain_scoring(teacher, reference, rows))
    live = _cpu_seconds(lambda: _plain_distillation(teacher, student, rows)) / (len(rows) / _BATCH)
    found = {"scoring, plain transformers": plain, "step, live teacher": live}
    for engine in ("vllm", "transformers"):
        options = ScoreOptions(
            teacher=str(run / "models" / "teacher"),
            reference=str(run / "models" / "reference"),
            data=str(pairs),
            out=str(folder / engine),
            pass_cache=str(folder / "passes"),
            engine=engine,
            own_process=False,
        )
        found[f"scoring, score-teacher with {engine}"] = _cpu_seconds(
            lambda options=options: score_teacher(options)
        )
    found["step, train-student"] = _step_seconds(run, folder)
    return found


def _step_seconds(run: Path, folder: Path) -> float:
    """CPU seconds of a DCKD step: what four more steps take, so that loading and saving are not in it."""

    def train(steps: int) -> float:
        options = TrainOptions(
            method="dckd",
            student=str(run / "models" / "student"),
            signals=(str(folder / "vllm"),),
            out=str(folder / f"trained-{steps}"),
            max_steps=steps,
            batch_size=_BATCH // 2,
        )
        return _cpu_seconds(lambda: train_student(options))

    few = train(1)
    return (train(1 + _STEPS) - few) / _STEPS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished comparison")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(parser.parse_args().run, Path(folder)), indent=1))


if __name__ == "__main__":
    main()
