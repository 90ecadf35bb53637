"""KL to the teacher: on chosen responses (vanilla-kd), or on chosen and rejected ones (dckd)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from data.errors import ConfigurationError
from student_training import objectives
from student_training.methods.base import Method, MethodSpec, Needs, Positions, Term
from student_training.methods.divergence import (
    DIVERGENCE_METRICS,
    divergence_function,
    divergence_setting,
    jsd_weight_setting,
)
from student_training.methods.settings import MethodSettings, setting
from student_training.methods.sft import nll_term

if TYPE_CHECKING:
    import torch

    from student_training.head.chunk import SparseLogprobs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KDSettings(MethodSettings):
    """Settings of vanilla-kd and dckd."""

    alpha: float = setting(5.0, help="weight of the KL terms", minimum=0)
    nll_weight: float = setting(1.0, help="weight of NLL(chosen)", minimum=0)
    kl_tail: str = setting(
        "bucket",
        help="teacher mass outside the support in the KL",
        choices=("bucket", "renormalize"),
        presets={"paper": "bucket", "published-code": "bucket"},
    )
    formula: str = setting(
        "exact",
        help="KL and expected advantage exactly, or with the published code's clamps and no term on the terminator",
        choices=("exact", "published"),
        aliases=("--reference-implementation",),
        presets={"paper": "exact", "published-code": "published"},
    )
    divergence: str = divergence_setting("forward")
    jsd_weight: float = jsd_weight_setting()


def _kl_values(settings: KDSettings) -> Callable[[Positions, SparseLogprobs], torch.Tensor]:
    """Per-position divergence from the teacher, as `divergence`, `kl_tail` and `formula` say.

    Raises:
        ConfigurationError: for a tail that the formula or the divergence does not have.
    """
    tail = settings.kl_tail
    if settings.divergence != "forward" and (tail != "bucket" or settings.formula == "published"):
        raise ConfigurationError(
            f"--divergence {settings.divergence}: --kl-tail renormalize and --formula published are forms of the "
            "forward KL; leave them out"
        )
    if settings.formula == "published" and tail != "bucket":
        raise ConfigurationError(f"--kl-tail {tail}: the published formula has a tail bucket; leave it out")

    divergence = divergence_function(settings.divergence, settings.jsd_weight)
    form = {"tail": tail} if settings.divergence == "forward" else {}

    def exact(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        return divergence(
            student.support,
            student.tail,
            positions.teacher_logprobs,
            positions.teacher_tail,
            support_mask=positions.support_mask,
            **form,
        )

    def published(positions: Positions, student: SparseLogprobs) -> torch.Tensor:
        values = objectives.published_forward_kl(
            student.support,
            student.tail,
            positions.teacher_logprobs,
            positions.teacher_tail,
            support_mask=positions.support_mask,
        )
        return values.masked_fill(positions.terminator, 0.0)

    return published if settings.formula == "published" else exact


def _build(name: str, roles: tuple[str, ...], settings: KDSettings) -> Method:
    kl = _kl_values(settings)
    name_of = DIVERGENCE_METRICS[settings.divergence]
    terms = (Term(f"{name_of}_{role}", role, settings.alpha, kl) for role in roles)
    return Method(
        name,
        Needs(roles=frozenset(roles), signals=frozenset(roles)),
        terms=(nll_term(settings.nll_weight), *terms),
    )


VANILLA_KD = MethodSpec(
    name="vanilla-kd",
    summary="NLL(chosen) + α KL(chosen)",
    settings=KDSettings,
    build=lambda settings: _build("vanilla-kd", ("chosen",), settings),
)

DCKD = MethodSpec(
    name="dckd",
    summary="NLL(chosen) + α (KL(chosen) + KL(rejected))",
    settings=KDSettings,
    build=lambda settings: _build("dckd", ("chosen", "rejected"), settings),
)
