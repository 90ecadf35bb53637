"""Knowledge distillation on the chosen responses alone."""

from student_training.methods.base import Method, MethodSpec, Needs, Settings, Term
from student_training.methods.dckd import kl_values
from student_training.methods.sft import nll_term

__all__ = ["VANILLA_KD"]


def _build(settings: Settings) -> Method:
    assert settings.alpha is not None
    assert settings.nll_weight is not None
    roles = frozenset({"chosen"})
    terms = (
        nll_term(settings.nll_weight),
        Term("loss/kl_chosen", "chosen", settings.alpha, kl_values(settings)),
    )
    return Method("vanilla-kd", Needs(roles=roles, signals=roles), terms=terms)


VANILLA_KD = MethodSpec(
    name="vanilla-kd",
    summary="NLL(chosen) + α KL(chosen)",
    defaults={"alpha": 5.0, "nll_weight": 1.0, "kl_tail": "bucket", "formula": "exact"},
    build=_build,
)
