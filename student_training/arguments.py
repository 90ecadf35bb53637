"""Training options as transformers.TrainingArguments."""

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from data.errors import ConfigurationError
from student_training.batching.transport import BATCHES_AHEAD
from student_training.model.loading import require_bitsandbytes, training_dtype
from student_training.options import TrainOptions

#: How long processes wait for each other: one of them may run the initial student over all pairs in the meantime.
_LONGEST_WAIT_S = 4 * 3600

_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw-8bit": "adamw_bnb_8bit",
    "paged-adamw-8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}


def check_machine(options: TrainOptions) -> None:
    """Check that what the options ask for exists on this machine.

    Raises:
        ConfigurationError: naming the option and what is missing.
    """
    if options.optimizer.endswith("8bit"):
        require_bitsandbytes(f"--optimizer {options.optimizer}")
    if options.quantize != "none":
        require_bitsandbytes(f"--quantize {options.quantize}")
    for name in options.report_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigurationError(f"--report-to: the package {name} is not installed; pip install {name}")


def training_arguments(options: TrainOptions, *, evaluate: bool) -> TrainingArguments:
    """The run's options as transformers has them.

    Args:
        options: the run's.
        evaluate: whether pairs are held out.
    """
    transformers_logging.set_verbosity_warning()
    num_workers = _loader_workers(options)
    keep_best = options.keep_best or options.early_stopping is not None
    arguments = TrainingArguments(
        output_dir=str(Path(options.out) / "checkpoints"),
        learning_rate=options.learning_rate,
        optim=_optimizer(options.optimizer),
        lr_scheduler_type=options.lr_scheduler,
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        num_train_epochs=options.epochs,
        max_steps=-1 if options.max_steps is None else options.max_steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=uses_bf16(options),
        seed=options.seed,
        logging_steps=options.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=options.save_steps,
        # The trainer deletes old checkpoints itself, once the new one is complete.
        save_total_limit=None,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=options.save_steps if evaluate else None,
        load_best_model_at_end=keep_best,
        metric_for_best_model="eval_loss" if keep_best else None,
        greater_is_better=False if keep_best else None,
        # Keeps the count of evaluations without an improvement over an interruption.
        restore_callback_states_from_checkpoint=options.early_stopping is not None,
        dataloader_num_workers=num_workers,
        dataloader_prefetch_factor=BATCHES_AHEAD if num_workers else None,
        dataloader_pin_memory=torch.cuda.is_available(),
        # TensorBoard is added by hand, to have its files where a user looks for them.
        report_to=[name for name in options.report_to if name != "tensorboard"],
        run_name=Path(options.out).name,
        # Explicit: processes without accelerators would not connect otherwise.
        use_cpu=not _has_accelerator(),
        ddp_timeout=_LONGEST_WAIT_S,
        remove_unused_columns=False,
        label_names=[],
        disable_tqdm=not sys.stderr.isatty(),
    )
    if arguments.n_gpu > 1:
        # Or the trainer would split every tensor of a batch over the GPUs, which flat positions do not survive.
        # There is no public setting for it; accelerate or torchrun start one process for each GPU.
        arguments._n_gpu = 1
    return arguments


def uses_bf16(options: TrainOptions) -> bool:
    """Whether the arithmetic is bfloat16."""
    return training_dtype(options.dtype) == "bfloat16"


def _loader_workers(options: TrainOptions) -> int:
    """One is enough for well over 100,000 positions a second; each further one decodes all blocks again."""
    if options.loader_workers is not None:
        return options.loader_workers
    return 1 if _has_accelerator() else 0


def _has_accelerator() -> bool:
    """Whether there is a usable GPU; Apple's has no float64, in which metrics are summed."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device is not None and device.type != "mps"


def _optimizer(name: str) -> str:
    """transformers' name of an optimizer; on CUDA AdamW is one kernel that needs no temporaries."""
    return "adamw_torch_fused" if name == "adamw" and torch.cuda.is_available() else _OPTIMIZERS[name]
