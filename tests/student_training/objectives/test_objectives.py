"""The objectives on their own: values by hand, derivatives, inputs at the edge of what a shard may hold."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student_training.objectives import (
    boosted_target,
    clipped_surrogate,
    constant_advantages,
    dpkd_loss,
    dpo_loss,
    expected_advantage,
    forward_kl,
    jensen_shannon,
    power_advantages,
    published_expected_advantage,
    published_forward_kl,
    reverse_kl,
    simpo_loss,
    teacher_shift,
)

INF = math.inf


def log(*probabilities):
    """Log-probabilities of one position's support, float64, shape (1, K); log 0 is -inf."""
    return torch.tensor([probabilities], dtype=torch.float64).log()


def tail(probability):
    return torch.tensor([probability], dtype=torch.float64).log()


def distribution(generator, n, k):
    """A random distribution over K support tokens and a tail, as log-probabilities, float64."""
    whole = torch.randn(n, k + 1, generator=generator, dtype=torch.float64).log_softmax(-1)
    return whole[:, :k], whole[:, k]


class TestValuesByHand:
    def test_forward_kl_with_the_tail_as_a_bucket(self):
        # .5 log(.5/.25) + .25 log(.25/.25) + .25 log(.25/.5)
        value = forward_kl(log(0.25, 0.25), tail(0.5), log(0.5, 0.25), tail(0.25))
        assert value.item() == pytest.approx(0.25 * math.log(2))

    def test_forward_kl_with_the_teacher_renormalised(self):
        # The teacher becomes (2/3, 1/3); the student stays as it is.
        value = forward_kl(log(0.25, 0.25), tail(0.5), log(0.5, 0.25), tail(0.25), tail="renormalize")
        assert value.item() == pytest.approx(2 / 3 * math.log(8 / 3) + 1 / 3 * math.log(4 / 3))

    def test_reverse_kl(self):
        # .25 log(.25/.5) + .25 log(.25/.25) + .5 log(.5/.25)
        value = reverse_kl(log(0.25, 0.25), tail(0.5), log(0.5, 0.25), tail(0.25))
        assert value.item() == pytest.approx(0.25 * math.log(2))

    def test_jensen_shannon(self):
        # m = (.375, .25, .375): half of .5 log(.5/.375) + .25 log(.25/.375), and the same with the sides exchanged.
        value = jensen_shannon(log(0.25, 0.25), tail(0.5), log(0.5, 0.25), tail(0.25))
        assert value.item() == pytest.approx(0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3))

    def test_jensen_shannon_of_distributions_that_do_not_meet_is_the_entropy_of_its_weight(self):
        value = jensen_shannon(log(1.0, 0.0), tail(0.0), log(0.0, 1.0), tail(0.0), weight=0.25)
        assert value.item() == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))

    def test_jensen_shannon_over_its_weight_goes_to_the_forward_and_the_reverse_kl(self):
        arguments = log(0.25, 0.25), tail(0.5), log(0.6, 0.25), tail(0.15)
        for weight, limit in ((1e-6, forward_kl), (1 - 1e-6, reverse_kl)):
            value = jensen_shannon(*arguments, weight=weight) / min(weight, 1 - weight)
            # The next term is of the weight's order.
            torch.testing.assert_close(value, limit(*arguments), rtol=1e-5, atol=0)

    def test_power_advantages_are_differences_of_powers(self):
        # π = (.64, .16), r = (.16, .64): square roots .8 and .4, over α = ½.
        advantages = torch.tensor([[math.log(4), -math.log(4)]], dtype=torch.float64)
        values = power_advantages(log(0.64, 0.16), advantages, power=0.5)
        assert values.tolist() == [pytest.approx([0.8, -0.8])]

    def test_power_advantages_are_bounded_and_the_advantages_themselves_without_power(self):
        advantages = torch.tensor([[600.0, -600.0, 2.0]], dtype=torch.float64)
        teacher = torch.tensor([[0.0, -650.0, -1.0]], dtype=torch.float64)
        assert power_advantages(teacher, advantages, power=2.0).abs().max() <= 0.5
        torch.testing.assert_close(
            power_advantages(teacher, advantages, power=1e-9), advantages, rtol=1e-6, atol=0
        )

    def test_constant_advantages_are_on_what_the_most_probable_tokens_leave(self):
        # .5 and .3 hold .8; .05 and the tail are what is left.
        support, rest = constant_advantages(log(0.05, 0.5, 0.3), tail(0.15), size=0.5, unlikely_mass=0.25)
        assert support.tolist() == [[-0.5, 0.0, 0.0]]
        assert rest.tolist() == [-0.5]

    def test_teacher_shift_is_the_sum_of_all_differences(self):
        advantages = torch.tensor([[math.log(2), -math.log(2)]], dtype=torch.float64)
        # π = (.5, .2, .3), r = (.25, .4, .35).
        value = teacher_shift(log(0.5, 0.2), tail(0.3), advantages, tail(0.35))
        assert value.item() == pytest.approx(0.25 + 0.2 + 0.05)

    def test_boosted_target_takes_a_scale_for_each_position(self):
        base, rest = log(0.5, 0.25).expand(2, 2), tail(0.25).expand(2)
        advantages = torch.tensor([[math.log(2), 0.0]], dtype=torch.float64).expand(2, 2)
        support, _ = boosted_target(
            base, rest, advantages, torch.zeros(2), scale=torch.tensor([0.0, 1.0]), clip=None
        )
        # 1 : ¼ : ¼ where the scale is 1.
        assert support.exp()[0].tolist() == pytest.approx([0.5, 0.25])
        assert support.exp()[1].tolist() == pytest.approx([2 / 3, 1 / 6])

    def test_expected_advantage(self):
        advantages = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
        arguments = log(0.5, 0.3), tail(0.2), advantages, torch.tensor([4.0])
        assert expected_advantage(*arguments).item() == pytest.approx(0.7)
        assert expected_advantage(*arguments, clip=(0.0, 1.0)).item() == pytest.approx(0.5)
        assert expected_advantage(*arguments, tail="bucket").item() == pytest.approx(1.5)
        # The clip is the support's alone.
        assert expected_advantage(*arguments, clip=(0.0, 1.0), tail="bucket").item() == pytest.approx(1.3)

    def test_boosted_target(self):
        # Weights .5·2, .25·1/2 and tail .25·1: q = 8/11, 1/11, 2/11.
        advantages = torch.tensor([[math.log(2), -9.0]], dtype=torch.float64)
        support, rest = boosted_target(
            log(0.5, 0.25), tail(0.25), advantages, torch.zeros(1), scale=1.0, clip=math.log(2)
        )
        assert support.exp().tolist() == [pytest.approx([8 / 11, 1 / 11])]
        assert rest.exp().item() == pytest.approx(2 / 11)

    def test_a_boost_of_zero_gives_the_teacher_back(self):
        teacher = log(0.5, 0.25), tail(0.25)
        target = boosted_target(*teacher, torch.ones(1, 2), torch.ones(1), scale=0.0, clip=1.0)
        for seen, expected in zip(target, teacher, strict=True):
            torch.testing.assert_close(seen, expected)

    def test_the_tail_is_boosted_by_its_own_clipped_advantage(self):
        _, rest = boosted_target(
            log(0.5), tail(0.5), torch.zeros(1, 1), torch.tensor([99.0]), scale=1.0, clip=1.0
        )
        assert rest.exp().item() == pytest.approx(math.e / (1 + math.e))

    def test_expected_advantage_of_the_teacher_itself_is_its_kl_to_the_reference(self):
        teacher, reference, empty = log(0.7, 0.3), log(0.4, 0.6), tail(0.0)
        expected = forward_kl(reference, empty, teacher, empty)
        value = expected_advantage(teacher, empty, teacher - reference)
        torch.testing.assert_close(value, expected)

    def test_pairwise_losses(self):
        def numbers(*values):
            return [torch.tensor([value], dtype=torch.float64) for value in values]

        # Each argument of −log σ is 1.
        expected = pytest.approx(math.log(1 + math.exp(-1)))
        assert dpo_loss(*numbers(-10.0, -20.0, -12.0, -12.0), beta=0.1).item() == expected
        assert simpo_loss(*numbers(-10.0, -20.0, 10.0, 10.0), beta=2.0, gamma=1.0).item() == expected
        assert dpkd_loss(*numbers(-10.0, -20.0, -12.0, -12.0), beta=0.1).item() == expected
        chosen_lengths, rejected_lengths = numbers(2.0, 4.0)
        normalized = dpkd_loss(
            *numbers(-10.0, -20.0, -12.0, -12.0),
            beta=1 / 3,
            chosen_lengths=chosen_lengths,
            rejected_lengths=rejected_lengths,
        )
        assert normalized.item() == expected

    def test_clipped_surrogate_takes_the_worse_of_both_ratios(self):
        behavior = torch.zeros(4, dtype=torch.float64)
        policy = torch.tensor([2.0, 0.5, 2.0, 0.5], dtype=torch.float64).log()
        advantages = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
        losses = clipped_surrogate(policy, behavior, advantages, clip_range=0.2)
        assert losses.tolist() == pytest.approx([-1.2, -0.5, 2.0, 0.8])

    def test_expected_advantage_counts_a_tail_that_is_empty_on_one_side_as_nothing(self):
        for tail_advantage in (INF, -INF, math.nan):
            value = expected_advantage(
                log(0.5), tail(0.5), torch.ones(1, 1), torch.tensor([tail_advantage]), tail="bucket"
            )
            assert value.item() == pytest.approx(0.5)

    def test_boosted_target_leaves_a_tail_that_is_empty_on_one_side_where_it_is(self):
        for tail_advantage in (INF, -INF, math.nan):
            _, rest = boosted_target(
                log(0.5), tail(0.5), torch.zeros(1, 1), torch.tensor([tail_advantage]), scale=1.0, clip=None
            )
            assert rest.exp().item() == pytest.approx(0.5)

    def test_published_advantage_forgets_negative_and_caps_large_ones(self):
        advantages = torch.tensor([[-5.0, 7.0, 0.5]], dtype=torch.float64)
        value = published_expected_advantage(log(0.5, 0.2, 0.2), tail(0.1), advantages)
        assert value.item() == pytest.approx(0.2 + 0.1, abs=2e-8)  # the floor of 1e-8 on advantages

    def test_published_kl_floors_the_student_and_gives_it_no_gradient_there(self):
        student = log(0.5, 1e-9).requires_grad_()
        value = published_forward_kl(student, tail(0.5), log(0.5, 0.5), tail(0.0))
        assert value.item() == pytest.approx(
            0.5 * math.log(0.5 / 1e-7), abs=3e-7
        )  # the teacher's floored tail
        value.sum().backward()
        assert student.grad.tolist() == [pytest.approx([-0.5, 0.0])]

    def test_published_kl_is_the_plain_one_where_no_clamp_bites(self):
        arguments = log(0.25, 0.25), tail(0.5), log(0.5, 0.25), tail(0.25)
        torch.testing.assert_close(published_forward_kl(*arguments), forward_kl(*arguments))


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, x: forward_kl(*s, *x["teacher"], support_mask=x["mask"]),
        lambda s, x: forward_kl(*s, *x["teacher"], support_mask=x["mask"], tail="renormalize"),
        lambda s, x: reverse_kl(*s, *x["teacher"], support_mask=x["mask"]),
        lambda s, x: jensen_shannon(*s, *x["teacher"], support_mask=x["mask"]),
        lambda s, x: jensen_shannon(*s, *x["teacher"], weight=0.1, support_mask=x["mask"]),
        lambda s, x: expected_advantage(*s, *x["advantages"], tail="bucket", support_mask=x["mask"]),
        lambda s, x: expected_advantage(*s, x["advantages"][0], clip=(0.0, 1.0)),
        lambda s, x: published_forward_kl(*s, *x["teacher"], support_mask=x["mask"]),
        lambda s, x: published_expected_advantage(*s, x["advantages"][0], support_mask=x["mask"]),
    ],
    ids=[
        "forward",
        "renormalize",
        "reverse",
        "jsd",
        "jsd .1",
        "advantage",
        "clipped",
        "published kl",
        "published advantage",
    ],
)
def test_position_losses_pass_gradcheck(loss):
    generator = torch.Generator().manual_seed(0)
    student, student_tail = distribution(generator, 4, 3)
    inputs = {
        "teacher": distribution(generator, 4, 3),
        "advantages": [
            torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4,))
        ],
        "mask": torch.tensor([[True, True, True], [True, False, True], [False] * 3, [True] * 3]),
    }
    arguments = student.requires_grad_(), student_tail.requires_grad_()
    assert torch.autograd.gradcheck(lambda *student: loss(student, inputs), arguments)


