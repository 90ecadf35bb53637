"""Metrics of a run as it goes on: metrics.jsonl, a progress bar on a terminal, elsewhere log lines."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.files import write_atomic
from data.progress import Progress

logger = logging.getLogger(__name__)

_LINES_PER_RUN = 10

#: What a line for people leaves out; metrics.jsonl has it.
_LEFT_OUT = {
    "epoch",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "data_share",
    "tflops",
    "model_flops_utilisation",
    "support_entropy",
    "teacher_support_entropy",
    "top1_mass",
    "teacher_top1_mass",
    "end_rate",
    "teacher_end_rate",
    "abs_log_ratio",
    "rollout_ess",
    "rollout_mass",
}


class MetricsFile(TrainerCallback):
    """Append every logged step to a JSON-lines file; after a resume, drop the lines that are done again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the step that training starts from."""
        if not state.is_world_process_zero:
            return
        kept = []
        if self._path.exists() and state.global_step > 0:
            for line in self._path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= state.global_step:
                        kept.append(line)
                except json.JSONDecodeError:
                    # The run was killed in the middle of a line; its step is done again.
                    continue
        write_atomic(self._path, "".join(line + "\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line, of a training step or of an evaluation."""
        if state.is_world_process_zero and logs and ("loss" in logs or "eval_loss" in logs):
            with self._path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class LineAtEveryCheckpoint(TrainerCallback):
    """Log wherever a checkpoint is saved, and evaluate there if the run evaluates at all.

    Lines average over the steps since the last one. If a checkpoint came between two lines, a run that continues
    from there would write another average than one that was never interrupted.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a line before the checkpoint."""
        if control.should_save:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"


class EvaluateFirst(TrainerCallback):
    """Evaluates before the first step, so that there is something to compare with."""

    def __init__(self, evaluate: Callable[[], Any]) -> None:
        self._evaluate = evaluate

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate, unless the run continues."""
        if state.global_step == 0:
            self._evaluate()


class ProgressBar(TrainerCallback):
    """A bar with the loss and the speed; evaluations on lines above it."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start at the step that training starts from."""
        if state.is_local_process_zero:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="train",
                unit="step",
                dynamic_ncols=True,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move on."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the last line's numbers."""
        if self._bar is None or not logs:
            return
        if "loss" in logs:
            self._bar.set_postfix_str(_at_a_glance(logs))
        elif "eval_loss" in logs:
            logger.info("step %d: %s", state.global_step, _terms(logs))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the full bar on the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class CountedSteps(TrainerCallback):
    """Counts a run's steps in a `Progress`, which stays open while the run trains."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out of the speed what an earlier run has done."""
        self._progress.find(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count one."""
        self._progress.update()


class ProgressLines(TrainerCallback):
    """Log about ten lines over a run: step, loss, the method's terms."""

    def __init__(self) -> None:
        self._next_step = 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log a step of metrics.jsonl if it is time, and every evaluation."""
        if not state.is_world_process_zero or not logs:
            return
        if "eval_loss" in logs:
            logger.info("step %d: %s", state.global_step, _terms(logs))
        if "loss" not in logs:
            return
        if state.global_step < self._next_step and state.global_step < state.max_steps:
            return
        self._next_step = state.global_step + state.max_steps / _LINES_PER_RUN
        logger.info("step %d/%d: %s, %s", state.global_step, state.max_steps, _terms(logs), _speed(logs))


def _terms(logs: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in logs.items() if name not in _LEFT_OUT)


def _speed(logs: dict[str, Any]) -> str:
    """Response positions a second and model FLOPs a second; their share of the card's where that is known."""
    speed = f"{logs['tokens_per_second']:,.0f} tokens/s, {logs['tflops']:.3g} TFLOP/s"
    share = logs.get("model_flops_utilisation")
    return speed if share is None else f"{speed}, {share:.0%} of peak"


def _at_a_glance(logs: dict[str, Any]) -> str:
    return f"loss {logs['loss']:.4g}, {_speed(logs)}"
