"""train-student from options to a checkpoint."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from data.errors import ConfigurationError
from data.model_identity import resolve_model
from student_training.arguments import check_machine, training_arguments
from student_training.batching.packing import check_packing
from student_training.checkpoints.checkpoints import last_whole_checkpoint, remove_torn_checkpoints
from student_training.checkpoints.run_record import (
    determining_request,
    holds_run,
    library_versions,
    record_run,
)
from student_training.checkpoints.saving import is_finished, save_student
from student_training.inputs.inputs import open_inputs
from student_training.methods import Method
from student_training.model.loading import add_lora, load_student, load_tokenizer
from student_training.options import TrainOptions, resolve_method
from student_training.preparation import build_trainer, choose_cut, report_memory
from student_training.student import StudentWithObjective
from student_training.trainer import StudentTrainer

__all__ = ["TrainOptions", "TrainingResult", "resolve_method", "train_student"]


logger = logging.getLogger(__name__)

_CHECKPOINTS = "checkpoints"


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
    out, roles = Path(options.out), method.needs.roles
    if options.dry_run:
        model = _load_model(options, method, settings, folder)
        cut = choose_cut(options, inputs, roles, num_processes=1)
        report_memory(options, method, model, inputs, cut, report)
        return TrainingResult(out, 0, {})
    request = determining_request(options, settings, {"student": identity.as_dict(), **inputs.identity})
    known = holds_run(out, request)
    if known and is_finished(out):
        report(f"{out} holds this run already, finished; nothing to do")
        return TrainingResult(out, 0, {})
    model = _load_model(options, method, settings, folder)
    inputs.check_embeddings(model.student.get_input_embeddings().weight.shape[0], options.student)
    arguments = training_arguments(options, evaluate=len(inputs.eval_indices) > 0)
    cut = choose_cut(options, inputs, roles, num_processes=arguments.world_size)
    if not known:
        paths = {
            name: list(value) if isinstance(value, tuple) else value
            for name in ("student", "signals", "eval_signals", "rollouts", "data")
            if (value := getattr(options, name))
        }
        record_run(out, request, library_versions(), paths)
    trainer = build_trainer(options, arguments, method, model, tokenizer, inputs, cut, report)
    _train(trainer, options, report)
    save_student(trainer, out, tokenizer, student_folder=folder, trust_remote_code=options.trust_remote_code)
    last = next((entry for entry in reversed(trainer.state.log_history) if "loss" in entry), {})
    return TrainingResult(out, trainer.state.global_step, last)


def _load_model(
    options: TrainOptions, method: Method, settings: dict[str, Any], folder: Path
) -> StudentWithObjective:
    set_seed(options.seed)
    # Its bars for loading and saving weights would interleave with ours.
    transformers_logging.disable_progress_bar()
    student = load_student(folder, trust_remote_code=options.trust_remote_code, quantize=options.quantize)
    if options.gradient_checkpointing and not student.supports_gradient_checkpointing:
        raise ConfigurationError(
            f"--gradient-checkpointing: {type(student).__name__} cannot compute its activations again; "
            "leave the option out"
        )
    if options.lora_rank is not None:
        student = add_lora(student, options.lora_rank, options.lora_targets)
    if options.packing:
        check_packing(student)
    return StudentWithObjective(
        student, method, normalize=settings["normalize"], head_chunk=options.head_chunk
    )


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