def test_pair_losses_and_surrogate_pass_gradcheck():
    generator = torch.Generator().manual_seed(0)

    def normal():
        return torch.randn(5, generator=generator, dtype=torch.float64)

    chosen, rejected = normal().requires_grad_(), normal().requires_grad_()
    fixed, lengths = [normal(), normal()], [torch.arange(1, 6), torch.arange(2, 7)]
    named = dict(zip(("chosen_lengths", "rejected_lengths"), lengths, strict=True))
    for loss in (
        lambda c, r: dpo_loss(c, r, *fixed, beta=0.5),
        lambda c, r: simpo_loss(c, r, *lengths, beta=2.0, gamma=0.5),
        lambda c, r: dpkd_loss(c, r, *fixed, beta=0.5, **named),
        lambda c, r: clipped_surrogate(c, fixed[1], r, clip_range=0.2),
    ):
        assert torch.autograd.gradcheck(loss, (chosen, rejected))


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), k=st.integers(0, 6), v=st.integers(1, 4))
def test_bucket_kl_is_never_negative_and_never_above_the_dense_kl(seed, n, k, v):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        (5 * torch.randn(n, k + v, generator=generator, dtype=torch.float64)).log_softmax(-1)
        for _ in range(2)
    )

    def coarse(logprobs):
        return logprobs[:, :k], logprobs[:, k:].logsumexp(1)

    mixture = torch.logaddexp(student, teacher) - math.log(2)
    dense_kl = {
        (first, second): (p.exp() * (p - q)).sum(1)
        for (first, p), (second, q) in itertools.permutations(
            (("student", student), ("teacher", teacher), ("mixture", mixture)), 2
        )
    }
    dense_jsd = (dense_kl["teacher", "mixture"] + dense_kl["student", "mixture"]) / 2
    for divergence, dense in (
        (forward_kl, dense_kl["teacher", "student"]),
        (reverse_kl, dense_kl["student", "teacher"]),
        (jensen_shannon, dense_jsd),
    ):
        value = divergence(*coarse(student), *coarse(teacher))
        assert (value >= -1e-12).all()  # float64 rounding of a sum of terms of both signs
        assert (value <= dense + 1e-12).all()


