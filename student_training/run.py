"""train-student from options to a checkpoint: `train_student`, and `plan_training` for its memory."""

import contextlib
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from data.errors import ConfigurationError, TrainingError
from data.model_identity import refuse_adapter, refuse_other_models, resolve_model
from data.progress import Progress
from student_training.arguments import check_machine, training_arguments
from student_training.batching.packing import check_packing
from student_training.checkpoints.checkpoints import (
    last_whole_checkpoint,
    remove_torn_checkpoints,
    rotate_whole_checkpoints,
)
from student_training.checkpoints.interruption import StopRequest
from student_training.checkpoints.model_card import write_model_card
from student_training.checkpoints.run_record import (
    Found,
    determining_request,
    find_run,
    library_versions,
    record_run,
)
from student_training.checkpoints.saving import is_finished, reopen, save_student
from student_training.checkpoints.trial import check_saving
from student_training.inputs.inputs import Inputs, open_inputs
from student_training.methods import Method, find_method
from student_training.model.layout import lay_out, read_configuration, with_layers
from student_training.model.loading import (
    load_student,
    load_tokenizer,
    stop_at,
    training_dtype,
)
from student_training.model.lora import add_lora
from student_training.monitoring.memory import TrainingPlan
from student_training.monitoring.metrics import CountedSteps
from student_training.options import TrainOptions, resolve_method
from student_training.preparation import build_trainer, choose_batcher, measure_plan
from student_training.recommendation import COMPARED_METHODS, measure_leaning, recommend_method
from student_training.result import TrainingResult, read_metrics
from student_training.student import StudentWithObjective
from student_training.trainer import StudentTrainer

logger = logging.getLogger(__name__)

