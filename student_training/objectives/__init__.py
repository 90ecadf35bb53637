"""The mathematics of every training method: pure functions over small tensors of log-probabilities (nats).

A function's module, and torch with it, is imported when the function is first asked for: methods name objectives, and
the help of train-student reads methods.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student_training.objectives.advantage import expected_advantage
    from student_training.objectives.divergence import (
        boosted_target,
        forward_kl,
        jensen_shannon,
        reverse_kl,
    )
    from student_training.objectives.pairwise import dpkd_loss, dpo_loss, simpo_loss
    from student_training.objectives.published import published_expected_advantage, published_forward_kl
    from student_training.objectives.shaping import constant_advantages, power_advantages, teacher_shift
    from student_training.objectives.surrogate import clipped_surrogate

__all__ = [
    "boosted_target",
    "clipped_surrogate",
    "constant_advantages",
    "dpkd_loss",
    "dpo_loss",
    "expected_advantage",
    "forward_kl",
    "jensen_shannon",
    "power_advantages",
    "published_expected_advantage",
    "published_forward_kl",
    "reverse_kl",
    "simpo_loss",
    "teacher_shift",
]

_MODULES = {
    "advantage": ("expected_advantage",),
    "divergence": ("boosted_target", "forward_kl", "jensen_shannon", "reverse_kl"),
    "pairwise": ("dpkd_loss", "dpo_loss", "simpo_loss"),
    "published": ("published_expected_advantage", "published_forward_kl"),
    "shaping": ("constant_advantages", "power_advantages", "teacher_shift"),
    "surrogate": ("clipped_surrogate",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value  # found at once from now on
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
