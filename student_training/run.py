"""train-student from options to a checkpoint."""

import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from data.errors import ConfigurationError, DataError
from data.models import resolve_model
from data.signals import SignalDataset
from data.vocabulary import Vocabulary, check_agreement
from student_training.batches import PairCollator, PairDataset
from student_training.initial import initial_logprobs
from student_training.lm_head import read_head
from student_training.loading import add_lora, load_student, load_tokenizer, training_dtype
from student_training.methods import Method, Needs, build_method, find_method
from student_training.metrics import MetricsFile, ProgressLines
from student_training.options import SETTING_NAMES, TrainOptions
from student_training.order import BlockShuffleSampler
from student_training.pairs import ConcatenatedPairs, PairSource, read_encoded_pairs
from student_training.record import determining_request, library_versions, open_run
from student_training.student import StudentWithObjective
from student_training.trainer import StudentTrainer

__all__ = ["TrainOptions", "TrainingResult", "train_student"]

logger = logging.getLogger(__name__)

_CHECKPOINTS, _INITIAL = "checkpoints", "initial-student.parquet"


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run left behind.

    Attributes:
        out: the checkpoint's folder.
        steps: optimizer steps that it has taken.
        metrics: the last logged step; empty when the run had been finished before.
    """

    out: Path
    steps: int
    metrics: dict[str, float]


def train_student(options: TrainOptions, *, report: Callable[[str], None] = logger.info) -> TrainingResult:
    """Train a student and save it.

    Args:
        options: what to train on what, and how.
        report: takes lines for the user.
    Raises:
        AdpaError: for unusable options, data or signals, before any training; or when training must stop.
    """
    spec = find_method(options.method)
    method, settings = build_method(spec, {name: getattr(options, name) for name in SETTING_NAMES})
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    folder, identity = resolve_model(options.student, revision=options.revision, option="--student")
    tokenizer = load_tokenizer(folder, trust_remote_code=options.trust_remote_code)
    source, inputs = _open_source(options, method.needs, tokenizer, report)
    out = Path(options.out)
    request = determining_request(options, settings, {"student": identity.as_dict(), **inputs})
    paths = {"student": options.student, "signals": list(options.signals), "data": options.data}
    open_run(out, request, library_versions(), paths)
    if (out / "config.json").exists():
        report(f"{out} holds this run already, finished; nothing to do")
        return TrainingResult(out, 0, {})
    trainer = _build_trainer(options, method, folder, tokenizer, source, report)
    checkpoint = get_last_checkpoint(str(out / _CHECKPOINTS)) if options.resume else None
    if checkpoint is not None:
        report(f"continuing from {checkpoint}")
    trainer.train(resume_from_checkpoint=checkpoint)
    _save_result(trainer, options, out, tokenizer)
    last = next((entry for entry in reversed(trainer.state.log_history) if "loss" in entry), {})
    return TrainingResult(out, trainer.state.global_step, last)


def _open_source(
    options: TrainOptions, needs: Needs, tokenizer: Any, report: Callable[[str], None]
) -> tuple[PairSource, dict[str, Any]]:
    """Open what the options name and check that it holds what the method needs."""
    if options.data is not None:
        if needs.signals:
            raise ConfigurationError(
                f"method {options.method} learns from a teacher: give --signals (made by score-teacher), not --data"
            )
        pairs, data_hash, described = read_encoded_pairs(
            options.data,
            tokenizer,
            split=options.split,
            roles=needs.roles,
            max_length=options.max_length,
            truncate=options.truncate,
        )
        for line in described:
            report(line)
        return pairs, {"data": data_hash}
    datasets = [SignalDataset.open(path, check_shards=options.check_shards) for path in options.signals]
    student = Vocabulary.from_tokenizer(tokenizer)
    for path, dataset in zip(options.signals, datasets, strict=True):
        teacher = Vocabulary.from_folder(dataset.tokenizer_folder)
        for note in check_agreement(
            teacher, student, teacher_name=f"{path} (teacher)", student_name=options.student
        ):
            report(f"note: {note}")
        report(
            f"{path}: {dataset.num_pairs:,} pairs, {dataset.num_rows:,} responses, "
            f"{dataset.num_positions:,} scored positions"
        )
        _check_needs(needs, options.method, path, dataset)
    source = datasets[0] if len(datasets) == 1 else ConcatenatedPairs(datasets)
    return source, {"signals": [dataset.manifest.fingerprint for dataset in datasets]}


def _check_needs(needs: Needs, method: str, path: str, dataset: SignalDataset) -> None:
    present = [role for role, count in dataset.manifest.roles.items() if count.rows]
    missing = sorted(needs.roles - set(present))
    if missing:
        hint = "; add --rollouts (made by sample-student) and" if "student" in missing else ";"
        raise DataError(
            f"{path}: method {method} needs {' and '.join(missing)} responses, this dataset has "
            f"{' and '.join(present) or 'none'}{hint} score it with --score {','.join(sorted(needs.roles))}"
        )
    unscored = sorted(needs.signals - set(dataset.roles))
    if unscored:
        raise DataError(
            f"{path}: method {method} needs the teacher's signals on {' and '.join(unscored)} responses, here they "
            f"carry ids only; score again with --score {','.join(sorted(needs.signals))}"
        )
    if needs.advantages and not dataset.has_advantages:
        raise DataError(
            f"{path}: method {method} needs advantages, but no reference was scored; "
            "run score-teacher again with --reference"
        )


def _build_trainer(
    options: TrainOptions,
    method: Method,
    folder: Path,
    tokenizer: Any,
    source: PairSource,
    report: Callable[[str], None],
) -> StudentTrainer:
    set_seed(options.seed)
    # Its bars for loading and saving weights would interleave with ours.
    transformers_logging.disable_progress_bar()
    student = load_student(folder, trust_remote_code=options.trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    out = Path(options.out)
    arguments = _training_arguments(options)
    vocab_size = read_head(student).weight.shape[0]
    pad_token_id = tokenizer.pad_token_id or 0
    dataset = PairDataset(source, method.needs.roles)
    collator = PairCollator(method.needs, vocab_size=vocab_size, pad_token_id=pad_token_id)
    if method.needs.initial:
        initial = initial_logprobs(
            student,
            dataset,
            collator,
            cache=out / _INITIAL,
            batch_size=options.batch_size,
            head_chunk=options.head_chunk,
            device=arguments.device,
            quiet=bool(arguments.disable_tqdm),
        )
        collator = PairCollator(
            method.needs, vocab_size=vocab_size, pad_token_id=pad_token_id, initial=initial
        )
    model = student if options.lora_rank is None else add_lora(student, options.lora_rank)
    wrapped = StudentWithObjective(model, method, normalize=options.normalize, head_chunk=options.head_chunk)
    trainer = StudentTrainer(
        wrapped,
        order=BlockShuffleSampler(source.blocks, seed=options.seed),
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[
            MetricsFile(out / "metrics.jsonl"),
            ProgressLines(report, quiet=not arguments.disable_tqdm),
        ],
    )
    # It would print every logged step as a dictionary; ProgressLines says as much in fewer lines.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _training_arguments(options: TrainOptions) -> TrainingArguments:
    transformers_logging.set_verbosity_warning()
    return TrainingArguments(
        output_dir=str(Path(options.out) / _CHECKPOINTS),
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler,
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        num_train_epochs=options.epochs,
        max_steps=-1 if options.max_steps is None else options.max_steps,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=training_dtype(options.dtype) == "bfloat16",
        seed=options.seed,
        logging_steps=options.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=options.save_steps,
        save_total_limit=options.save_total_limit,
        report_to=[],
        remove_unused_columns=False,
        label_names=[],
        disable_tqdm=not sys.stderr.isatty(),
    )


def _save_result(trainer: StudentTrainer, options: TrainOptions, out: Path, tokenizer: Any) -> None:
    """Save the student into `out`, config.json last, so that its presence means finished."""
    staging = out / ".saving"
    shutil.rmtree(staging, ignore_errors=True)
    if options.lora_rank is not None:
        student = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).student
        if trainer.args.should_save:
            student.merge_and_unload().save_pretrained(staging)
            tokenizer.save_pretrained(staging)
    else:
        trainer.save_model(str(staging))
    if not trainer.args.should_save:
        return
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(out / path.name)
    staging.rmdir()