HUGE = st.sampled_from([0.0, -1e-7, -1.0, -50.0, -1e4, -INF])


@st.composite
def extreme_inputs(draw):
    """Log-probabilities of any size in float32, unnormalised on purpose: nothing may turn them into NaN."""
    n, k = draw(st.integers(1, 3)), draw(st.integers(0, 4))

    def values(strategy, *shape):
        flat = draw(st.lists(strategy, min_size=math.prod(shape), max_size=math.prod(shape)))
        return torch.tensor(flat, dtype=torch.float32).reshape(shape)

    mask = values(st.booleans(), n, k).bool()
    # A teacher's stored support holds finite values; masked slots may hold anything, NaN included.
    anything = st.sampled_from([math.nan, INF, -INF, 0.0, 1e30])
    teacher = torch.where(mask, values(HUGE.filter(math.isfinite), n, k), values(anything, n, k))
    sized = st.sampled_from([0.0, 1.0, -1.0, 40.0, -1e4, 1e4])
    advantages = torch.where(mask, values(sized, n, k), values(anything, n, k))
    student = torch.where(mask, values(HUGE, n, k), -INF)
    return {
        "student": student.requires_grad_(),
        "student_tail": values(HUGE, n).requires_grad_(),
        "teacher": teacher,
        "teacher_tail": values(HUGE, n),
        "advantages": advantages,
        "tail_advantages": values(st.sampled_from([0.0, 3.0, -1e4, INF, -INF, math.nan]), n),
        "mask": mask,
    }


