"""How fast a run is: positions a second, share of time spent on reading, floating-point operations."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from data.hardware import active_expert_share, attention_width, find_card, forward_flops
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


class StepFlops:
    """Model FLOPs of a batch: what the mathematics needs, whatever is recomputed or spent on padding.

    A product with a weight costs 2 operations per token and entry forward, as many for the gradient of its
    input, and as many for that of the weight where it is trained. Causal attention costs 2 operations per
    layer, width and pair of tokens that see each other, for queries with keys and again for values, and twice
    that backward. The LM head is counted at response positions, where alone it runs; of experts, those that a
    token meets; every attention layer as one over all that came before, which a sliding window is not. What a
    layer without attention heads does apart from its products with weights, such as a state-space model's scan, is
    left out.
    """

    def __init__(self, student: Any) -> None:
        """Count the student's weights; it may carry adapters."""
        head = read_head(student).weight
        config = student.config.get_text_config()
        looked_up = {
            id(module.weight) for module in student.modules() if isinstance(module, torch.nn.Embedding)
        }
        active = active_expert_share(config)
        body = [
            (value.numel() * (active if ".experts." in name else 1), value.requires_grad)
            for name, value in student.named_parameters()
            if value.dim() > 1 and id(value) not in looked_up | {id(head)}
        ]
        self._per_token = sum((6 if is_trained else 4) * entries for entries, is_trained in body)
        self._per_position = (6 if head.requires_grad else 4) * head.numel()
        self._body, self._head = sum(entries for entries, _ in body), head.numel()
        self._attention_width = attention_width(config)

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Operations of a batch from `PairCollator`, forward and backward."""
        lengths = batch["row_tokens"].double()
        attended = (lengths * (lengths + 1) / 2).sum()
        return self.of(float(lengths.sum()), float(attended), len(batch["labels"]))

    def of(self, tokens: float, attended: float, positions: float) -> float:
        """Operations forward and backward.

        Args:
            tokens: that go through the student.
            attended: pairs of tokens that see each other.
            positions: response positions.
        """
        attention = 12 * self._attention_width * attended
        return self._per_token * tokens + attention + self._per_position * positions

    def forward(self, tokens: float, attended: float, positions: float = 0) -> float:
        """Operations of a forward pass, as `of` counts them."""
        return forward_flops(
            body=self._body,
            head=self._head,
            attention_width=self._attention_width,
            tokens=tokens,
            attended=attended,
            positions=positions,
        )


def peak_flops(device: torch.device) -> float | None:
    """Operations per second that a card can do at most in bfloat16; None for one that is not known."""
    card = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if card is None else card.peak_tflops * 1e12
