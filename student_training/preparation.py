"""What a run needs before its first step: its batches, a plan of its memory, its trainer."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from data.errors import ConfigurationError
from student_training.arguments import uses_bf16
from student_training.batching.batchers import Batcher, FixedSize, TokenBudget, pair_sizes
from student_training.batching.collator import PairCollator, PairDataset
from student_training.batching.epoch_batches import EpochBatches, SetEpoch
from student_training.batching.order import EpochOrder
from student_training.batching.packing import use_varlen_attention
from student_training.batching.reward_means import reward_means
from student_training.checkpoints.interruption import SaveOnRequest, StopRequest
from student_training.head.lm_head import read_head
from student_training.inputs.inputs import Inputs
from student_training.methods import Method
from student_training.model.initial_student import InitialPass
from student_training.monitoring.cost import count_work, estimate_cost
from student_training.monitoring.memory import TrainingPlan, largest_batch, plan_memory
from student_training.monitoring.metrics import (
    EvaluateFirst,
    LineAtEveryCheckpoint,
    MetricsFile,
    ProgressBar,
    ProgressLines,
)
from student_training.monitoring.throughput import student_size
from student_training.options import TrainOptions
from student_training.result import METRICS_FILE
from student_training.student import StudentWithObjective
from student_training.trainer import StudentTrainer

logger = logging.getLogger(__name__)


_INITIAL, _INITIAL_SUPPORTS = "initial-student.parquet", "initial-student.arrow"


def choose_batcher(
    options: TrainOptions, inputs: Inputs, roles: frozenset[str], *, num_processes: int
) -> Batcher:
    """How the options cut pairs into batches; measures the pairs where that depends on their lengths.

    Raises:
        ConfigurationError: when a pair does not fit into the budget of tokens on its own, or no pair is left.
    """
    if not EpochOrder(inputs.train_blocks, seed=options.seed, weights=options.signal_weight).num_pairs:
        raise ConfigurationError(
            "--signal-weight: these weights leave no pair to train on in an epoch; give larger ones"
        )
    budget = options.max_tokens_per_batch
    if budget is None:
        lengths = pair_sizes(inputs.source, roles).longest if options.group_by_length else None
        return FixedSize(options.batch_size, num_processes, lengths)
    sizes = pair_sizes(inputs.source, roles)
    batcher = TokenBudget(sizes, budget, packed=options.packing, grouped=options.group_by_length)
    costs = batcher.costs_alone(np.arange(inputs.source.num_pairs))
    largest = int(costs.argmax())
    if costs[largest] > budget:
        raise ConfigurationError(
            f"--max-tokens-per-batch: {budget} tokens do not hold pair {inputs.source.pair(largest)[0].pair_id}, "
            f"which needs {costs[largest]} ({sizes.num_rows[largest]} rows, the longest of "
            f"{sizes.longest[largest]} tokens); give at least {costs[largest]}"
        )
    return batcher


def measure_plan(
    options: TrainOptions,
    method: Method,
    model: StudentWithObjective,
    inputs: Inputs,
    batcher: Batcher,
    probes: Sequence[Any],
) -> TrainingPlan:
    """How much memory training would take, from the largest batch of the first epoch, and how long all of it.

    Args:
        options: the run's.
        method: what it trains with.
        model: the student in its wrapper; its weights may be on torch's meta device.
        inputs: the pairs.
        batcher: how they become batches.
        probes: as for `plan_memory`.
    """
    order = EpochOrder(inputs.train_blocks, seed=options.seed, weights=options.signal_weight)
    batches = EpochBatches(order, batcher, epochs=options.epochs, max_steps=options.max_steps)
    measured = batcher.sizes if isinstance(batcher, TokenBudget) else None
    sizes = measured or pair_sizes(inputs.source, method.needs.roles)
    dataset = PairDataset(inputs.source, method.needs.roles)
    epoch = list(batches)
    pairs = [dataset[index] for index in largest_batch(epoch, sizes, packed=options.packing)]
    batch = _collator(options, method, model, pad_token_id=0)(pairs)
    memory = plan_memory(
        model.student,
        batch,
        optimizer=options.optimizer,
        head_chunk=options.head_chunk,
        accumulates=options.gradient_accumulation > 1,
        checkpointing=options.gradient_checkpointing,
        bf16=uses_bf16(options),
        probes=probes,
    )
    scored = [row.num_scored for _, row in inputs.source.iterate_ids() if row.role in method.needs.roles]
    positions = sum(scored) / max(1, inputs.source.num_pairs)
    work = count_work(epoch, sizes, positions, packed=options.packing)
    steps = batches.total_steps(options.epochs, options.max_steps, options.gradient_accumulation)
    cost = estimate_cost(
        student_size(model.student),
        work.times(steps * options.gradient_accumulation / max(1, len(epoch))),
        steps=steps,
        first_pass=work if method.needs.initial or method.needs.initial_support else None,
        checkpointing=options.gradient_checkpointing,
        # What `auto` is on every card in the table.
        dtype="float32" if options.dtype == "float32" else "bfloat16",
    )
    return TrainingPlan(
        pairs=len(batch["pair_index"]),
        rows=len(batch["row_length"]),
        tokens=batch["input_ids"].numel(),
        tokens_without_padding=int(batch["row_tokens"].sum()),
        positions=len(batch["labels"]),
        memory=memory,
        cost=cost,
    )


def build_trainer(
    options: TrainOptions,
    arguments: TrainingArguments,
    method: Method,
    model: StudentWithObjective,
    tokenizer: Any,
    inputs: Inputs,
    batcher: Batcher,
    stop: StopRequest,
) -> StudentTrainer:
    """The trainer, with everything that its batches need; runs the initial student over them if the method asks.

    Args:
        options: the run's.
        arguments: the same for transformers.
        method: what to train with.
        model: the student in its wrapper.
        tokenizer: saved beside the weights.
        inputs: the pairs.
        batcher: how they become batches.
        stop: notes signals while it trains.
    """
    out = Path(options.out)
    everything = PairDataset(inputs.source, method.needs.roles)
    # Any id of the embedding will do, since padding is masked. The tokenizer is not changed.
    pad_token_id = tokenizer.pad_token_id or 0
    if pad_token_id >= model.student.get_input_embeddings().weight.shape[0]:
        pad_token_id = 0
    behavior = inputs.behavior() if inputs.rollouts else None
    if options.packing and use_varlen_attention(model.student, bf16=uses_bf16(options)):
        logger.info("packed rows are separated by flash attention")
    means = reward_means(inputs.signals) if method.needs.reward_means else None
    initial, initial_supports = None, None
    if method.needs.initial or method.needs.initial_support:
        initial_pass = InitialPass(
            model.student,
            everything,
            _batches(batcher, np.arange(len(everything))),
            _collator(options, method, model, pad_token_id),
            head_chunk=options.head_chunk,
            device=arguments.device,
            bf16=uses_bf16(options),
        )
        with arguments.main_process_first(desc="initial student"):
            if method.needs.initial:
                initial = initial_pass.tokens(out / _INITIAL)
            if method.needs.initial_support:
                initial_supports = initial_pass.supports(out / _INITIAL_SUPPORTS)
    batches = EpochBatches(
        EpochOrder(inputs.train_blocks, seed=options.seed, weights=options.signal_weight),
        batcher,
        epochs=options.epochs,
        max_steps=options.max_steps,
        gradient_accumulation=options.gradient_accumulation,
        process_index=arguments.process_index,
        num_processes=arguments.world_size,
    )
    total_steps = batches.total_steps(options.epochs, options.max_steps, options.gradient_accumulation)
    callbacks: list[TrainerCallback] = [
        SetEpoch(batches),
        LineAtEveryCheckpoint(),
        MetricsFile(out / METRICS_FILE),
        ProgressLines() if arguments.disable_tqdm else ProgressBar(),
    ]
    if options.early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(options.early_stopping))
    if "tensorboard" in options.report_to:
        board = TensorBoardCallback()
        board.logging_dir = str(out / "tensorboard")
        callbacks.append(board)
    trainer = StudentTrainer(
        model,
        batches=batches,
        eval_batches=_share(_batches(batcher, inputs.eval_indices), arguments),
        plain_rollouts=inputs.has_plain_rollouts,
        pair_id=everything.pair_id,
        keep_checkpoints=options.save_total_limit,
        total_steps=total_steps,
        args=arguments,
        train_dataset=everything,
        eval_dataset=everything if len(inputs.eval_indices) else None,
        data_collator=_collator(
            options,
            method,
            model,
            pad_token_id,
            initial=initial,
            initial_supports=initial_supports,
            behavior=behavior,
            means=means,
        ),
        tokenizer=tokenizer,
        callbacks=callbacks,
    )
    # They would print every logged step as a dictionary.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    # Last: checkpoints between the scheduled ones get no line, and the first evaluation needs the file and the bar.
    trainer.add_callback(SaveOnRequest(stop, save_minutes=options.save_minutes, anywhere=trainer.anywhere))
    if len(inputs.eval_indices):
        trainer.add_callback(EvaluateFirst(trainer.evaluate))
    return trainer


def _collator(
    options: TrainOptions, method: Method, model: StudentWithObjective, pad_token_id: int, **known: Any
) -> PairCollator:
    return PairCollator(
        method.needs,
        vocab_size=read_head(model.student).weight.shape[0],
        pad_token_id=pad_token_id,
        packed=options.packing,
        **known,
    )


def _batches(batcher: Batcher, pairs: np.ndarray) -> list[list[int]]:
    """Pairs that are visited in order, in batches."""
    return [batch.tolist() for batch in batcher(pairs, np.random.default_rng(0)) if len(batch)]


def _share(batches: list[list[int]], arguments: TrainingArguments) -> list[list[int]]:
    """This process's batches; processes that would have one less than others get an empty one."""
    missing = -len(batches) % arguments.world_size
    return [*batches, *([[]] * missing)][arguments.process_index :: arguments.world_size]
