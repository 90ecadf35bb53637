"""The chunked head against plain dense float64 operations: values, gradients, and every shape of support."""

import dataclasses
import functools
import math

import pytest
import torch
from dense_head import dense_sparse_logprobs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from student_training.head import chunk as head_chunk
from student_training.head.chunk import HeadChunk
from student_training.head.chunks import default_chunk_size
from student_training.head.fused import (
    SparseLogprobs,
    fused_objective,
    sparse_logprobs,
)
from student_training.head.lm_head import LMHead
from student_training.head.products import HeadProducts
from student_training.head.tail import BlockedTail, FusedTail
from student_training.objectives import boosted_target, expected_advantage, forward_kl, reverse_kl

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "soft-cap": {"soft_cap": 3.0},
    "scale": {"scale": 0.25},
    "bias, scale and soft-cap": {"bias": True, "scale": 2.0, "soft_cap": 5.0},
}


class Problem:
    """Hidden states, a head and made-up teacher signals, in float64."""

    def __init__(
        self, *, n=7, d=5, v=23, k=4, seed=0, sharpness=1.0, teacher_sharpness=1.0, bias=False, **head
    ):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.hidden = (sharpness * normal(n, d)).requires_grad_()
        bias = normal(v).requires_grad_() if bias else None
        self.head = LMHead(weight=normal(v, d).requires_grad_(), bias=bias, **head)
        self.labels = torch.randint(v, (n,), generator=generator)
        teacher = (teacher_sharpness * normal(n, v)).log_softmax(-1)
        reference = normal(n, v).log_softmax(-1)
        self.support_ids = teacher.topk(k).indices
        self.support_mask = torch.rand(n, k, generator=generator) < 0.8
        everything = torch.ones_like(self.support_mask)
        self.teacher = dense_sparse_logprobs(teacher, self.labels, self.support_ids, everything)
        self.advantages = (teacher - reference).gather(1, self.support_ids)
        self.tail_advantages = normal(n)
        self.weights = torch.rand(n, generator=generator, dtype=torch.float64)

    def to(self, device):
        """Move everything to a device, in place."""
        for parameter in self.parameters:
            parameter.data = parameter.data.to(device)
        for name in ("labels", "support_ids", "support_mask", "advantages", "tail_advantages", "weights"):
            setattr(self, name, getattr(self, name).to(device))
        parts = (getattr(self.teacher, name).to(device) for name in ("token", "support", "tail", "entropy"))
        self.teacher = SparseLogprobs(*parts)

    @property
    def arguments(self):
        return self.hidden, self.head, self.labels, self.support_ids, self.support_mask

    @property
    def parameters(self):
        return [x for x in (self.hidden, self.head.weight, self.head.bias) if x is not None]

    def objective(self, rows: slice, student: SparseLogprobs) -> torch.Tensor:
        """All the terms at once: NLL, KL, advantage, and reverse KL to a boosted target."""
        mask = self.support_mask[rows]
        teacher = self.teacher.support[rows].to(student.tail), self.teacher.tail[rows].to(student.tail)
        advantages = self.advantages[rows].to(student.tail), self.tail_advantages[rows].to(student.tail)
        distribution = student.support, student.tail
        target = boosted_target(*teacher, *advantages, scale=1.0, clip=1.0, support_mask=mask)
        terms = (
            -student.token
            + 5.0 * forward_kl(*distribution, *teacher, support_mask=mask)
            - 3.0 * expected_advantage(*distribution, *advantages, tail="bucket", support_mask=mask)
            + reverse_kl(*distribution, *target, support_mask=mask)
        )
        return self.weights[rows].to(student.tail) * terms

    def dense_loss(self):
        logits = self.head.logits(self.hidden)
        student = dense_sparse_logprobs(logits, self.labels, self.support_ids, self.support_mask)
        return self.objective(slice(None), student).sum()