_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Options with what they name, all of it found usable; nothing written yet.

    Attributes:
        method: built from its settings.
        settings: the method's, as run.toml records them.
        folder: the student's checkpoint.
        tokenizer: the student's.
        inputs: the pairs.
        request: all that determines the trained weights.
    """

    method: Method
    settings: dict[str, Any]
    folder: Path
    tokenizer: Any
    inputs: Inputs
    request: dict[str, Any]


def train_student(options: TrainOptions) -> TrainingResult:
    """Train a student and save it; continue a run that was interrupted, extend one that is asked to be longer.

    Nothing is written before options, inputs and student have all been found usable, and no step is taken before the
    student was saved once and one batch has run. SIGINT and SIGTERM end with a checkpoint.

    Args:
        options: what to train on what, and how.
    Raises:
        AdpaError: for unusable options, data or signals, before any training; or when training must stop.
        KeyboardInterrupt: after SIGINT; its text says what the same command will do.
        SystemExit: with code 143, after SIGTERM.
    """
    if options.dry_run:
        raise ConfigurationError("--dry-run: plan_training plans a run; train_student would start it")
    started_s = time.monotonic()
    out = Path(options.out)
    with StopRequest("nothing had been trained yet; the same command starts again") as stop:
        run = _prepare(options)
        found = find_run(out, run.request)
        if found is Found.SAME and is_finished(out):
            logger.info("%s holds this run already, finished; nothing to do", out)
            return _result(options, read_metrics(out), already_finished=True)
        model = _load_model(options, run)
        arguments = training_arguments(options, evaluate=len(run.inputs.eval_indices) > 0)
        batcher = choose_batcher(
            options, run.inputs, run.method.needs.roles, num_processes=arguments.world_size
        )
        continues = options.resume and last_whole_checkpoint(out / _CHECKPOINTS) is not None
        if not continues and arguments.should_save:
            check_saving(model.student, run.tokenizer, out, trust_remote_code=options.trust_remote_code)
        if arguments.should_save and not continues:
            _recommend(options, run)
        if found is not Found.SAME:
            record_run(out, run.request, library_versions(), _paths(options))
        trainer = build_trainer(
            options, arguments, run.method, model, run.tokenizer, run.inputs, batcher, stop
        )
        if found is Found.SHORTER:
            _reopen(out, trainer)
        if found is Found.SAME and not continues:
            logger.info("%s has no checkpoint yet: training starts at step 1", out)
        resumed_from = _train(trainer, options, stop)
        stop.consequence = "the same command saves the trained student"
        save_student(
            trainer,
            out,
            run.tokenizer,
            student_folder=run.folder,
            trust_remote_code=options.trust_remote_code,
            keep_adapter=options.keep_adapter,
        )
        result = _result(
            options,
            trainer.state.log_history,
            steps=trainer.state.global_step,
            saved_step=_saved_step(trainer),
            resumed_from=resumed_from,
            seconds=time.monotonic() - started_s,
        )
        if trainer.args.should_save:
            _tidy(options, run, result, trainer.state.best_model_checkpoint)
        return result


def plan_training(options: TrainOptions) -> TrainingPlan:
    """How much memory and time a run would take, and which cards it fits; writes nothing.

    The student's folder needs no weights, only configuration and tokenizer; those of a hub name are not downloaded.

    Raises:
        AdpaError: for unusable options, data or signals.
    """
    # Only bitsandbytes knows how much memory quantised weights take.
    is_quantized = options.quantize != "none"
    run = _prepare(options, need_weights=is_quantized)
    if is_quantized:
        model, probes = _load_model(options, run), []
    else:
        trust = options.trust_remote_code
        configuration = read_configuration(run.folder, trust_remote_code=trust)
        student = lay_out(configuration, trust_remote_code=trust)
        embedding: Any = student.get_input_embeddings()
        run.inputs.check_embeddings(embedding.weight.shape[0], options.student)
        shallow = [
            with_layers(configuration, number, trust_remote_code=trust, drawn=options.packing)
            for number in (1, 2)
        ]
        model, *probes = (_with_objective(options, run, each) for each in (student, *shallow))
        if options.packing:
            check_packing(probes[-1].student)
    batcher = choose_batcher(options, run.inputs, run.method.needs.roles, num_processes=1)
    return measure_plan(
        options, run.method, model, run.inputs, batcher, probes=[probe.student for probe in probes]
    )


def _prepare(options: TrainOptions, *, need_weights: bool = True) -> _Prepared:
    method, settings = resolve_method(options)
    check_machine(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)  # for the whole process: torch knows no other way
    folder, identity = resolve_model(
        options.student, revision=options.revision, option="--student", need_weights=need_weights
    )
    refuse_adapter(folder, "--student")
    refuse_other_models(folder, "--student")
    tokenizer = load_tokenizer(folder, trust_remote_code=options.trust_remote_code)
    inputs = open_inputs(options, method.needs, tokenizer)
    request = determining_request(options, settings, {"student": identity.as_dict(), **inputs.identity})
    return _Prepared(method, settings, folder, tokenizer, inputs, request)


def _load_model(options: TrainOptions, run: _Prepared) -> StudentWithObjective:
    set_seed(options.seed)
    logger.info(
        "torch %s on %s: loading the student, %s",
        torch.__version__,
        torch.accelerator.current_accelerator(check_available=True) or "cpu",
        training_dtype(options.dtype),
    )
    # Its bars for loading and saving weights would interleave with ours.
    transformers_logging.disable_progress_bar()
    student = load_student(run.folder, trust_remote_code=options.trust_remote_code, quantize=options.quantize)
    embedding: Any = student.get_input_embeddings()
    run.inputs.check_embeddings(embedding.weight.shape[0], options.student)
    model = _with_objective(options, run, student)
    if options.packing:
        check_packing(model.student)
    return model


def _with_objective(options: TrainOptions, run: _Prepared, student: Any) -> StudentWithObjective:
    if options.gradient_checkpointing and not student.supports_gradient_checkpointing:
        raise ConfigurationError(
            f"--gradient-checkpointing: {type(student).__name__} cannot compute its activations again; "
            "leave the option out"
        )
    # The end of a turn need not be the tokenizer's end of a sequence: Llama 3 and Gemma have both.
    stop_at(student, (run.inputs.terminator_id, run.tokenizer.eos_token_id))
    if options.lora_rank is not None:
        student = add_lora(student, options.lora_rank, options.lora_targets)
    return StudentWithObjective(
        student,
        run.method,
        normalize=run.settings["normalize"],
        head_chunk=options.head_chunk,
        end_id=run.inputs.terminator_id,
        has_rollouts=bool(run.inputs.rollouts),
    )


def _recommend(options: TrainOptions, run: _Prepared) -> None:
    """Say so where another method usually won on such signals; it changes nothing."""
    if options.method not in COMPARED_METHODS:
        return  # nothing would be said, so nothing is read
    if (line := recommend_method(options.method, measure_leaning(run.inputs.signals))) is not None:
        logger.info(line)


def _paths(options: TrainOptions) -> dict[str, Any]:
    """Where the inputs are, for the record and for `--config run.toml`."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name in ("student", "signals", "eval_signals", "rollouts", "data")
        if (value := getattr(options, name))
    }


