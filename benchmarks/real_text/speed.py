"""Speed on the real model: both scoring passes and a DCKD step, beside plain loops and TRL's trainers.

python -m benchmarks.real_text.speed runs/real-text/friendly-0-fast        (with TRL where `.[bench]` is installed)

The plain loops keep nothing for later and compute whole matrices: scoring takes log-softmax and top-k of the teacher's
logits and the reference's at the same tokens, in batches of sixteen rows of similar length; distillation runs the
teacher beside the student in every step and takes the KL over the whole vocabulary. TRL's DPO has its reference's
log-probabilities from a pass before training, its GKD a live teacher and the given answers. All train on sixteen rows a
step. CPU seconds of one thread, so that other processes on the machine count as little as possible; only the ratios
are meant.
"""

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import kl_div
from torch.nn.utils.rnn import pad_sequence
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM, AutoTokenizer

from adpa import ScoreOptions, SignalDataset, TrainOptions, score_teacher, train_student
from benchmarks.folders import folder_with

_PAIRS, _ROWS, _STEPS, _TOP_K = 48, 16, 5, 50

Row = tuple[torch.Tensor, int]


def read_rows(signals: Path) -> list[Row]:
    """Ids of the first pairs' rows, and the length of their prompts."""
    dataset, found = SignalDataset.open(signals), []
    for index in range(_PAIRS):
        for row in dataset.pair(index):
            if row.role in ("chosen", "rejected"):
                ids = torch.cat([torch.tensor(row.prompt_ids), torch.tensor(row.response_ids)]).long()
                found.append((ids, len(row.prompt_ids)))
    return found


def _batches(rows: list[Row]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Padded ids, and where a response's tokens are predicted; both of shape (rows, tokens)."""
    for start in range(0, len(rows), _ROWS):
        batch = rows[start : start + _ROWS]
        ids = pad_sequence([row for row, _ in batch], batch_first=True)
        counts = torch.zeros(ids.shape, dtype=torch.bool)
        for number, (row, prompt) in enumerate(batch):
            counts[number, prompt - 1 : len(row) - 1] = True
        yield ids, counts


def _plain_scoring(teacher: Any, reference: Any, rows: list[Row]) -> None:
    with torch.no_grad():
        for ids, counts in _batches(sorted(rows, key=lambda row: len(row[0]))):
            logprobs, tokens = teacher(ids).logits[counts].log_softmax(-1).topk(_TOP_K)
            _ = logprobs - reference(ids).logits[counts].log_softmax(-1).gather(1, tokens)


def _plain_distillation(teacher: Any, student: Any, rows: list[Row]) -> None:
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)
    for ids, counts in _batches(rows):
        with torch.no_grad():
            target = teacher(ids).logits[counts].log_softmax(-1)
        logprobs = student(ids).logits[counts].log_softmax(-1)
        nll = -logprobs.gather(1, ids.roll(-1, dims=1)[counts][:, None]).mean()
        (nll + 5 * kl_div(logprobs, target, log_target=True, reduction="batchmean")).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _trl_arguments(folder: Path, batch_size: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": batch_size,
        "max_steps": _STEPS,
        "learning_rate": 1e-5,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _trl_dpo(student: Path, pairs: Path, folder: Path) -> None:
    trl = importlib.import_module("trl")
    lines = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    answers = {
        name: [[{"role": "assistant", "content": line[name]}] for line in lines]
        for name in ("chosen", "rejected")
    }
    trl.DPOTrainer(
        str(student),
        args=trl.DPOConfig(**_trl_arguments(folder, _ROWS // 2), precompute_ref_log_probs=True),
        train_dataset=Dataset.from_dict({"prompt": [line["prompt"] for line in lines], **answers}),
        processing_class=AutoTokenizer.from_pretrained(student),
    ).train()


def _trl_gkd(student: Path, teacher: Path, rows: list[Row], folder: Path) -> None:
    gkd = importlib.import_module("trl.experimental.gkd")

    def collate(numbered: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = [rows[row["number"]] for row in numbered]
        ids = pad_sequence([row for row, _ in batch], batch_first=True)
        labels = ids.clone()
        for number, (row, prompt) in enumerate(batch):
            labels[number, :prompt] = -100
            labels[number, len(row) :] = -100
        mask = (torch.arange(ids.shape[1]) < torch.tensor([len(row) for row, _ in batch])[:, None]).long()
        # It reads only the prompts' common length from these two.
        shortest = min(prompt for _, prompt in batch)
        prompts = {"prompts": ids[:, :shortest], "prompt_attention_mask": mask[:, :shortest]}
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, **prompts}

    gkd.GKDTrainer(
        str(student),
        str(teacher),
        args=gkd.GKDConfig(
            **_trl_arguments(folder, _ROWS), remove_unused_columns=False, lmbda=0.0, beta=0.0, temperature=1.0
        ),
        train_dataset=Dataset.from_dict({"prompt": [""] * len(rows), "number": list(range(len(rows)))}),
        processing_class=AutoTokenizer.from_pretrained(student),
        data_collator=collate,
    ).train()


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _step_seconds(train: Callable[[], object]) -> float:
    """Median CPU seconds from the end of one optimizer step to the end of the next."""
    ends: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(time.process_time()))
    with contextlib.redirect_stdout(sys.stderr):  # some trainers print
        train()
    hook.remove()
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def _plain_loops(models: dict[str, Path], rows: list[Row]) -> dict[str, float]:
    networks = {name: AutoModelForCausalLM.from_pretrained(folder) for name, folder in models.items()}
    teacher, reference, student = (networks[name] for name in ("teacher", "reference", "student"))
    return {
        "scoring, plain transformers": _cpu_seconds(lambda: _plain_scoring(teacher, reference, rows)),
        "step, plain, live teacher": _step_seconds(lambda: _plain_distillation(teacher, student, rows)),
    }


def measure(run: Path, folder: Path) -> dict[str, float]:
    """CPU seconds: of scoring pairs, of one training step.

    Args:
        run: folder of a finished comparison.
        folder: for what is written meanwhile.
    """
    torch.set_num_threads(1)
    models = {name: run / "models" / name for name in ("teacher", "reference", "student")}
    rows = read_rows(run / "signals" / "pairs")
    lines = (run / "data" / "data.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(lines[:_PAIRS]), encoding="utf-8")
    found = _plain_loops(models, rows)
    for engine in ("vllm", "transformers"):
        options = ScoreOptions(
            teacher=str(models["teacher"]),
            reference=str(models["reference"]),
            data=str(pairs),
            out=str(folder / engine),
            pass_cache=str(folder / f"passes-{engine}"),
            engine=engine,
            max_length=192,
            max_num_batched_tokens=512,
            own_process=False,
        )
        found[f"scoring, score-teacher, {engine}"] = _cpu_seconds(
            lambda options=options: score_teacher(options)
        )
    options = TrainOptions(
        method="dckd",
        student=str(models["student"]),
        signals=(str(folder / "transformers"),),
        out=str(folder / "trained"),
        max_steps=_STEPS,
        batch_size=_ROWS // 2,
    )
    found["step, train-student dckd"] = _step_seconds(lambda: train_student(options))
    if importlib.util.find_spec("trl") is not None:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        found["step, TRL DPO"] = _step_seconds(lambda: _trl_dpo(models["student"], pairs, folder))
        found["step, TRL GKD, live teacher"] = _step_seconds(
            lambda: _trl_gkd(models["student"], models["teacher"], rows, folder)
        )
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=folder_with("results.json"), help="folder of a finished comparison")
    run = parser.parse_args().run
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(run, Path(folder)), indent=1))


if __name__ == "__main__":
    main()