def assert_fused_matches_dense(problem, chunk_size):
    expected = problem.dense_loss()
    expected_gradients = torch.autograd.grad(expected, problem.parameters)
    loss, _ = fused_objective(*problem.arguments, problem.objective, chunk_size=chunk_size)
    gradients = torch.autograd.grad(loss, problem.parameters)
    # Both are float64 sums of the same terms in another order; 1e-10 of the largest entry leaves room for the
    # cancellation that the dense version suffers where a tail is small.
    for seen, true in zip((loss, *gradients), (expected, *expected_gradients), strict=True):
        torch.testing.assert_close(seen, true, rtol=1e-10, atol=1e-10 * max(1.0, true.abs().max().item()))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_fused_loss_and_gradients_equal_the_dense_ones(head, chunk_size):
    assert_fused_matches_dense(Problem(**head), chunk_size)


@st.composite
def problems(draw):
    v = draw(st.integers(1, 12))
    return Problem(
        n=draw(st.integers(1, 6)),
        d=draw(st.integers(1, 4)),
        v=v,
        k=draw(st.integers(0, v)),
        seed=draw(st.integers(0, 2**32 - 1)),
        sharpness=draw(st.sampled_from([0.0, 1.0, 30.0])),  # 30: students that put everything on one token
        teacher_sharpness=draw(st.sampled_from([0.0, 1.0, 50.0])),
        bias=draw(st.booleans()),
        soft_cap=draw(st.sampled_from([None, 2.0, 30.0])),
        scale=draw(st.sampled_from([1.0, 0.1])),
    )


def with_mask(problem, mask):
    problem.support_mask = torch.full_like(problem.support_mask, mask)
    return problem


@settings(max_examples=200)
@given(problem=problems(), chunk_size=st.integers(1, 7))
@example(problem=with_mask(Problem(k=23), True), chunk_size=2).via("the support is the whole vocabulary")
@example(problem=with_mask(Problem(k=1), True), chunk_size=2).via("one support token")
@example(problem=with_mask(Problem(), False), chunk_size=2).via("every slot masked")
@example(problem=Problem(v=1, k=1), chunk_size=2).via("one token in all")
def test_fused_equals_dense_whatever_the_support_and_the_distributions(problem, chunk_size):
    assert_fused_matches_dense(problem, chunk_size)


@settings(max_examples=100)
@given(problem=problems(), chunk_size=st.integers(1, 7))
def test_sparse_logprobs_equal_the_dense_ones_with_their_gradients(problem, chunk_size):
    dense = dense_sparse_logprobs(problem.head.logits(problem.hidden), *problem.arguments[2:])
    sparse = sparse_logprobs(*problem.arguments, chunk_size=chunk_size)
    for name in ("token", "support", "tail", "entropy"):
        torch.testing.assert_close(getattr(sparse, name), getattr(dense, name), rtol=1e-10, atol=1e-10)
    expected = torch.autograd.grad(problem.objective(slice(None), dense).sum(), problem.parameters)
    gradients = torch.autograd.grad(problem.objective(slice(None), sparse).sum(), problem.parameters)
    for seen, true in zip(gradients, expected, strict=True):
        torch.testing.assert_close(seen, true, rtol=1e-10, atol=1e-10 * max(1.0, true.abs().max().item()))


@pytest.fixture
def num_logit_products(monkeypatch):
    """How many chunks have gone through the head so far."""
    calls = []
    product = HeadProducts.logits

    def counted(self, rows, out):
        calls.append(rows)
        return product(self, rows, out)

    monkeypatch.setattr(HeadProducts, "logits", counted)
    return lambda: len(calls)


@pytest.mark.parametrize(("chunk_size", "num_chunks"), [(100, 1), (3, 3)])
def test_all_terms_and_their_gradients_share_one_pass_over_the_head(
    chunk_size, num_chunks, num_logit_products
):
    problem = Problem(n=7)
    loss, _ = fused_objective(*problem.arguments, problem.objective, chunk_size=chunk_size)
    torch.autograd.grad(loss, problem.parameters)
    assert num_logit_products() == num_chunks


@pytest.mark.parametrize(("chunk_size", "num_chunks"), [(100, 1), (3, 3)])
def test_sparse_logprobs_compute_all_chunks_but_the_last_a_second_time(
    chunk_size, num_chunks, num_logit_products
):
    problem = Problem(n=7)
    student = sparse_logprobs(*problem.arguments, chunk_size=chunk_size)
    loss = problem.objective(slice(None), student).sum()
    first = torch.autograd.grad(loss, problem.parameters, retain_graph=True)
    assert num_logit_products() == 2 * num_chunks - 1
    # A second backward pass finds no chunk left and computes them all.
    second = torch.autograd.grad(loss, problem.parameters)
    assert num_logit_products() == 3 * num_chunks - 1
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)  # float64 rounding