def _reopen(out: Path, trainer: StudentTrainer) -> None:
    """Let a finished run be extended, from its last checkpoint.

    Raises:
        TrainingError: when it has finished and that checkpoint is gone.
    """
    if not is_finished(out):
        return
    if last_whole_checkpoint(out / _CHECKPOINTS) is None:
        raise TrainingError(
            f"{out} has finished and its last checkpoint is gone, so it cannot be extended; "
            f"train on into another --out with --student {out}"
        )
    if trainer.args.should_save:
        reopen(out)
    trainer.accelerator.wait_for_everyone()


def _train(trainer: StudentTrainer, options: TrainOptions, stop: StopRequest) -> int | None:
    """Train from the last whole checkpoint, or from the beginning; the step that it continued from, if it did."""
    checkpoints = Path(options.out) / _CHECKPOINTS
    if trainer.args.should_save:
        remove_torn_checkpoints(checkpoints)
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_whole_checkpoint(checkpoints) if options.resume else None
    if checkpoint is not None and trainer.finish_from(checkpoint):
        return trainer.state.global_step
    resumed_from = None
    if checkpoint is None:
        trainer.try_batch()
    stop.deferred = True
    with _counted(trainer):
        if checkpoint is None:
            trainer.train()
        else:
            resumed_from = trainer.continue_from(checkpoint)
    stop.deferred = False
    saved = last_whole_checkpoint(checkpoints)
    if saved is not None:
        stop.consequence = f"saved in {saved}; the same command continues there"
    stop.end()
    return resumed_from


def _counted(trainer: StudentTrainer) -> contextlib.AbstractContextManager[Any]:
    """Off a terminal, a line every half minute with steps, speed and time left; on one there is a bar."""
    if not (trainer.args.disable_tqdm and trainer.args.should_log):
        return contextlib.nullcontext()
    progress = Progress("train", unit="steps", total=trainer.total_steps)
    trainer.add_callback(CountedSteps(progress))
    return progress


def _saved_step(trainer: StudentTrainer) -> int:
    """The step whose student is saved."""
    state = trainer.state
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    return best or state.global_step


def _result(
    options: TrainOptions, lines: list[dict[str, Any]], *, saved_step: int | None = None, **known: Any
) -> TrainingResult:
    out = Path(options.out)
    steps = known.pop("steps", max((line["step"] for line in lines), default=0))
    return TrainingResult.from_metrics(
        out,
        lines,
        # Of a short run not so much that its beginning is in it.
        window=min(options.logging_steps, math.ceil(steps / 4)),
        saved_step=steps if saved_step is None else saved_step,
        steps=steps,
        checkpoint=last_whole_checkpoint(out / _CHECKPOINTS),
        **known,
    )


def _tidy(options: TrainOptions, run: _Prepared, result: TrainingResult, best: str | None) -> None:
    """Write the model card, and delete intermediate checkpoints: the last and the best are what an extension needs."""
    write_model_card(
        result.out,
        student=options.student,
        method=options.method,
        summary=find_method(options.method).summary,
        settings=run.settings,
        signals=run.inputs.signals,
        data=options.data,
        first={**result.held_out_first, **result.first},
        last={**result.held_out, **result.last},
    )
    if not options.keep_checkpoints:
        rotate_whole_checkpoints(result.out / _CHECKPOINTS, limit=1, best=best)
    if result.held_out_first and result.held_out["eval_loss"] > result.held_out_first["eval_loss"]:
        logger.warning(
            "the held-out loss is %.4g, before training it was %.4g: it got worse on pairs that it has not seen",
            result.held_out["eval_loss"],
            result.held_out_first["eval_loss"],
        )
