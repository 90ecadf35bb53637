"""Each method of the advantage family ends where its formula says: logits of five tokens, optimised to the end."""

import dataclasses
import math

import pytest
import torch
from dense_head import dense_sparse_logprobs

from student_training.methods import METHODS, Positions, build_method

SIZE = 5
SUPPORTS = {"three tokens and a tail": [3, 0, 1], "the whole vocabulary": [3, 0, 1, 4, 2]}


def log_distribution(seed):
    generator = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(SIZE, generator=generator, dtype=torch.float64)).log_softmax(-1)


TEACHER, REFERENCE, INITIAL = (log_distribution(seed) for seed in (1, 2, 3))


def coarse(logprobs, support):
    """Log-probabilities of the support's tokens, and of the rest as one outcome; shape (K + 1,)."""
    rest = [token for token in range(SIZE) if token not in support]
    tail = logprobs[rest].logsumexp(0) if rest else logprobs.new_tensor(-math.inf)
    return torch.cat([logprobs[support], tail[None]])


def positions(support):
    """One position whose label is a support token, as the collator gives it."""
    teacher, reference, initial = (coarse(x, support) for x in (TEACHER, REFERENCE, INITIAL))
    nothing = torch.zeros(1, dtype=torch.float64)
    known = {
        "labels": torch.tensor([support[0]]),
        "support_ids": torch.tensor([support]),
        "support_mask": torch.ones(1, len(support), dtype=torch.bool),
        "teacher_logprobs": teacher[None, :-1],
        "advantages": (teacher - reference)[None, :-1],
        "teacher_tail": teacher[-1:],
        "reference_tail": reference[-1:],
        "initial_support": initial[None, :-1],
        "initial_tail": initial[-1:],
        "terminator": torch.tensor([False]),
    }
    others = {field.name: nothing for field in dataclasses.fields(Positions)}
    return Positions(**(others | known))


def optimum(method, at):
    """The student's coarse probabilities at the minimum of the method's loss, by LBFGS on its five logits."""
    logits = torch.zeros(1, SIZE, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss():
        solver.zero_grad()
        student = dense_sparse_logprobs(logits, at.labels, at.support_ids, at.support_mask)
        value = sum(term.weight * term.values(at, student).sum() for term in method.terms)
        value.backward()
        return value

    solver.step(loss)
    student = dense_sparse_logprobs(logits.detach(), at.labels, at.support_ids, at.support_mask)
    return torch.cat([student.support[0], student.tail]).exp()


def moved(base, boost, support, *, clip=math.inf, shape=lambda teacher, advantage: advantage):
    """base · exp(boost · clip(shape(A))), normalised: every closed form below is one of these."""
    base, teacher, reference = (coarse(x, support) for x in (base, TEACHER, REFERENCE))
    advantages = torch.where(teacher.isneginf(), 0.0, teacher - reference)
    shaped = torch.where(teacher.isneginf(), 0.0, shape(teacher, advantages))
    return (base + boost * shaped.clamp(-clip, clip)).softmax(-1)


def power_of(alpha):
    return lambda teacher, advantage: (
        ((alpha * teacher).exp() - (alpha * (teacher - advantage)).exp()) / alpha
    )


def adaptive_boost(factor, support):
    teacher, reference = (coarse(x, support).exp() for x in (TEACHER, REFERENCE))
    return factor * (teacher - reference).abs().sum() + 1e-3


def without_unlikely(base, size, kept, support):
    """All but the `kept` most probable support tokens pushed down by `size` nats.

    The teacher's three most probable ones hold 81% on both supports, and two of them 63%.
    """
    base = coarse(base, support)
    unlikely = torch.ones_like(base)
    unlikely[base[:-1].topk(kept).indices] = 0.0
    return (base - size * unlikely).softmax(-1)


#: Name -> method, settings, and its optimum on a support, written down without the code above it.
CASES = {
    "opd": ("opd", {}, lambda s: coarse(TEACHER, s).exp()),
    "opd, forward": ("opd", {"divergence": "forward"}, lambda s: coarse(TEACHER, s).exp()),
    "opd, jsd": ("opd", {"divergence": "jsd", "jsd_weight": 0.3}, lambda s: coarse(TEACHER, s).exp()),
    "dckd": ("dckd", {"nll_weight": 0.0}, lambda s: coarse(TEACHER, s).exp()),
    "vanilla-kd, jsd": (
        "vanilla-kd",
        {"nll_weight": 0.0, "divergence": "jsd"},
        lambda s: coarse(TEACHER, s).exp(),
    ),
    "dckd, reverse": (
        "dckd",
        {"nll_weight": 0.0, "divergence": "reverse"},
        lambda s: coarse(TEACHER, s).exp(),
    ),
    # ref · (teacher / ref)^1.25, the paper's λ = 1.25.
    "exopd": (
        "exopd",
        {},
        lambda s: (
            (coarse(REFERENCE, s) + 1.25 * (coarse(TEACHER, s) - coarse(REFERENCE, s)))
            .nan_to_num(nan=-math.inf)
            .softmax(-1)
        ),
    ),
    "exopd, power": (
        "exopd",
        {"advantage_power": 0.5, "boost": 2.0},
        lambda s: moved(TEACHER, 2.0, s, shape=power_of(0.5)),
    ),
    "abd": ("abd", {"nll_weight": 0.0}, lambda s: moved(TEACHER, 1.0, s, clip=1.0)),
    "abd, jsd": (
        "abd",
        {"divergence": "jsd", "boost": 2.0, "clip": "0.5", "nll_weight": 0.0},
        lambda s: moved(TEACHER, 2.0, s, clip=0.5),
    ),
    "abd, on all rows by role": (
        "abd",
        {"on": "all", "nll_weight": 0.0},
        lambda s: moved(TEACHER, 1.0, s, clip=1.0),
    ),
    "abd, reverse, power": (
        "abd",
        {"divergence": "reverse", "advantage_power": 2.0, "boost": 3.0, "clip": "none", "nll_weight": 0.0},
        lambda s: moved(TEACHER, 3.0, s, shape=power_of(2.0)),
    ),
    "aligndistil": ("aligndistil", {}, lambda s: moved(TEACHER, adaptive_boost(15.0, s), s)),
    "aligndistil, even": (
        "aligndistil",
        {"boost": 2.0, "position_weight": "even"},
        lambda s: moved(TEACHER, adaptive_boost(2.0, s), s),
    ),
    "w2s": ("w2s", {"boost": 0.75}, lambda s: moved(INITIAL, 0.75, s)),
    "w2s, forward": ("w2s", {"divergence": "forward"}, lambda s: moved(INITIAL, 1.0, s)),
    "w2s, jsd on all rows": (
        "w2s",
        {"divergence": "jsd", "on": "all"},
        lambda s: moved(INITIAL, 1.0, s),
    ),
    "direct": ("direct", {"gamma": 1.5, "initial_kl": 2.5}, lambda s: moved(INITIAL, 1.5 / 2.5, s)),
    "direct, clipped": ("direct", {"clip": "0.5"}, lambda s: moved(INITIAL, 1.0, s, clip=0.5)),
    "hybrid, reverse on pairs alone": (
        "hybrid",
        {"nll_weight": 0.0, "gamma": 0.0, "boost": 0.5, "boost_clip": "none", "divergence": "reverse"},
        lambda s: moved(TEACHER, 0.5, s),
    ),
    "hybrid, pairs alone": (
        "hybrid",
        {"nll_weight": 0.0, "gamma": 0.0, "boost": 0.5},
        lambda s: moved(TEACHER, 0.5, s, clip=1.0),
    ),
    "abd, constant": (
        "abd",
        {"advantage": "constant", "boost": 2.0, "nll_weight": 0.0},
        lambda s: without_unlikely(TEACHER, 2.0 * 0.5, 3, s),
    ),
    "abd, constant below a half": (
        "abd",
        {"advantage": "constant", "constant_advantage": 1.5, "unlikely_mass": 0.5, "nll_weight": 0.0},
        lambda s: without_unlikely(TEACHER, 1.5, 2, s),
    ),
}


@pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS.keys())
@pytest.mark.parametrize("name", CASES)
def test_a_method_ends_at_its_closed_form_optimum(name, support):
    method_name, settings, formula = CASES[name]
    method, _ = build_method(METHODS[method_name], settings)
    found = optimum(method, positions(support))
    torch.testing.assert_close(found, formula(support), rtol=0, atol=1e-6)


