"""transformers.Trainer, made to average over the whole optimizer step and to save the bare student.

Its loop, optimizer, schedule, sharding and checkpoints are used as they are. What it does otherwise than needed is
overridden, and some of that is private: how it fetches the batches of a step (`get_batch_samples`: the counts that the
loss is divided by), moves them (`_prepare_input`), reads the gradient's norm (`_get_grad_norm`: stops before the
optimizer moves), saves and loads (`_save`, `_save_checkpoint`, `_load_from_checkpoint`, `_load_best_model`,
`_load_optimizer_and_scheduler`). The alternative, a loop on accelerate, would be shorter and would lose transformers'
integrations with FSDP, DeepSpeed and trackers. tests/student_training/test_transformers_contract.py fails by name when
a version of transformers calls them otherwise.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, cast

import torch
from torch.utils.data import DataLoader, Dataset

from data.errors import TrainingError
from student_training.batching.epoch_batches import EpochBatches
from student_training.checkpoints.resumable import ResumableTrainer
from student_training.monitoring.health import derived, warnings_of
from student_training.monitoring.throughput import Speed, batch_flops, peak_flops, student_size
from student_training.student import StudentWithObjective

logger = logging.getLogger(__name__)

#: Pairs that a message names.
_NAMED_PAIRS = 8


class StudentTrainer(ResumableTrainer):
    """Train a `StudentWithObjective`.

    Losses are divided by counts over the whole optimizer step: all its micro-batches on all processes. So
    neither gradient accumulation nor the number of processes changes the loss or its gradient.
    """

    def __init__(
        self,
        model: StudentWithObjective,
        *,
        batches: EpochBatches,
        eval_batches: Sequence[list[int]] = (),
        plain_rollouts: bool = True,
        pair_id: Callable[[int], str],
        **arguments: Any,
    ) -> None:
        """Set up training.

        Args:
            model: the student in its wrapper.
            batches: this process's, of the training pairs.
            eval_batches: this process's, of the held-out pairs; as many as on every other process.
            plain_rollouts: as for `warnings_of`.
            pair_id: name of a pair by its index, for messages.
            **arguments: as for `ResumableTrainer`.
        """
        super().__init__(model=model, batches=batches, **arguments)
        set_sharding_precision(self.accelerator)
        # compute_loss divides by the step's counts itself.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True
        self._eval_batches = eval_batches
        self._pair_id = pair_id
        self._weights = model.term_weights
        self._step_pairs: list[int] = []
        self._eval_counts: torch.Tensor | None = None
        self._speed = Speed(peak_flops(self.args.device))
        self._size = student_size(model.student)
        self._plain_rollouts = plain_rollouts
        self._warned_of: set[str] = set()

    def get_train_dataloader(self) -> DataLoader:
        """The training pairs, in this process's batches."""
        return self._loader(self._batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The held-out pairs, in this process's batches."""
        return self._loader(self._eval_batches)

    def _loader(self, batches: Iterable[list[int]]) -> DataLoader:
        """Batches as tensors. Not through accelerate, which would deal them out to the processes again."""
        return DataLoader(
            cast(Dataset, self.train_dataset),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            pin_memory=self.args.dataloader_pin_memory,
            # Drawn from at every pass: with torch's own, a look at the held-out pairs would change dropout.
            generator=torch.Generator(),
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | None]:
        """Fetch the micro-batches of one optimizer step and count what they hold, over all processes."""
        self._speed.start_fetching()
        batches = list(itertools.islice(epoch_iterator, num_batches))
        self._speed.end_fetching()
        if not batches:
            return batches, None
        self._step_pairs = torch.cat([batch["pair_index"] for batch in batches]).tolist()
        return batches, self._summed([batch["counts"] for batch in batches])

    def _summed(self, counts: list[torch.Tensor]) -> torch.Tensor:
        """Counts added up over batches and processes."""
        total = torch.stack([count.to(self.args.device) for count in counts]).sum(0)
        return self._over_processes(total)

    def anywhere(self, flags: list[bool]) -> list[bool]:
        """Which flags are set on any process; all processes have to call it."""
        if self.args.world_size == 1:
            return flags
        return (
            self._over_processes(torch.tensor(flags, dtype=torch.int64, device=self.args.device))
            .bool()
            .tolist()
        )

    def _prepare_input(self, data: Any) -> Any:
        """A batch on the device; under DeepSpeed transformers would round the signals to the weights' precision."""
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """This batch's share of the step's loss.

        Raises:
            TrainingError: when it is not finite. Before the backward pass, in which DeepSpeed takes the step.
        """
        outputs = model(step_counts=num_items_in_batch, **inputs)
        if not torch.isfinite(outputs["loss"]):
            self._stop("loss", outputs["loss"].item(), inputs["pair_index"].tolist())
        _add_up(self._metrics, outputs["metrics"])
        self._speed.add(len(inputs["labels"]), batch_flops(self._size, inputs))
        # Data-parallel wrappers average gradients over processes; the shares have to be added up.
        loss = outputs["loss"] * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The gradient's norm; called before every optimizer step.

        Raises:
            TrainingError: when it is not finite.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not math.isfinite(norm):
            self._stop("gradient's norm", float(norm), self._step_pairs)
        return norm

    def _stop(self, what: str, value: float, pairs: Sequence[int]) -> NoReturn:
        """Stop before the optimizer moves."""
        names = ", ".join(self._pair_id(index) for index in pairs[:_NAMED_PAIRS])
        more = f" and {len(pairs) - _NAMED_PAIRS} more" if len(pairs) > _NAMED_PAIRS else ""
        raise TrainingError(
            f"step {self.state.global_step + 1}: the {what} is {value}, on pairs {names}{more}; the optimizer did not "
            "move and the checkpoints are those of before. Look at these pairs (adpa signals inspect), or train into "
            "another --out with a lower --learning-rate"
        )

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss and every term over the held-out pairs, normalised over all of them as over one batch."""
        loader = self.get_eval_dataloader(eval_dataset)
        if self._eval_counts is None:
            self._eval_counts = self._summed([batch["counts"] for batch in loader])
        model = cast(torch.nn.Module, self.model_wrapped)
        was_training = model.training
        model.eval()
        loss = torch.zeros((), dtype=torch.float64, device=self.args.device)
        metrics: dict[str, torch.Tensor] = {}
        for batch in map(self._prepare_inputs, loader):
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = model(step_counts=self._eval_counts, **batch)
            loss += outputs["loss"].double()
            _add_up(metrics, outputs["metrics"])
        model.train(was_training)
        logs = {f"{metric_key_prefix}_loss": self._over_processes(loss).item()}
        for name, value in derived(self._means(metrics)).items():
            logs[f"{metric_key_prefix}_{name}"] = value
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def _means(self, metrics: dict[str, torch.Tensor]) -> dict[str, float]:
        """Metrics kept as (sum, count), averaged over everything on all processes."""
        totals = {name: self._over_processes(metrics[name]) for name in sorted(metrics)}
        return {name: (total[0] / total[1].clamp(min=1)).item() for name, total in totals.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the method's terms, averaged over everything since the last line, and the throughput.

        The loss becomes the sum of these terms with their weights: transformers would average over steps, in which a
        small batch counts as much as a large one.
        """
        if "loss" in logs:
            means = self._means(self._metrics)
            logs["loss"] = math.fsum(weight * means[name] for name, weight in self._weights.items())
            logs |= derived(means)
            own = torch.tensor([self._speed.positions, self._speed.flops], device=self.args.device)
            positions, flops = self._over_processes(own).tolist()
            logs |= self._speed.take(positions, flops, self.args.world_size)
            self._metrics = {}
            self._warn(logs)
        super().log(logs, start_time)

    def _warn(self, logs: dict[str, float]) -> None:
        """Once about each thing that the metrics, which are those of all processes, say is going wrong."""
        if not self.is_world_process_zero():
            return
        lines = [*(line for line in self.state.log_history if "loss" in line), logs]
        for subject, message in warnings_of(lines, plain_rollouts=self._plain_rollouts).items():
            if subject not in self._warned_of:
                self._warned_of.add(subject)
                logger.warning("step %d: %s", self.state.global_step, message)

    def try_batch(self) -> None:
        """Run the first batch forward and backward and forget it, so that a run that cannot take a step never starts.

        Raises:
            TrainingError: when the loss is not finite.
        """
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return  # the student is sharded when training begins
        indices = next(iter(self._batches), [])
        dataset, collate = cast(Any, self.train_dataset), cast(Any, self.data_collator)
        batch = self._prepare_inputs(collate([dataset[index] for index in indices]))
        model, device = cast(Any, self.model), self.args.device
        was_training = model.training
        model.train()
        if self.args.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        devices = [device] if device.type == "cuda" else []
        # Dropout's random numbers are those of the first step afterwards.
        with (
            torch.random.fork_rng(devices),
            torch.autocast(device.type, torch.bfloat16, enabled=self.args.bf16),
        ):
            loss = model(**batch)["loss"]
            if not torch.isfinite(loss):
                self._stop("loss", loss.item(), batch["pair_index"].tolist())
            loss.backward()
        model.zero_grad()
        model.train(was_training)


def set_sharding_precision(accelerator: Any) -> None:
    """Let FSDP2 round the student's weights for the arithmetic, and nothing else; nothing without FSDP2.

    What goes into the outermost module are the signals: in bfloat16 a log-probability of -5 nats would be off by a
    hundredth. What comes out are the loss and the metrics with their counts. Gradients are summed in float32.

    Args:
        accelerator: accelerate's, before it prepares the model.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy,
            reduce_dtype=torch.float32,
            output_dtype=None,
            cast_forward_inputs=False,
        )


def _add_up(totals: dict[str, torch.Tensor], metrics: dict[str, torch.Tensor]) -> None:
    for name, value in metrics.items():
        totals[name] = totals[name] + value if name in totals else value
