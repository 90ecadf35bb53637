"""How fast a run is: positions a second, share of time spent on reading, floating-point operations."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from data.hardware import find_card
from data.model_size import ModelSize
from student_training.head.lm_head import read_head


class Speed:
    """Clock of the time between two lines of metrics.jsonl; saving and evaluating do not count.

    Attributes:
        positions: response positions of this process since the last line.
        flops: model FLOPs of this process since the last line.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        """Start.

        Args:
            peak_flops: operations per second that one process's device can do; None where not known.
        """
        self.positions = 0
        self.flops = 0.0
        self._peak_flops = peak_flops
        self._started_s: float | None = None
        self._fetching_since_s = 0.0
        self._fetched_s = 0.0

    def start_fetching(self) -> None:
        """Note that the step's batches are requested."""
        self._fetching_since_s = time.monotonic()
        if self._started_s is None:
            self._started_s = self._fetching_since_s

    def end_fetching(self) -> None:
        """Note that they are there."""
        self._fetched_s += time.monotonic() - self._fetching_since_s

    def add(self, positions: int, flops: float) -> None:
        """Count a batch that goes through the student."""
        self.positions += positions
        self.flops += flops

    def take(self, positions: float, flops: float, num_processes: int) -> dict[str, float]:
        """The metrics since the last call; resets them.

        Args:
            positions: response positions of all processes.
            flops: model FLOPs of all processes.
            num_processes: how many there are, with one device each.
        Returns:
            `tokens_per_second`, response positions; `data_share`, the fraction of the time spent waiting for
            batches; `tflops`, model TFLOP/s of all processes; and where the device's limit is known
            `model_flops_utilisation`, the fraction of it.
        """
        elapsed_s = max(time.monotonic() - (self._started_s or time.monotonic()), 1e-9)
        metrics = {
            "tokens_per_second": positions / elapsed_s,
            "data_share": self._fetched_s / elapsed_s,
            "tflops": flops / elapsed_s / 1e12,
        }
        if self._peak_flops is not None:
            metrics["model_flops_utilisation"] = flops / elapsed_s / (num_processes * self._peak_flops)
        self.positions, self.flops, self._started_s, self._fetched_s = 0, 0.0, None, 0.0
        return metrics


def student_size(student: Any) -> ModelSize:
    """Size of a student, which may carry adapters."""
    return ModelSize.of(student, read_head(student).weight)


def batch_flops(size: ModelSize, batch: Mapping[str, torch.Tensor]) -> float:
    """Model FLOPs of a batch from `PairCollator`, forward and backward, whatever is spent on padding."""
    lengths = batch["row_tokens"].double()
    attended = (lengths * (lengths + 1) / 2).sum()
    return size.training_flops(
        tokens=float(lengths.sum()), attended=float(attended), positions=len(batch["labels"])
    )


def peak_flops(device: torch.device) -> float | None:
    """Operations per second that a card can do at most in bfloat16; None for one that is not known."""
    card = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if card is None else card.peak_tflops * 1e12