def test_boost_zero_is_the_teacher_itself_for_every_method_that_boosts_it():
    support = SUPPORTS["three tokens and a tail"]
    for name in ("abd", "exopd"):
        method, _ = build_method(METHODS[name], {"boost": 0.0, "nll_weight": 0.0})
        found = optimum(method, positions(support))
        torch.testing.assert_close(found, coarse(TEACHER, support).exp(), rtol=0, atol=1e-6)


def test_direct_and_w2s_have_the_same_gradient_up_to_the_weight_of_the_kl():
    """−E + κ KL(p || p₀) is κ KL(p || p₀·exp(A / κ)) and a constant."""
    at = positions(SUPPORTS["three tokens and a tail"])
    gradients = []
    for name, settings in (
        ("direct", {"gamma": 1.0, "initial_kl": 2.0}),
        ("w2s", {"boost": 0.5, "alpha": 2.0}),
    ):
        method, _ = build_method(METHODS[name], settings)
        logits = log_distribution(4)[None].requires_grad_()
        student = dense_sparse_logprobs(logits, at.labels, at.support_ids, at.support_mask)
        sum(term.weight * term.values(at, student).sum() for term in method.terms).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)


# Terms of the label alone, which a position without a support has like any other.
OF_THE_LABEL = {"loss/nll", "loss/surrogate", "loss/kl_initial", "ratio"}


@pytest.mark.parametrize("name", [name for name in METHODS if build_method(METHODS[name], {})[0].terms])
def test_a_position_without_a_support_teaches_nothing_but_its_label(name):
    # What a translated dataset has where no token of the teacher begins: all mass of both models in the tail.
    sure = torch.zeros(1, dtype=torch.float64)
    at = dataclasses.replace(
        positions([3, 0, 1]),
        support_mask=torch.zeros(1, 3, dtype=torch.bool),
        teacher_tail=sure,
        reference_tail=sure,
        initial_tail=sure,
    )
    logits = log_distribution(4)[None].requires_grad_()
    student = dense_sparse_logprobs(logits, at.labels, at.support_ids, at.support_mask)
    for term in build_method(METHODS[name], {})[0].terms:
        if term.name in OF_THE_LABEL:
            continue
        value = term.values(at, student)
        (gradient,) = torch.autograd.grad(
            value.sum(), logits, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        # Rounding of float64, which the adaptive boost multiplies.
        assert abs(value.item()) < 1e-12, term.name
        assert gradient.abs().max() < 1e-12, term.name
