"""train-student from options to a checkpoint."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, set_seed
from transformers.utils import logging as transformers_logging

from data.models import resolve_model
from student_training.arguments import check_machine, training_arguments
from student_training.batches import PairCollator, PairDataset
from student_training.checkpoints import last_whole_checkpoint, remove_torn_checkpoints
from student_training.initial import initial_logprobs
from student_training.inputs import Inputs, open_inputs
from student_training.lm_head import read_head
from student_training.loading import add_lora, load_student, load_tokenizer, training_dtype
from student_training.memory import largest_batch, plan_memory
from student_training.methods import Method, build_method, find_method, preset_settings
from student_training.metrics import LineAtEveryCheckpoint, MetricsFile, ProgressLines
from student_training.options import SETTING_NAMES, TrainOptions
from student_training.order import EpochOrder, SetEpoch
from student_training.pairs import pair_lengths
from student_training.record import determining_request, holds_run, library_versions, record_run
from student_training.saving import is_finished, save_student
from student_training.student import StudentWithObjective
from student_training.trainer import StudentTrainer

__all__ = ["TrainOptions", "TrainingResult", "resolve_method", "train_student"]

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

    Nothing is written before options, inputs and student have all been found usable.

    Args:
        options: what to train on what, and how.
        report: takes lines for the user.
    Raises:
        AdpaError: for unusable options, data or signals, before any training; or when training must stop.
    """
    method, settings = resolve_method(options)
    check_machine(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    folder, identity = resolve_model(options.student, revision=options.revision, option="--student")
    tokenizer = load_tokenizer(folder, trust_remote_code=options.trust_remote_code)
    inputs = open_inputs(options, method.needs, tokenizer, report)
    out = Path(options.out)
    if options.dry_run:
        model = _load_model(options, method, settings, folder)
        _report_memory(options, method, model, inputs, report)
        return TrainingResult(out, 0, {})
    request = determining_request(options, settings, {"student": identity.as_dict(), **inputs.identity})
    known = holds_run(out, request)
    if known and is_finished(out):
        report(f"{out} holds this run already, finished; nothing to do")
        return TrainingResult(out, 0, {})
    model = _load_model(options, method, settings, folder)
    if not known:
        paths = {
            name: list(value) if isinstance(value, tuple) else value
            for name in ("student", "signals", "rollouts", "data")
            if (value := getattr(options, name))
        }
        record_run(out, request, library_versions(), paths)
    trainer = _build_trainer(options, method, model, tokenizer, inputs, report)
    _train(trainer, options, report)
    save_student(trainer, out, tokenizer, student_folder=folder, trust_remote_code=options.trust_remote_code)
    last = next((entry for entry in reversed(trainer.state.log_history) if "loss" in entry), {})
    return TrainingResult(out, trainer.state.global_step, last)


def resolve_method(options: TrainOptions) -> tuple[Method, dict[str, Any]]:
    """The method, and its settings as run.toml records them, with how the loss is normalised among them."""
    spec = find_method(options.method)
    preset = preset_settings(options.preset, spec.name)
    normalize = options.normalize or preset.pop("normalize", "token")
    given = {name: getattr(options, name) for name in SETTING_NAMES}
    chosen = {name: preset.get(name) if value is None else value for name, value in given.items()}
    method, settings = build_method(spec, chosen)
    return method, {**settings, "normalize": normalize}


def _load_model(
    options: TrainOptions, method: Method, settings: dict[str, Any], folder: Path
) -> StudentWithObjective:
    set_seed(options.seed)
    # Its bars for loading and saving weights would interleave with ours.
    transformers_logging.disable_progress_bar()
    student = load_student(folder, trust_remote_code=options.trust_remote_code, quantize=options.quantize)
    if options.lora_rank is not None:
        student = add_lora(student, options.lora_rank, options.lora_targets)
    return StudentWithObjective(
        student, method, normalize=settings["normalize"], head_chunk=options.head_chunk
    )


def _report_memory(
    options: TrainOptions,
    method: Method,
    model: StudentWithObjective,
    inputs: Inputs,
    report: Callable[[str], None],
) -> None:
    collator = PairCollator(method.needs, vocab_size=read_head(model.student).weight.shape[0], pad_token_id=0)
    dataset = PairDataset(inputs.source, method.needs.roles)
    order = EpochOrder(inputs.train_blocks, seed=options.seed, weights=options.signal_weight)
    plan = plan_memory(
        model.student,
        largest_batch(dataset, order, collator, batch_size=options.batch_size),
        optimizer=options.optimizer,
        head_chunk=options.head_chunk,
        accumulates=options.gradient_accumulation > 1,
        checkpointing=options.gradient_checkpointing,
        bf16=training_dtype(options.dtype) == "bfloat16",
    )
    for line in plan.describe():
        report(line)


def _train(trainer: StudentTrainer, options: TrainOptions, report: Callable[[str], None]) -> None:
    """Train from the last whole checkpoint, or from the beginning."""
    checkpoints = Path(options.out) / _CHECKPOINTS
    if trainer.args.should_save:
        remove_torn_checkpoints(checkpoints)
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_whole_checkpoint(checkpoints) if options.resume else None
    if checkpoint is None:
        trainer.train()
    elif not trainer.finish_from(checkpoint):
        report(f"continuing from {checkpoint}")
        trainer.train(resume_from_checkpoint=str(checkpoint))


def _build_trainer(
    options: TrainOptions,
    method: Method,
    model: StudentWithObjective,
    tokenizer: Any,
    inputs: Inputs,
    report: Callable[[str], None],
) -> StudentTrainer:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    out = Path(options.out)
    source, roles = inputs.source, method.needs.roles
    arguments = training_arguments(options, evaluate=len(inputs.eval_indices) > 0)
    everything = PairDataset(source, roles)
    widths = {
        "vocab_size": read_head(model.student).weight.shape[0],
        "pad_token_id": tokenizer.pad_token_id or 0,
    }
    behavior = inputs.behavior() if method.needs.behavior else None
    initial = None
    if method.needs.initial:
        with arguments.main_process_first(desc="initial student"):
            initial = initial_logprobs(
                model.student,
                everything,
                PairCollator(method.needs, **widths),
                cache=out / _INITIAL,
                batch_size=options.batch_size,
                head_chunk=options.head_chunk,
                device=arguments.device,
                quiet=bool(arguments.disable_tqdm),
            )
    order = EpochOrder(
        inputs.train_blocks,
        seed=options.seed,
        weights=options.signal_weight,
        lengths=pair_lengths(source, roles) if options.group_by_length else None,
        batch_size=options.batch_size,
    )
    callbacks = [
        SetEpoch(order),
        LineAtEveryCheckpoint(),
        MetricsFile(out / "metrics.jsonl"),
        ProgressLines(report, quiet=not arguments.disable_tqdm),
    ]
    if options.early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(options.early_stopping))
    trainer = StudentTrainer(
        model,
        order=order,
        pair_id=everything.pair_id,
        keep_checkpoints=options.save_total_limit,
        args=arguments,
        train_dataset=everything,
        eval_dataset=PairDataset(source, roles, inputs.eval_indices) if len(inputs.eval_indices) else None,
        data_collator=PairCollator(method.needs, **widths, initial=initial, behavior=behavior),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    # It would print every logged step as a dictionary; ProgressLines says as much in fewer lines.
    trainer.remove_callback(PrinterCallback)
    return trainer
