"""transformers.Trainer with checkpoints that are whole or absent, from which a run continues byte for byte.

It saves the bare student, without the wrapper around it, and with a checkpoint the sums of the metrics since the last
line of metrics.jsonl. What it overrides is listed in student_training/trainer.py.
"""

import json
import logging
import math
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from data.errors import TrainingError
from data.files import write_atomic
from student_training.batching.epoch_batches import EpochBatches
from student_training.checkpoints.checkpoints import mark_whole, restore_weights, rotate_whole_checkpoints

logger = logging.getLogger(__name__)

#: In a checkpoint: sums of the metrics since the last line of metrics.jsonl.
_UNWRITTEN_METRICS = "unwritten_metrics.json"


class ResumableTrainer(Trainer):
    """Saves a student, continues its run and extends it.

    Attributes:
        total_steps: optimizer steps of the whole run.
    """

    def __init__(
        self,
        *,
        batches: EpochBatches,
        tokenizer: Any,
        keep_checkpoints: int,
        total_steps: int,
        **arguments: Any,
    ) -> None:
        """Set up training.

        Args:
            batches: this process's, of the training pairs.
            tokenizer: saved beside the weights. transformers.Trainer does not get it: it would write the
                tokenizer's special tokens over those of the student's configuration.
            keep_checkpoints: how many resumable checkpoints to keep.
            total_steps: optimizer steps of the whole run.
            **arguments: as for transformers.Trainer.
        """
        super().__init__(**arguments)
        self.total_steps = total_steps
        self._batches = batches
        self._tokenizer = tokenizer
        self._keep_checkpoints = keep_checkpoints
        self._scheduled_steps: int | None = None
        self._metrics: dict[str, torch.Tensor] = {}

    def _over_processes(self, value: torch.Tensor) -> torch.Tensor:
        if self.args.world_size > 1:
            return cast(torch.Tensor, self.accelerator.reduce(value, reduction="sum"))
        return value

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
