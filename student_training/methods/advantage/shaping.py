"""What is made of stored advantages before a method uses them: clip, power transform, or a constant as a control."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from student_training import objectives
from student_training.methods.base import Positions
from student_training.methods.settings import parse_clip, setting

if TYPE_CHECKING:
    import torch


def clip_setting(default: str, *, presets: Mapping[str, str] | None = None) -> Any:
    """The setting `--clip`."""
    return setting(default, help="clip of advantages, nats: low:high, c for -c:c, or none", presets=presets)


def power_setting() -> Any:
    """The setting `--advantage-power`."""
    return setting(
        0.0,
        help="α: replaces A = log π − log r by (π^α − r^α) / α, bounded by 1/α, before scale and clip; 0 leaves A",
        minimum=0,
    )


def tail_setting(*, presets: Mapping[str, str] | None = None) -> Any:
    """The setting `--advantage-tail`."""
    return setting(
        "zero", help="advantage of tokens outside the support", choices=("zero", "bucket"), presets=presets
    )


def scale_setting() -> Any:
    """The setting `--advantage-scale`."""
    return setting(1.0, help="factor on advantages before the clip: β of the teacher's DPO", minimum=0)


def advantage_setting() -> Any:
    """The setting `--advantage`."""
    return setting(
        "teacher",
        help="the teacher's advantage; or, as a control, a constant negative one on unlikely tokens and none elsewhere",
        choices=("teacher", "constant"),
    )


def constant_advantage_setting() -> Any:
    """The setting `--constant-advantage`."""
    return setting(
        0.5, help="how negative the advantage of --advantage constant is, nats; it is not clipped", minimum=0
    )


def unlikely_mass_setting() -> Any:
    """The setting `--unlikely-mass`."""
    return setting(
        0.2,
        help="under --advantage constant: unlikely are the tokens outside the fewest that hold 1 minus this",
        minimum=0,
        maximum=1,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Shaping:
    """How advantages are read from positions.

    Attributes:
        clip: lowest and highest advantage, nats; None for no bound. Applied where the advantages are used.
        power: α of the power transform; 0 for none.
        scale: factor on advantages, after the power transform.
        constant: size of the constant negative advantage in place of the teacher's; None for the teacher's own.
        unlikely_mass: which tokens have the constant one.
    """

    clip: tuple[float, float] | None
    power: float = 0.0
    scale: float = 1.0
    constant: float | None = None
    unlikely_mass: float = 0.2

    @classmethod
    def from_settings(cls, settings: Any) -> Shaping:
        """Of those of the settings above that a method has.

        Raises:
            ConfigurationError: for a clip that cannot be read.
        """
        constant = getattr(settings, "advantage", "teacher") == "constant"
        return cls(
            clip=None if constant else parse_clip(settings.clip),
            power=getattr(settings, "advantage_power", 0.0),
            scale=getattr(settings, "advantage_scale", 1.0),
            constant=settings.constant_advantage if constant else None,
            unlikely_mass=getattr(settings, "unlikely_mass", 0.2),
        )

    @property
    def reads_advantages(self) -> bool:
        """Whether a reference must have been scored."""
        return self.constant is None

    def advantages(
        self, positions: Positions, base_logprobs: torch.Tensor, base_tail: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages at the support, shape (N, K), and of the tail, shape (N,), before the clip.

        Args:
            positions: with the teacher's signals.
            base_logprobs: the distribution that is to be moved, at the support: a constant advantage is on tokens that
                are unlikely under it.
            base_tail: its tail.
        """
        if self.constant is not None:
            return objectives.constant_advantages(
                base_logprobs,
                base_tail,
                size=self.scale * self.constant,
                unlikely_mass=self.unlikely_mass,
                support_mask=positions.support_mask,
            )
        support, tail = positions.advantages, positions.teacher_tail - positions.reference_tail
        if self.power:
            support = objectives.power_advantages(positions.teacher_logprobs, support, power=self.power)
            tail = objectives.power_advantages(positions.teacher_tail, tail, power=self.power)
        return self.scale * support, self.scale * tail
