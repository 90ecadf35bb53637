"""Metrics of a run: metrics.jsonl, and a line now and then where there is no terminal for a progress bar."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.files import write_atomic

__all__ = ["LineAtEveryCheckpoint", "MetricsFile", "ProgressLines"]

_LINES_PER_RUN = 10


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

    Lines average over the steps since the last one. If such a stretch crossed a checkpoint, a run that continues
    from there would write another average than one that was never interrupted.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a line before the checkpoint."""
        if control.should_save:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"


class ProgressLines(TrainerCallback):
    """Report about ten lines over a run: step, loss, the method's terms."""

    def __init__(self, report: Callable[[str], None], *, quiet: bool) -> None:
        self._report = report
        self._quiet = quiet
        self._next_step = 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report a logged step if it is time."""
        if self._quiet or not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        if state.global_step < self._next_step and state.global_step < state.max_steps:
            return
        self._next_step = state.global_step + state.max_steps / _LINES_PER_RUN
        hidden = {"epoch", "learning_rate", "grad_norm", "tokens_per_second", "data_share", "tflops"}
        terms = ", ".join(f"{name} {value:.4g}" for name, value in logs.items() if name not in hidden)
        self._report(f"step {state.global_step}/{state.max_steps}: {terms}")