@pytest.mark.slow
@settings(max_examples=300)
@given(x=extreme_inputs())
def test_no_value_and_no_gradient_is_ever_nan(x):
    student = x["student"], x["student_tail"]
    teacher = x["teacher"], x["teacher_tail"]
    masked = {"support_mask": x["mask"]}
    boost = x["advantages"], x["tail_advantages"]
    target = boosted_target(*teacher, *boost, scale=1.0, clip=1.0, **masked)
    losses = {
        "forward": forward_kl(*student, *teacher, **masked),
        "renormalize": forward_kl(*student, *teacher, tail="renormalize", **masked),
        "reverse": reverse_kl(*student, *target, **masked),
        "jsd": jensen_shannon(*student, *teacher, **masked),
        "boosted jsd": jensen_shannon(*student, *target, weight=0.2, **masked),
        "boosted": forward_kl(*student, *target, **masked),
        "advantage": expected_advantage(*student, *boost, clip=(0.0, 1.0), **masked),
        "advantage, bucket": expected_advantage(
            *student, x["advantages"], x["tail_advantages"], tail="bucket", **masked
        ),
        "published kl": published_forward_kl(*student, *teacher, **masked),
        "published advantage": published_expected_advantage(*student, x["advantages"], **masked),
    }
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss.sum(), student, allow_unused=True)
        assert not loss.isnan().any(), name
        for gradient in gradients:
            assert gradient is None or not gradient.isnan().any(), name