def test_sparse_logprobs_pass_gradcheck():
    problem = Problem(n=3, d=2, v=6, k=3, bias=True, soft_cap=4.0, scale=1.5)
    problem.support_mask[0] = torch.tensor([True, False, True])

    def run(hidden, weight, bias):
        head = LMHead(weight=weight, bias=bias, soft_cap=4.0, scale=1.5)
        out = sparse_logprobs(hidden, head, *problem.arguments[2:], chunk_size=2)
        return out.token, out.support.masked_fill(~problem.support_mask, 0.0), out.tail

    assert torch.autograd.gradcheck(run, tuple(problem.parameters))


@torch.no_grad()
def test_fused_gradients_equal_finite_differences():
    """Gradcheck by hand: torch's differentiates one output several times, which a fused loss refuses."""
    problem = Problem(n=3, d=2, v=6, k=3, bias=True, soft_cap=4.0)
    with torch.enable_grad():
        loss, _ = fused_objective(*problem.arguments, problem.objective, chunk_size=2)
        gradients = torch.autograd.grad(loss, problem.parameters)
    step = 1e-6
    for parameter, gradient in zip(problem.parameters, gradients, strict=True):
        entries = parameter.view(-1)
        for i, slope in enumerate(gradient.flatten().tolist()):
            values = []
            for offset in (step, -2 * step):
                entries[i] += offset
                values.append(fused_objective(*problem.arguments, problem.objective)[0].item())
            entries[i] += step
            # Central differences: truncation about step² and rounding about 1e-15 / step.
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, abs=1e-7)


SUPPORTS = {"all tokens": Problem(k=23), "no token": Problem(k=0), "masked": Problem()}


@pytest.mark.parametrize("case", [*HEADS, *SUPPORTS])
def test_the_functions_that_a_gpu_compiles_give_the_same_loss_and_gradients(case, monkeypatch):
    # Uncompiled: what a compiler makes of them on a CPU says little about a GPU and takes half a minute.
    monkeypatch.setattr(head_chunk, "tail_of", lambda logits: FusedTail(logits, compiler=lambda f: f))
    problem = Problem(**HEADS[case]) if case in HEADS else SUPPORTS[case]
    if case in SUPPORTS:
        problem = with_mask(problem, case != "masked")
    assert_fused_matches_dense(problem, chunk_size=3)


@pytest.mark.slow
@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_the_functions_that_a_gpu_compiles_are_one_graph_each_for_all_sizes(soft_cap):
    compiler = functools.cache(lambda f: torch.compile(f, backend="aot_eager", dynamic=True, fullgraph=True))
    for n in (2, 5):
        logits = torch.randn(n, 11)
        logits[:, :3] = head_chunk.REMOVED_LOGIT
        fused, blocked = FusedTail(logits, compiler), BlockedTail(logits.clone())
        for name in ("shift", "total", "weighted"):
            torch.testing.assert_close(getattr(fused, name), getattr(blocked, name))
        out, expected = torch.empty(n, 11, dtype=torch.bfloat16), torch.empty(n, 11, dtype=torch.bfloat16)
        fused.spread(torch.arange(1.0, n + 1), soft_cap, out)
        blocked.spread(torch.arange(1.0, n + 1), soft_cap, expected)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("num_stacked", [1, 2, 4])
@pytest.mark.parametrize("num_positions", [7, 8])
def test_collecting_the_gradients_of_several_chunks_for_one_product_changes_nothing(
    num_stacked, num_positions, monkeypatch
):
    """As on a GPU, where bfloat16 gradients have separate memory."""
    initialize = HeadProducts.__init__

    def stacking(self, *arguments):
        initialize(self, *arguments)
        self.num_stacked_chunks = num_stacked

    monkeypatch.setattr(HeadProducts, "__init__", stacking)
    problem = Problem(n=num_positions, bias=True)
    assert_fused_matches_dense(problem, chunk_size=3)
    expected = torch.autograd.grad(problem.dense_loss(), problem.parameters)
    student = sparse_logprobs(*problem.arguments, chunk_size=3)
    seen = torch.autograd.grad(problem.objective(slice(None), student).sum(), problem.parameters)
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * other.abs().max().item())


