"""Which divergence a method minimises: forward KL, reverse KL or Jensen-Shannon, as settings and as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from data.errors import ConfigurationError
from student_training import objectives
from student_training.methods.settings import setting

if TYPE_CHECKING:
    import torch

    Divergence = Callable[..., torch.Tensor]

#: Divergence -> how its terms are named in metrics.jsonl; the role follows.
DIVERGENCE_METRICS = {"forward": "loss/kl", "reverse": "loss/reverse_kl", "jsd": "loss/jsd"}


def divergence_setting(default: str, *, by_role: bool = False) -> Any:
    """The setting `--divergence`.

    Args:
        default: its value where nothing else is given.
        by_role: whether `by-role` is among the choices, for methods that learn on rows of both kinds.
    """
    own = ("by-role",) if by_role else ()
    return setting(
        default,
        help="forward KL(target || student), reverse KL(student || target) or Jensen-Shannon"
        + ("; by-role: forward on chosen and rejected, reverse on student rows" if by_role else ""),
        choices=(*own, *DIVERGENCE_METRICS),
    )


def jsd_weight_setting() -> Any:
    """The setting `--jsd-weight`."""
    return setting(
        0.5,
        help="w of --divergence jsd: w KL(target || m) + (1 − w) KL(student || m), m = w target + (1 − w) student",
        minimum=0,
        maximum=1,
    )


def divergence_function(name: str, jsd_weight: float) -> Divergence:
    """A divergence of the student from a target, as a function of the objectives' form.

    Args:
        name: one of `DIVERGENCE_METRICS`.
        jsd_weight: w of the Jensen-Shannon divergence.
    Returns:
        From (student support, student tail, target support, target tail, support_mask=...) to nats, shape (N,).
    Raises:
        ConfigurationError: for a weight with which the Jensen-Shannon divergence is 0 whatever the student does.
    """
    if name == "jsd" and not 0 < jsd_weight < 1:
        raise ConfigurationError(
            f"--jsd-weight: with {jsd_weight:g} the divergence is always 0; give a number between 0 and 1, or "
            "--divergence forward or reverse"
        )

    def divergence(*distributions: torch.Tensor, **form: Any) -> torch.Tensor:
        # Looked up when it is called: a method is built for its help, too, which must not wait for torch.
        if name == "jsd":
            return objectives.jensen_shannon(*distributions, weight=jsd_weight, **form)
        return (objectives.reverse_kl if name == "reverse" else objectives.forward_kl)(*distributions, **form)

    return divergence