@settings(max_examples=100)
@given(x=extreme_inputs())
def test_masked_slots_never_matter(x):
    def values(teacher, advantages):
        student = x["student"].detach(), x["student_tail"].detach()
        masked = {"support_mask": x["mask"]}
        zero = torch.zeros_like(x["teacher_tail"])
        boosted = boosted_target(teacher, x["teacher_tail"], advantages, zero, scale=1.0, clip=1.0, **masked)
        return [
            forward_kl(*student, teacher, x["teacher_tail"], **masked),
            reverse_kl(*student, teacher, x["teacher_tail"], **masked),
            jensen_shannon(*student, teacher, x["teacher_tail"], **masked),
            teacher_shift(teacher, x["teacher_tail"], advantages, zero, **masked),
            *constant_advantages(teacher, x["teacher_tail"], size=1.0, unlikely_mass=0.2, **masked),
            expected_advantage(*student, advantages, **masked),
            forward_kl(*student, *boosted, **masked),
            published_forward_kl(*student, teacher, x["teacher_tail"], **masked),
            published_expected_advantage(*student, advantages, **masked),
        ]

    other = [torch.where(x["mask"], x[name], -3.0) for name in ("teacher", "advantages")]
    for seen, expected in zip(values(x["teacher"], x["advantages"]), values(*other), strict=True):
        assert torch.equal(seen, expected)


def test_an_empty_target_tail_leaves_reverse_kl_finite():
    """A student with more token ids than the teacher, whose support is its whole vocabulary."""
    student_tail = tail(0.5).requires_grad_()
    value = reverse_kl(log(0.5), student_tail, log(1.0), tail(0.0))
    assert value.item() == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-7))
    value.sum().backward()
    assert student_tail.grad.item() > 0


def test_an_overflowing_ratio_that_the_clip_rejects_leaves_no_gradient():
    policy = torch.zeros(1, requires_grad=True)
    loss = clipped_surrogate(policy, torch.tensor([-1e4]), torch.ones(1), clip_range=0.2)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-1.2)
    assert policy.grad.item() == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: forward_kl(log(1.0), tail(0.0), log(1.0), tail(0.0), tail="ignore"), "tail='ignore'"),
        (lambda: expected_advantage(log(1.0), tail(0.0), log(1.0), tail="ignore"), "tail='ignore'"),
        (lambda: expected_advantage(log(1.0), tail(0.0), log(1.0), tail="bucket"), "needs tail_advantages"),
        (
            lambda: jensen_shannon(log(1.0), tail(0.0), log(1.0), tail(0.0), weight=1.0),
            "weight between 0 and 1",
        ),
        (lambda: dpkd_loss(*[tail(0.5)] * 4, beta=1.0, chosen_lengths=torch.ones(1)), "or neither"),
    ],
)
def test_wrong_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
