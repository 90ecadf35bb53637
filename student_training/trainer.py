"""transformers.Trainer, taught to normalise over the whole step and to save the bare student."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from transformers import Trainer

from data.errors import TrainingError
from student_training.order import BlockShuffleSampler
from student_training.student import EXPECTED_ADVANTAGE, TEACHER_EXPECTED_ADVANTAGE, StudentWithObjective

__all__ = ["StudentTrainer"]

logger = logging.getLogger(__name__)

#: A student whose expected advantage exceeds this many times the teacher's own, plus the margin, is exploiting
#: accidental log-ratios: healthy small-world runs ended near the teacher's level, collapsed ones at four times it.
_COLLAPSE_FACTOR, _COLLAPSE_MARGIN_NATS = 2.0, 0.25


class StudentTrainer(Trainer):
    """Train a `StudentWithObjective`.

    Losses are divided by counts over the whole optimizer step: all its micro-batches on all processes. So
    neither gradient accumulation nor the number of processes changes the loss or its gradient.
    """

    def __init__(self, model: StudentWithObjective, *, order: BlockShuffleSampler, **arguments: Any) -> None:
        super().__init__(model=model, **arguments)
        # compute_loss divides by the step's counts itself.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True
        self._order = order
        self._metrics: dict[str, torch.Tensor] = {}
        self._positions_since_log = 0
        self._last_log_s = time.monotonic()
        self._warned_of_collapse = False

    def _get_train_sampler(self, train_dataset: Any = None) -> BlockShuffleSampler:
        return self._order

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | None]:
        """Fetch the micro-batches of one optimizer step and count what they hold, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = torch.stack([batch["counts"].to(device) for batch in batches]).sum(0)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return batches, cast(torch.Tensor, counts)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """This batch's share of the step's loss."""
        outputs = model(step_counts=num_items_in_batch, **inputs)
        for name, value in outputs["metrics"].items():
            self._metrics[name] = self._metrics[name] + value if name in self._metrics else value
        self._positions_since_log += len(inputs["labels"])
        # Data-parallel wrappers average gradients over processes; the shares have to be added up.
        loss = outputs["loss"] * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """One forward and backward pass.

        Raises:
            TrainingError: when the loss is not finite; the optimizer has not moved since the last good step.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}; nothing was updated. "
                "Lower --learning-rate, or continue from the last checkpoint with another --seed"
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the method's terms, averaged over all positions since the last line, and the throughput."""
        if "loss" in logs:
            now = time.monotonic()
            for name in sorted(self._metrics):
                total = self._metrics[name]
                if self.args.world_size > 1:
                    total = self.accelerator.reduce(total, reduction="sum")
                logs[name] = (total[0] / total[1].clamp(min=1)).item()
            positions = torch.tensor(self._positions_since_log, device=self.args.device)
            if self.args.world_size > 1:
                positions = cast(torch.Tensor, self.accelerator.reduce(positions, reduction="sum"))
            logs["tokens_per_second"] = positions.item() / max(now - self._last_log_s, 1e-9)
            self._metrics, self._positions_since_log, self._last_log_s = {}, 0, now
            self._warn_of_collapse(logs)
        super().log(logs, start_time)

    def _warn_of_collapse(self, logs: dict[str, float]) -> None:
        if EXPECTED_ADVANTAGE not in logs or self._warned_of_collapse:
            return
        student, teacher = logs[EXPECTED_ADVANTAGE], logs[TEACHER_EXPECTED_ADVANTAGE]
        if student > _COLLAPSE_FACTOR * max(teacher, 0.0) + _COLLAPSE_MARGIN_NATS:
            self._warned_of_collapse = True
            logger.warning(
                "step %d: the student's expected advantage is %.2f nats, the teacher's own %.2f: a sign of collapse "
                "(see docs/objectives.md); consider a narrower --clip, a smaller --gamma or fewer steps",
                self.state.global_step,
                student,
                teacher,
            )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the student alone, as transformers or peft would, without the wrapper's prefix."""
        folder = output_dir if output_dir is not None else self.args.output_dir
        assert folder is not None
        wrapper = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if state_dict is not None:
            state_dict = {name.removeprefix("student."): value for name, value in state_dict.items()}
        wrapper.student.save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        student = self.accelerator.unwrap_model(model or self.model, keep_torch_compile=False).student
        if hasattr(student, "peft_config"):
            from peft import set_peft_model_state_dict  # noqa: PLC0415  (peft is slow to import)

            state = load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors")
            set_peft_model_state_dict(student, state)
            return
        state = {}
        for file in sorted(Path(resume_from_checkpoint).glob("model*.safetensors")):
            state |= load_file(file)
        missing, unexpected = student.load_state_dict(state, strict=False)
        # Tied heads are stored once and come back through the tie.
        tied = set(getattr(student, "all_tied_weights_keys", {}) or {})
        if set(missing) - tied or unexpected:
            raise TrainingError(
                f"{resume_from_checkpoint}: does not fit the student (missing {missing}, unexpected {unexpected}); "
                "remove it to continue from an older checkpoint"
            )
