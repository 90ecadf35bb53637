"""Rules that are tried on the map alone, as methods of one's own: λ by position, weights by position, united supports.

- *Boosts by position*: abd whose λ is proportional to the teacher's confidence (1 minus its entropy as a share of the
  largest possible one), to the opposite, or to the distance between teacher and reference (AlignDistil's factor). The
  mean over a batch's positions of each role is 1, so that only the distribution over positions differs from abd.
- *Weights by position*: abd's divergence, or adpa's expected advantage, with weights that fall from 2 to 0 (or rise
  from 0 to 2) along each response; their mean over a response is 1.
- *United supports*: at each position the teacher's 16 most probable tokens and the reference's, the rest in one bucket.
  Needs signals with a support that holds both.
"""

import dataclasses
from collections.abc import Callable

import torch

from student_training import objectives
from student_training.head.chunk import SparseLogprobs
from student_training.methods import ABDSettings, Method, MethodSpec, Positions, Term
from student_training.methods.advantage.abd import ABD
from student_training.methods.advantage.adpa import ADPA
from student_training.methods.advantage.matching import matching_method

_TOP_K = 16


def confidence(positions: Positions) -> torch.Tensor:
    """1 minus the teacher's entropy over support and tail as a share of the logarithm of their number, shape (N,)."""
    logs = torch.cat([positions.teacher_logprobs, positions.teacher_tail[:, None]], dim=1)
    mask = torch.nn.functional.pad(positions.support_mask, (0, 1), value=True) & logs.isfinite()
    entropy = -torch.where(mask, logs.exp() * logs, 0.0).sum(1)
    return 1 - entropy / mask.sum(1).log().clamp(min=1e-6)


def falling(positions: Positions) -> torch.Tensor:
    """Weights that fall evenly from 2 to 0 along each response, with mean 1, shape (N,)."""
    # All positions of one response have the same summed advantage, and next to each other no two responses have.
    begins = torch.ones_like(positions.terminator)
    begins[1:] = positions.terminator[:-1] | (positions.response_advantage.diff() != 0)
    response = begins.cumsum(0) - 1
    lengths = response.bincount()
    starts = lengths.cumsum(0) - lengths
    place = torch.arange(len(response)) - starts[response]
    return 2 * (1 - (place + 0.5) / lengths[response])


def rising(positions: Positions) -> torch.Tensor:
    """The opposite of `falling`."""
    return 2 - falling(positions)


def unite(positions: Positions, student: SparseLogprobs) -> tuple[Positions, SparseLogprobs]:
    """Keep the 16 tokens that the teacher finds most probable and the reference's 16; the others go into the tails."""
    teacher = positions.teacher_logprobs.where(positions.support_mask, -torch.inf)
    reference = teacher - positions.advantages
    kept = positions.support_mask & (_among_top(teacher) | _among_top(reference))
    rest = positions.support_mask & ~kept

    def with_rest(tail: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
        return torch.logaddexp(tail, support.where(rest, -torch.inf).logsumexp(1))

    fewer = dataclasses.replace(
        positions,
        support_mask=kept,
        teacher_tail=with_rest(positions.teacher_tail, teacher),
        reference_tail=with_rest(positions.reference_tail, reference),
    )
    own = dataclasses.replace(
        student,
        support=student.support.where(kept, -torch.inf),
        tail=with_rest(student.tail, student.support),
    )
    return fewer, own


def _among_top(logprobs: torch.Tensor) -> torch.Tensor:
    count = min(_TOP_K, logprobs.shape[1])
    return logprobs >= logprobs.topk(count, dim=1).values[:, -1:]


def _changed(method: Method, change: Callable[[Term], Term]) -> Method:
    """The same method with every term changed that reads the teacher."""
    terms = tuple(term if term.name == "loss/nll" else change(term) for term in method.terms)
    return dataclasses.replace(method, terms=terms)


def _weighted(weights: Callable[[Positions], torch.Tensor]) -> Callable[[Term], Term]:
    return lambda term: dataclasses.replace(
        term, values=lambda positions, student: weights(positions) * term.values(positions, student)
    )


def _on_united(term: Term) -> Term:
    return dataclasses.replace(term, values=lambda *given: term.values(*unite(*given)))


def _boosted(name: str, factor: Callable[[Positions], torch.Tensor]) -> MethodSpec:
    def build(settings: ABDSettings) -> Method:
        def target(positions: Positions) -> tuple[torch.Tensor, torch.Tensor]:
            factors = factor(positions)
            return objectives.boosted_target(
                positions.teacher_logprobs,
                positions.teacher_tail,
                positions.advantages,
                positions.teacher_tail - positions.reference_tail,
                scale=settings.boost * factors / factors.mean().clamp(min=1e-6),
                clip=float(settings.clip),
                support_mask=positions.support_mask,
            )

        return matching_method(name, settings, target, advantages=True)

    return MethodSpec(
        name=name, summary=f"abd, its λ by {factor.__name__}", settings=ABDSettings, build=build
    )


def doubt(positions: Positions) -> torch.Tensor:
    """1 minus `confidence`."""
    return 1 - confidence(positions)


def shift(positions: Positions) -> torch.Tensor:
    """Twice the total variation distance between teacher and reference on the support, shape (N,)."""
    return objectives.teacher_shift(
        positions.teacher_logprobs,
        positions.teacher_tail,
        positions.advantages,
        positions.reference_tail,
        support_mask=positions.support_mask,
    )


def _variant(base: MethodSpec, name: str, change: Callable[[Term], Term]) -> MethodSpec:
    return dataclasses.replace(
        base, name=name, summary=name, build=lambda settings: _changed(base.build(settings), change)
    )


BY_CONFIDENCE = _boosted("abd-by-confidence", confidence)
BY_DOUBT = _boosted("abd-by-doubt", doubt)
BY_SHIFT = _boosted("abd-by-shift", shift)
ABD_FALLING = _variant(ABD, "abd-falling", _weighted(falling))
ABD_RISING = _variant(ABD, "abd-rising", _weighted(rising))
ADPA_FALLING = _variant(ADPA, "adpa-falling", _weighted(falling))
ADPA_RISING = _variant(ADPA, "adpa-rising", _weighted(rising))
ABD_UNITED = _variant(ABD, "abd-united", _on_united)
ADPA_UNITED = _variant(ADPA, "adpa-united", _on_united)
