"""metrics.jsonl: one object for each logged step."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["MetricsFile"]


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
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= state.global_step:
                        kept.append(line)
                except json.JSONDecodeError:
                    # The run was killed in the middle of a line; its step is done again.
                    continue
        self._path.write_text("".join(line + "\n" for line in kept if state.global_step > 0))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs and "loss" in logs:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
