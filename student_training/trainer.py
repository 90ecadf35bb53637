"""transformers.Trainer, made to average over the whole optimizer step and to save the bare student.

Its loop, optimizer, schedule, sharding and checkpoints are used as they are. What it does otherwise than needed is
overridden, and some of that is private: how it fetches the batches of a step (`get_batch_samples`: the counts that the
loss is divided by), moves them (`_prepare_input`), reads the gradient's norm (`_get_grad_norm`: stops before the
optimizer moves), saves and loads (`_save`, `_save_checkpoint`, `_load_from_checkpoint`, `_load_best_model`,
`_load_optimizer_and_scheduler`). The alternative, a loop on accelerate, would be shorter and would lose transformers'
integrations with FSDP, DeepSpeed and trackers. tests/student_training/test_transformers_contract.py fails by name when
a version of transformers calls them otherwise.
"""

import itertools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from data.errors import TrainingError
from data.files import write_atomic
from student_training.batching.epoch_batches import EpochBatches
from student_training.checkpoints.checkpoints import mark_whole, restore_weights, rotate_whole_checkpoints
from student_training.model.sharding import set_sharding_precision
from student_training.monitoring.health import derived, warnings_of
from student_training.monitoring.throughput import Speed, StepFlops, peak_flops
from student_training.student import StudentWithObjective

__all__ = ["StudentTrainer"]


logger = logging.getLogger(__name__)

#: Pairs that a message names.
_NAMED_PAIRS = 8

#: In a checkpoint: sums of the metrics since the last line of metrics.jsonl.
_UNWRITTEN_METRICS = "unwritten_metrics.json"