def test_values_by_hand():
    # Logits log 1, log 2, log 3, log 4: probabilities .1, .2, .3, .4.
    head = LMHead(weight=torch.tensor([1.0, 2.0, 3.0, 4.0]).log()[:, None])
    out = sparse_logprobs(
        torch.ones(1, 1), head, torch.tensor([2]), torch.tensor([[3, 0]]), torch.tensor([[True, True]])
    )
    assert out.token.exp().item() == pytest.approx(0.3)
    assert out.support.exp().tolist() == [pytest.approx([0.4, 0.1])]
    assert out.tail.exp().item() == pytest.approx(0.5)
    entropy = -sum(p * math.log(p) for p in (0.1, 0.2, 0.3, 0.4))
    assert out.entropy.item() == pytest.approx(entropy, rel=1e-6)  # a few float32 roundings


def test_padded_slots_never_change_loss_or_gradients():
    problem = Problem()
    problem.support_mask[:] = True
    loss, _ = fused_objective(*problem.arguments, problem.objective)
    gradients = torch.autograd.grad(loss, problem.parameters)

    def padded(values, filling):
        return torch.cat([values, torch.full((len(values), 2), filling, dtype=values.dtype)], dim=1)

    problem.support_ids = padded(
        problem.support_ids, int(problem.support_ids[0, 0])
    )  # also a real token's id
    problem.support_mask = padded(problem.support_mask, False)
    problem.teacher = SparseLogprobs(
        problem.teacher.token,
        padded(problem.teacher.support, -math.inf),
        problem.teacher.tail,
        problem.weights,
    )
    problem.advantages = padded(problem.advantages, math.nan)
    padded_loss, _ = fused_objective(*problem.arguments, problem.objective)
    padded_gradients = torch.autograd.grad(padded_loss, problem.parameters)
    for seen, true in zip((padded_loss, *padded_gradients), (loss, *gradients), strict=True):
        torch.testing.assert_close(seen, true, rtol=1e-12, atol=1e-12)  # float64 rounding


def test_far_tails_neither_underflow_nor_lose_their_gradient():
    """A student 2,000 nats away from its tail, where exp() of float32 has long been zero."""
    head = LMHead(weight=torch.tensor([[2000.0], [0.0], [-1.0]]))
    hidden = torch.ones(1, 1, requires_grad=True)
    out = sparse_logprobs(hidden, head, torch.tensor([1]), torch.tensor([[0]]), torch.tensor([[True]]))
    assert out.tail.item() == pytest.approx(-2000.0 + math.log(1 + math.exp(-1)), rel=1e-6)
    (gradient,) = torch.autograd.grad(out.tail.sum(), hidden)
    # Of the tail's mean weight, 0 * .731 - 1 * .269, less the mean of all, 2000.
    assert gradient.item() == pytest.approx(-math.exp(-1) / (1 + math.exp(-1)) - 2000.0, rel=1e-6)


@settings(max_examples=100)
@given(problem=problems(), factor=st.sampled_from([1e2, 1e4, 1e6]), chunk_size=st.integers(1, 7))
def test_logits_of_any_size_in_float32_give_finite_losses_and_gradients(problem, factor, chunk_size):
    hidden = (factor * problem.hidden.detach()).float().requires_grad_()
    weight = problem.head.weight.detach().float().requires_grad_()
    head = dataclasses.replace(problem.head, weight=weight, bias=None)
    loss, logprobs = fused_objective(
        hidden, head, *problem.arguments[2:], problem.objective, chunk_size=chunk_size
    )
    assert loss.isfinite()
    assert logprobs.entropy.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_a_slice_of_positions_keeps_gradients_and_detach_drops_them():
    student = sparse_logprobs(*Problem().arguments)
    part, values = student[2:4], student.detach()
    assert part.token.requires_grad
    assert not values.token.requires_grad
    for name in ("token", "support", "tail", "entropy"):
        assert torch.equal(getattr(part, name), getattr(values, name)[2:4])


