"""What a run needs before its first step: its batches, a plan of its memory, its trainer."""

from collections.abc import Callable
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
from student_training.batching.collator import PairCollator, PairDataset
from student_training.batching.cutting import ByPairs, ByTokens, Cut, pair_sizes
from student_training.batching.epoch_batches import EpochBatches, SetEpoch
from student_training.batching.order import EpochOrder
from student_training.batching.packing import use_varlen_attention
from student_training.batching.reward_means import reward_means
from student_training.head.lm_head import read_head
from student_training.inputs.inputs import Inputs
from student_training.methods import Method
from student_training.model.initial_student import initial_logprobs
from student_training.model.loading import stop_at
from student_training.monitoring.memory import largest_batch, plan_memory
from student_training.monitoring.metrics import LineAtEveryCheckpoint, MetricsFile, ProgressBar, ProgressLines
from student_training.options import TrainOptions
from student_training.student import StudentWithObjective
from student_training.trainer import StudentTrainer

__all__ = ["build_trainer", "choose_cut", "report_memory"]


_INITIAL = "initial-student.parquet"


def choose_cut(options: TrainOptions, inputs: Inputs, roles: frozenset[str], *, num_processes: int) -> Cut:
    """How the options cut pairs into batches; measures the pairs where that depends on their lengths.

    Raises:
        ConfigurationError: when a pair does not fit into the budget of tokens on its own.
    """
    budget = options.max_tokens_per_batch
    if budget is None:
        lengths = pair_sizes(inputs.source, roles).longest if options.group_by_length else None
        return ByPairs(options.batch_size, num_processes, lengths)
    sizes = pair_sizes(inputs.source, roles)
    cut = ByTokens(sizes, budget, packed=options.packing, grouped=options.group_by_length)
    costs = cut.costs_alone(np.arange(inputs.source.num_pairs))
    largest = int(costs.argmax())
    if costs[largest] > budget:
        raise ConfigurationError(
            f"--max-tokens-per-batch: {budget} tokens do not hold pair {inputs.source.pair(largest)[0].pair_id}, "
            f"which needs {costs[largest]} ({sizes.num_rows[largest]} rows, the longest of "
            f"{sizes.longest[largest]} tokens); give at least {costs[largest]}"
        )
    return cut


def report_memory(
    options: TrainOptions,
    method: Method,
    model: StudentWithObjective,
    inputs: Inputs,
    cut: Cut,
    report: Callable[[str], None],
) -> None:
    """Say how much memory training would take."""
    order = EpochOrder(inputs.train_blocks, seed=options.seed, weights=options.signal_weight)
    batches = EpochBatches(order, cut, epochs=options.epochs, max_steps=options.max_steps)
    sizes = cut.sizes if isinstance(cut, ByTokens) else pair_sizes(inputs.source, method.needs.roles)
    dataset = PairDataset(inputs.source, method.needs.roles)
    pairs = [dataset[index] for index in largest_batch(batches, sizes, packed=options.packing)]
    batch = _collator(options, method, model, pad_token_id=0)(pairs)
    report(
        f"largest batch of the first epoch: {len(batch['pair_index']):,} pairs, {len(batch['row_length']):,} rows, "
        f"{batch['input_ids'].numel():,} tokens ({int(batch['row_tokens'].sum()):,} without padding), "
        f"{len(batch['labels']):,} response positions"
    )
    plan = plan_memory(
        model.student,
        batch,
        optimizer=options.optimizer,
        head_chunk=options.head_chunk,
        accumulates=options.gradient_accumulation > 1,
        checkpointing=options.gradient_checkpointing,
        bf16=uses_bf16(options),
    )
    for line in plan.describe():
        report(line)


def build_trainer(
    options: TrainOptions,
    arguments: TrainingArguments,
    method: Method,
    model: StudentWithObjective,
    tokenizer: Any,
    inputs: Inputs,
    cut: Cut,
    report: Callable[[str], None],
) -> StudentTrainer:
    """The trainer, with everything that its batches need; runs the initial student over them if the method asks.

    Args:
        options: the run's.
        arguments: the same for transformers.
        method: what to train with.
        model: the student in its wrapper.
        tokenizer: saved beside the weights.
        inputs: the pairs.
        cut: how they become batches.
        report: takes lines for the user.
    """
    # The end of a turn need not be the tokenizer's end of a sequence: Llama 3 and Gemma have both.
    stop_at(model.student, (inputs.terminator_id, tokenizer.eos_token_id))
    out = Path(options.out)
    everything = PairDataset(inputs.source, method.needs.roles)
    # Any id does: what it fills up is masked. The tokenizer stays as it came.
    pad_token_id = tokenizer.pad_token_id or 0
    behavior = inputs.behavior() if method.needs.behavior else None
    if options.packing and use_varlen_attention(model.student, bf16=uses_bf16(options)):
        report("packed rows are kept apart by flash attention")
    means = reward_means(inputs.signals) if method.needs.reward_means else None
    initial = None
    if method.needs.initial:
        with arguments.main_process_first(desc="initial student"):
            initial = initial_logprobs(
                model.student,
                everything,
                _batches(cut, np.arange(len(everything))),
                _collator(options, method, model, pad_token_id),
                cache=out / _INITIAL,
                head_chunk=options.head_chunk,
                device=arguments.device,
                bf16=uses_bf16(options),
                quiet=bool(arguments.disable_tqdm),
            )
    batches = EpochBatches(
        EpochOrder(inputs.train_blocks, seed=options.seed, weights=options.signal_weight),
        cut,
        epochs=options.epochs,
        max_steps=options.max_steps,
        gradient_accumulation=options.gradient_accumulation,
        process_index=arguments.process_index,
        num_processes=arguments.world_size,
    )
    callbacks: list[TrainerCallback] = [
        SetEpoch(batches),
        LineAtEveryCheckpoint(),
        MetricsFile(out / "metrics.jsonl"),
        ProgressLines(report) if arguments.disable_tqdm else ProgressBar(),
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
        eval_batches=_share(_batches(cut, inputs.eval_indices), arguments),
        pair_id=everything.pair_id,
        keep_checkpoints=options.save_total_limit,
        args=arguments,
        train_dataset=everything,
        eval_dataset=everything if len(inputs.eval_indices) else None,
        data_collator=_collator(
            options, method, model, pad_token_id, initial=initial, behavior=behavior, means=means
        ),
        tokenizer=tokenizer,
        callbacks=callbacks,
    )
    # They would print every logged step as a dictionary.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
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


def _batches(cut: Cut, pairs: np.ndarray) -> list[list[int]]:
    """Pairs that are visited in order, in batches."""
    return [batch.tolist() for batch in cut(pairs, np.random.default_rng(0)) if len(batch)]


def _share(batches: list[list[int]], arguments: TrainingArguments) -> list[list[int]]:
    """This process's batches; processes that would have one less than others get an empty one."""
    missing = -len(batches) % arguments.world_size
    return [*batches, *([[]] * missing)][arguments.process_index :: arguments.world_size]