class StudentTrainer(Trainer):
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
        pair_id: Callable[[int], str],
        tokenizer: Any,
        keep_checkpoints: int,
        total_steps: int,
        **arguments: Any,
    ) -> None:
        """Set up training.

        Args:
            model: the student in its wrapper.
            batches: this process's, of the training pairs.
            eval_batches: this process's, of the held-out pairs; as many as on every other process.
            pair_id: name of a pair by its index, for messages.
            tokenizer: saved beside the weights. transformers.Trainer does not get it: it would write the
                tokenizer's special tokens over those of the student's configuration.
            keep_checkpoints: how many resumable checkpoints to keep.
            total_steps: optimizer steps of the whole run.
            **arguments: as for transformers.Trainer.
        """
        super().__init__(model=model, **arguments)
        set_sharding_precision(self.accelerator)
        # compute_loss divides by the step's counts itself.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True
        self._batches = batches
        self._eval_batches = eval_batches
        self._pair_id = pair_id
        self._tokenizer = tokenizer
        self._keep_checkpoints = keep_checkpoints
        self.total_steps = total_steps
        self._scheduled_steps: int | None = None
        self._weights = model.term_weights
        self._step_pairs: list[int] = []
        self._eval_counts: torch.Tensor | None = None
        self._metrics: dict[str, torch.Tensor] = {}
        self._speed = Speed(peak_flops(self.args.device))
        self._flops = StepFlops(model.student)
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

    def _over_processes(self, value: torch.Tensor) -> torch.Tensor:
        if self.args.world_size > 1:
            return cast(torch.Tensor, self.accelerator.reduce(value, reduction="sum"))
        return value

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
        self._speed.add(len(inputs["labels"]), self._flops(inputs))
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
        """Once in a run about each thing that the metrics say is going wrong."""
        first = next((line for line in self.state.log_history if "loss" in line), logs)
        for subject, message in warnings_of(logs, first).items():
            if subject not in self._warned_of:
                self._warned_of.add(subject)
                logger.warning("step %d: %s", self.state.global_step, message)

    def gathered_weights(self) -> dict[str, torch.Tensor] | None:
        """The student's weights by name, put together from all processes; None where each holds them whole.

        All processes have to call it; those that do not save get an empty dictionary.
        """
        if not self.is_fsdp_enabled:
            return None
        state: dict[str, Any] = self.accelerator.get_state_dict(self.model)
        return {name.removeprefix("student."): value for name, value in state.items()}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the student alone, as transformers or peft would, without the wrapper's prefix."""
        folder = output_dir if output_dir is not None else self.args.output_dir
        assert folder is not None
        wrapper = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if state_dict is not None:
            state_dict = {name.removeprefix("student."): value for name, value in state_dict.items()}
        wrapper.student.save_pretrained(folder, state_dict=state_dict)
        self._tokenizer.save_pretrained(folder)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save; when every process is done mark the checkpoint as complete and delete older ones."""
        super()._save_checkpoint(model, trial)
        totals = {name: self._over_processes(value).tolist() for name, value in sorted(self._metrics.items())}
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            assert self.args.output_dir is not None
            folder = Path(self.args.output_dir)
            checkpoint = folder / f"checkpoint-{self.state.global_step}"
            write_atomic(checkpoint / _UNWRITTEN_METRICS, json.dumps(totals))
            mark_whole(checkpoint)
            rotate_whole_checkpoints(
                folder, limit=self._keep_checkpoints, best=self.state.best_model_checkpoint
            )

    def finish_from(self, checkpoint: Path) -> bool:
        """Take over a checkpoint that was the run's last one, if it was, without training on.

        Returns:
            Whether it was; then the student and the trainer's state are those at the end of the run.
        """
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step < self.total_steps:
            return False
        self.state = state
        best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
        # By its name: the folder may have moved since.
        self._restore(checkpoint if best is None else checkpoint.parent / Path(best).name)
        return True

    def continue_from(self, checkpoint: Path) -> int:
        """Train on from a checkpoint to the end.

        Returns:
            The step that it was saved at.
        """
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        path = checkpoint / _UNWRITTEN_METRICS
        if path.exists() and self.args.process_index == 0:
            sums = json.loads(path.read_text())
            self._metrics = {
                name: torch.tensor(value, dtype=torch.float64, device=self.args.device)
                for name, value in sums.items()
            }
        self._check_place(checkpoint, state)
        self._scheduled_steps = state.max_steps
        logger.info("continuing from %s, at step %d of %d", checkpoint, state.global_step, self.total_steps)
        if state.max_steps != self.total_steps:
            logger.info(
                "the run is extended from %d to %d steps: the learning rate now follows the longer run's schedule, "
                "after %d steps on the shorter's",
                state.max_steps,
                self.total_steps,
                state.global_step,
            )
        self.train(resume_from_checkpoint=str(checkpoint))
        return state.global_step

    def _check_place(self, checkpoint: Path, state: TrainerState) -> None:
        """Refuse a checkpoint whose steps had other pairs than this run's: its epochs had other numbers of batches.

        Raises:
            TrainingError: naming what to change.
        """
        per_epoch, per_step = len(self._batches), self.args.gradient_accumulation_steps
        epoch, step = divmod(state.global_step - 1, math.ceil(per_epoch / per_step))
        expected = epoch + min((step + 1) * per_step, per_epoch) / per_epoch
        if state.epoch is not None and not math.isclose(state.epoch, expected, abs_tol=1e-6):
            raise TrainingError(
                f"{checkpoint}: step {state.global_step} was at epoch {state.epoch:.4f}, in this run it would be at "
                f"{expected:.4f}: epochs have other batches now; under --max-tokens-per-batch a longer run can cut its "
                "epochs differently. Train on into another --out from the trained student"
            )

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

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both; in an extended run set the rate of the next step, which is stored for the shorter schedule."""
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule = self.lr_scheduler
        if checkpoint is None or self._scheduled_steps in {None, self.total_steps}:
            return
        if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR) and self.optimizer is not None:
            rates = [
                base * factor(schedule.last_epoch)
                for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            ]
            for group, rate in zip(cast(Any, self.optimizer).param_groups, rates, strict=True):
                group["lr"] = rate
            schedule._last_lr = rates

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._restore(Path(resume_from_checkpoint))

    def _restore(self, checkpoint: Path) -> None:
        student = self.accelerator.unwrap_model(self.model, keep_torch_compile=False).student
        restore_weights(student, checkpoint)


def _add_up(totals: dict[str, torch.Tensor], metrics: dict[str, torch.Tensor]) -> None:
    for name, value in metrics.items():
        totals[name] = totals[name] + value if name in totals else value
