"""FSDP2 around a student: only its weights are rounded for the arithmetic, not the teacher's signals or the metrics."""

import dataclasses
from typing import Any

import torch

__all__ = ["keep_signals_exact", "set_sharding_precision"]


def set_sharding_precision(accelerator: Any) -> None:
    """Let what accelerate is going to shard keep its inputs and outputs as they are; nothing without FSDP2.

    Args:
        accelerator: accelerate's, before it prepares the model.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = keep_signals_exact(plugin.mixed_precision_policy)


def keep_signals_exact(policy: Any) -> Any:
    """The policy with float32 sums of gradients, and no rounding of what goes into and comes out of a module.

    What goes into the outermost one are the signals: in bfloat16 a log-probability of -5 nats would be off by a
    hundredth. What comes out are the loss and the metrics with their counts.

    Args:
        policy: torch's `MixedPrecisionPolicy`.
    """
    return dataclasses.replace(
        policy, reduce_dtype=torch.float32, output_dtype=None, cast_forward_inputs=False
    )