def test_whole_vocabulary_support_has_an_empty_tail_and_finite_gradients():
    problem = Problem(v=6, k=6)
    problem.support_mask[:] = True
    loss, logprobs = fused_objective(*problem.arguments, problem.objective)
    assert logprobs.tail.isneginf().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, problem.parameters))


def test_positions_without_support_have_all_their_mass_in_the_tail():
    problem = with_mask(Problem(), False)
    _, logprobs = fused_objective(*problem.arguments, problem.objective)
    assert logprobs.tail.tolist() == [0.0] * 7
    assert logprobs.support.isneginf().all()


def test_no_positions_give_a_zero_loss_and_zero_gradients():
    problem = Problem(n=0)
    loss, _ = fused_objective(*problem.arguments, problem.objective)
    _, weight_gradient = torch.autograd.grad(loss, problem.parameters)
    assert loss.item() == 0.0
    assert not weight_gradient.any()


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
@pytest.mark.parametrize("use", ["fused", "sparse"])
def test_frozen_inputs_get_no_gradient_and_do_not_change_the_others(frozen, use):
    problem = Problem()
    expected = dict(
        zip(("hidden", "weight"), torch.autograd.grad(problem.dense_loss(), problem.parameters), strict=True)
    )
    problem.hidden.requires_grad_(frozen == "weight")
    problem.head.weight.requires_grad_(frozen == "hidden")
    if use == "fused":
        loss, _ = fused_objective(*problem.arguments, problem.objective)
    else:
        loss = problem.objective(slice(None), sparse_logprobs(*problem.arguments)).sum()
    if frozen == "both":
        assert not loss.requires_grad
        return
    loss.backward()
    for name, parameter in (("hidden", problem.hidden), ("weight", problem.head.weight)):
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-10)
        else:
            assert parameter.grad is None


def test_without_gradients_only_values_are_computed():
    problem = Problem()
    with torch.no_grad():
        loss, _ = fused_objective(*problem.arguments, problem.objective)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, problem.dense_loss().detach(), rtol=1e-10, atol=0)


def test_an_objective_that_ignores_the_student_has_no_gradient():
    problem = Problem()
    loss, _ = fused_objective(*problem.arguments, lambda rows, student: torch.ones(rows.stop - rows.start))
    gradients = torch.autograd.grad(loss, problem.parameters)
    assert loss.item() == 7.0
    assert not any(gradient.any() for gradient in gradients)


def test_the_loss_factor_reaches_every_gradient():
    problem = Problem(bias=True)
    loss, _ = fused_objective(*problem.arguments, problem.objective)
    tripled = torch.autograd.grad(3.0 * loss, problem.parameters)
    expected = torch.autograd.grad(3.0 * problem.dense_loss(), problem.parameters)
    for seen, true in zip(tripled, expected, strict=True):
        torch.testing.assert_close(seen, true, rtol=1e-10, atol=1e-10)


def test_a_second_backward_pass_is_refused():
    loss, _ = fused_objective(*(problem := Problem()).arguments, problem.objective)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed out already"):
        loss.backward()


def test_a_weight_shared_with_the_embedding_gets_both_gradients():
    problem = Problem()
    tokens = torch.arange(7)

    def gradient(head_loss):
        problem.hidden = problem.head.weight[tokens] * 2.0
        return torch.autograd.grad(head_loss(), problem.head.weight)[0]

    fused = gradient(lambda: fused_objective(*problem.arguments, problem.objective)[0])
    torch.testing.assert_close(fused, gradient(problem.dense_loss), rtol=1e-10, atol=1e-10)


def low_precision_error(dtype, run, device="cpu"):
    """Largest error relative to the largest entry, of the loss and the gradients, against float64 on the CPU."""
    problem = Problem(n=64, d=32, v=500, k=16, seed=3, sharpness=0.3)
    low = Problem(n=64, d=32, v=500, k=16, seed=3, sharpness=0.3)
    with torch.no_grad():  # the oracle sees the same rounded inputs
        for true, rounded in zip(problem.parameters, low.parameters, strict=True):
            true.copy_(true.to(dtype))
            rounded.data = rounded.data.to(dtype)
    low.to(device)
    expected = problem.dense_loss()
    expected_gradients = torch.autograd.grad(expected, problem.parameters)
    loss = run(low)
    gradients = torch.autograd.grad(loss, low.parameters)
    assert [gradient.dtype for gradient in gradients] == [dtype, dtype]
    return [
        ((seen.cpu().double() - true).abs().max() / true.abs().max()).item()
        for seen, true in zip((loss, *gradients), (expected, *expected_gradients), strict=True)
    ]


RUNS = {
    "fused": lambda problem: fused_objective(*problem.arguments, problem.objective, chunk_size=16)[0],
    "sparse": lambda problem: problem.objective(
        slice(None), sparse_logprobs(*problem.arguments, chunk_size=16)
    ).sum(),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "gradient_tolerance"),
    [
        # float32 throughout: some ten roundings of 6e-8 on sums of both signs.
        (torch.float32, 1e-6, 5e-6),
        # On this device everything between the rounded inputs and the gradients is float32, so the loss is as
        # good as above and a gradient is rounded once: half a unit in the last place, 2^-8 or 2^-11.
        (torch.bfloat16, 1e-6, 2**-8 + 1e-5),
        (torch.float16, 1e-6, 2**-11 + 1e-5),
    ],
    ids=["float32", "bfloat16", "float16"],
)
def test_low_precision_inputs_keep_float32_accuracy_until_the_last_rounding(
    run, dtype, loss_tolerance, gradient_tolerance
):
    loss_error, *gradient_errors = low_precision_error(dtype, run)
    assert loss_error <= loss_tolerance
    assert max(gradient_errors) <= gradient_tolerance


def test_logit_gradients_in_bfloat16_are_the_float64_ones_rounded():
    """The form that CUDA's bfloat16 products take them in."""

    def gradients(dtype):
        problem = Problem()
        logits = problem.head.logits(problem.hidden).detach()
        chunk = HeadChunk(logits, problem.head, problem.labels, problem.support_ids, problem.support_mask)
        ones = torch.ones(7, dtype=torch.float64)
        out = torch.empty(7, 23, dtype=dtype)
        return chunk.logit_gradients(ones, ones[:, None].expand(7, 4), ones, out=out)

    rounded, exact = gradients(torch.bfloat16), gradients(torch.float64)
    assert rounded.dtype is torch.bfloat16
    # Two roundings of 2^-9 at most: of the logit's share of the normaliser, and of its own gradient on top.
    torch.testing.assert_close(rounded.double(), exact, rtol=2**-8, atol=2**-8 * exact.abs().max().item())


def test_the_default_chunk_shrinks_with_the_vocabulary_and_never_vanishes():
    assert default_chunk_size(64_000) == 512
    assert default_chunk_size(128_256) == 256
    assert default_chunk_size(400_000) == 83
    assert default_chunk_size(10**9) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_on_cuda_the_error_is_that_of_rounding_the_logit_gradients(run, dtype):
    loss_error, *gradient_errors = low_precision_error(dtype, run, device="cuda")
    assert loss_error <= 1e-5
    # bfloat16: the gradients of the logits are rounded too (2^-8 each, of both signs), then the results.
    assert max(gradient_errors) <= (2e-5 if dtype is torch.float32 else 2**-6)


def test_autocast_rounds_the_operands_and_nothing_else():
    problem = Problem()
    hidden = problem.hidden.detach().float().requires_grad_()
    head = LMHead(weight=problem.head.weight.detach().float().requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logprobs = fused_objective(hidden, head, *problem.arguments[2:], problem.objective)
    loss.backward()
    assert logprobs.tail.dtype == hidden.grad.dtype == head.weight.grad.dtype == torch.float32
    rounded = LMHead(weight=head.weight.detach().bfloat16())
    expected, _ = fused_objective(
        hidden.detach().bfloat16(), rounded, *problem.arguments[2:], problem.objective
    )
    # The same roundings of the operands; float32 sums, which another path may add in another order.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
