"""Every number of the golden file, values and gradients: computed densely and independently of this code."""

import json
import pathlib

import pytest
import torch
from dense_head import dense_sparse_logprobs

from student_training.head.fused import fused_objective
from student_training.head.lm_head import LMHead
from student_training.objectives import (
    boosted_target,
    clipped_surrogate,
    dpkd_loss,
    dpo_loss,
    expected_advantage,
    forward_kl,
    reverse_kl,
    simpo_loss,
)

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "objectives.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}


def tensor(values, dtype):
    """Golden numbers as a tensor; null means a log-probability of -inf."""
    if isinstance(values, list):
        values = [-torch.inf if value is None else value for value in values]
    return torch.tensor(values, dtype=dtype)


def signals(case, dtype):
    teacher_tail = tensor(case["teacher_tail_logprob"], dtype)
    return {
        "labels": torch.tensor(case["labels"]),
        "support_ids": torch.tensor(case["topk_ids"]),
        "teacher": tensor(case["teacher_logprobs"], dtype),
        "teacher_tail": teacher_tail,
        "advantages": tensor(case["advantages"], dtype),
        "tail_advantages": teacher_tail - tensor(case["reference_tail_logprob"], dtype),
    }


def student_logprobs(case, logits):
    support_ids = torch.tensor(case["topk_ids"])
    support_mask = torch.ones_like(support_ids, dtype=torch.bool)
    return dense_sparse_logprobs(logits, torch.tensor(case["labels"]), support_ids, support_mask)


def whole_vocabulary(case, key, dtype):
    return torch.tensor(case[key], dtype=dtype).log_softmax(-1)


def nll(student, **_):
    return -student.token


def bucket_kl(student, teacher, teacher_tail, **_):
    return forward_kl(student.support, student.tail, teacher, teacher_tail)


def renormalized_kl(student, teacher, teacher_tail, **_):
    return forward_kl(student.support, student.tail, teacher, teacher_tail, tail="renormalize")


def unclipped_advantage(student, advantages, **_):
    return expected_advantage(student.support, student.tail, advantages)


def clipped_advantage(student, advantages, **_):
    return expected_advantage(student.support, student.tail, advantages, clip=(0.0, 1.0))


def bucket_advantage(student, advantages, tail_advantages, **_):
    return expected_advantage(student.support, student.tail, advantages, tail_advantages, tail="bucket")


def boosted(divergence, scale, clip):
    def loss(student, teacher, teacher_tail, advantages, tail_advantages, **_):
        target = boosted_target(teacher, teacher_tail, advantages, tail_advantages, scale=scale, clip=clip)
        return divergence(student.support, student.tail, *target)

    return loss


BOOSTS = {"lambda=0.5,clip=none": (0.5, None), "lambda=1.0,clip=1.0": (1.0, 1.0)}
SPARSE_LOSSES = {
    ("nll",): nll,
    ("forward_kl", "tail=bucket"): bucket_kl,
    ("forward_kl", "tail=renormalize_teacher"): renormalized_kl,
    ("expected_advantage", "clip=none,tail=zero"): unclipped_advantage,
    ("expected_advantage", "clip=0:1,tail=zero"): clipped_advantage,
    ("expected_advantage", "clip=none,tail=bucket"): bucket_advantage,
} | {
    ("boosted", key, name): boosted(divergence, *settings)
    for key, settings in BOOSTS.items()
    for name, divergence in (("forward_kl", forward_kl), ("reverse_kl", reverse_kl))
}
DENSE_LOSSES = {("forward_kl", "dense"), ("expected_advantage", "dense")}


def golden_entries():
    """Where the golden file has per-position values: (case, path to them)."""

    def walk(node, path):
        if isinstance(node, dict):
            if "per_position" in node:
                yield path
            else:
                for key, child in node.items():
                    yield from walk(child, (*path, key))

    return [(name, path) for name, case in CASES.items() for path in walk(case, ())]


def label_of(value):
    return value if isinstance(value, str) else "/".join(value)


def expected_of(case, path):
    for key in path:
        case = case[key]
    return case


def evaluate(case, path, dtype):
    logits = torch.tensor(case["student_logits"], dtype=dtype, requires_grad=True)
    if path in DENSE_LOSSES:  # the same functions with the whole vocabulary as the support
        student, no_tail = logits.log_softmax(-1), torch.full(logits.shape[:1], -torch.inf, dtype=dtype)
        teacher = whole_vocabulary(case, "teacher_logits", dtype)
        reference = whole_vocabulary(case, "reference_logits", dtype)
        if path[0] == "forward_kl":
            values = forward_kl(student, no_tail, teacher, no_tail)
        else:
            values = expected_advantage(student, no_tail, teacher - reference)
    else:
        values = SPARSE_LOSSES[path](student_logprobs(case, logits), **signals(case, dtype))
    (gradient,) = torch.autograd.grad(values.mean(), logits)
    return values.detach(), gradient


@pytest.mark.parametrize(
    ("name", "path"), golden_entries(), ids=lambda x: x if isinstance(x, str) else "/".join(x)
)
def test_values_and_gradients_match_the_golden_file_in_float64(name, path):
    expected = expected_of(CASES[name], path)
    values, gradient = evaluate(CASES[name], path, torch.float64)
    torch.testing.assert_close(values, tensor(expected["per_position"], torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(values.mean().item(), expected["mean"], rtol=0, atol=1e-9)
    expected_gradient = tensor(expected["grad_of_mean_wrt_student_logits"], torch.float64)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "path"), golden_entries(), ids=lambda x: x if isinstance(x, str) else "/".join(x)
)
def test_values_and_gradients_match_the_golden_file_in_float32(name, path):
    expected = expected_of(CASES[name], path)
    values, gradient = evaluate(CASES[name], path, torch.float32)
    # 1e-5 of the largest entry: a sum of terms of both signs keeps the absolute error of its largest term, so
    # an entry that nearly cancels has no small relative error. Gradients add one rounding of a
    # probability near 1, which log-softmax multiplies by the sum of all the others.
    expected_values = tensor(expected["per_position"], torch.float32)
    torch.testing.assert_close(
        values, expected_values, rtol=1e-5, atol=1e-5 * expected_values.abs().max().item()
    )
    expected_gradient = tensor(expected["grad_of_mean_wrt_student_logits"], torch.float32)
    allowed = 1e-5 * expected_gradient.abs().max().item() + torch.finfo(torch.float32).eps
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=allowed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("name", "path"), [entry for entry in golden_entries() if entry[1] in SPARSE_LOSSES], ids=label_of
)
def test_the_fused_head_matches_the_golden_file(name, path, dtype):
    case = CASES[name]
    expected = expected_of(case, path)
    inputs = signals(case, dtype)
    hidden = torch.tensor(case["student_logits"], dtype=dtype, requires_grad=True)
    head = LMHead(
        weight=torch.eye(case["vocab_size"], dtype=dtype)
    )  # so that the hidden states are the logits
    num_positions = len(hidden)

    def objective(rows, student):
        per_position = {key: value[rows] for key, value in inputs.items()}
        return SPARSE_LOSSES[path](student, **per_position) / num_positions

    support_mask = torch.ones_like(inputs["support_ids"], dtype=torch.bool)
    loss, _ = fused_objective(
        hidden, head, inputs["labels"], inputs["support_ids"], support_mask, objective, chunk_size=4
    )
    (gradient,) = torch.autograd.grad(loss, hidden)
    expected_gradient = tensor(expected["grad_of_mean_wrt_student_logits"], dtype)
    if dtype is torch.float64:
        allowed_value = allowed_gradient = 1e-9
    else:  # as above
        allowed_value = 1e-5 * max(abs(value) for value in expected["per_position"])
        allowed_gradient = 1e-5 * expected_gradient.abs().max().item() + torch.finfo(dtype).eps
    assert loss.item() == pytest.approx(expected["mean"], rel=0, abs=allowed_value)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=allowed_gradient)


def test_every_kind_of_entry_in_the_golden_file_is_computed_here():
    assert {path for _, path in golden_entries()} == set(SPARSE_LOSSES) | DENSE_LOSSES


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("key", BOOSTS)
def test_boosted_targets_match_the_golden_file(name, key):
    case, (scale, clip) = CASES[name], BOOSTS[key]
    inputs = signals(case, torch.float64)
    support, tail = boosted_target(
        inputs["teacher"],
        inputs["teacher_tail"],
        inputs["advantages"],
        inputs["tail_advantages"],
        scale=scale,
        clip=clip,
    )
    target = torch.cat([support, tail[:, None]], dim=1)
    expected = case["boosted"][key]["target_logprobs"]
    if case["top_k"] == case["vocab_size"]:  # no entry for the tail there
        expected = [[*row, None] for row in expected]
    torch.testing.assert_close(
        target, torch.stack([tensor(row, torch.float64) for row in expected]), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("key", ["dpo", "dpkd", "dpkd_length_normalized", "simpo"])
def test_pairwise_losses_match_the_golden_file(key, dtype):
    golden = GOLDEN["pairwise"]
    policy = [tensor(golden[name], dtype) for name in ("policy_chosen", "policy_rejected")]
    reference = [tensor(golden[name], dtype) for name in ("reference_chosen", "reference_rejected")]
    teacher = [tensor(golden[name], dtype) for name in ("teacher_chosen", "teacher_rejected")]
    lengths = [torch.tensor(golden[name]) for name in ("len_chosen", "len_rejected")]
    if key == "dpo":
        values = dpo_loss(*policy, *reference, beta=golden["beta"])
    elif key == "simpo":
        values = simpo_loss(*policy, *lengths, beta=golden["simpo_beta"], gamma=golden["simpo_gamma"])
    else:
        named = dict(zip(("chosen_lengths", "rejected_lengths"), lengths, strict=True))
        normalized = named if key == "dpkd_length_normalized" else {}
        values = dpkd_loss(*policy, *teacher, beta=golden["beta"], **normalized)
    tolerance = {"rtol": 0, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 1e-5, "atol": 0}
    torch.testing.assert_close(values, tensor(golden[key], dtype), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("level", ["token_level", "sequence_level"])
def test_clipped_surrogates_match_the_golden_file(level, dtype):
    golden = GOLDEN["dppo"]
    advantages = tensor(golden["token_advantages"], dtype)
    if level == "sequence_level":
        advantages = advantages.sum().expand_as(advantages)
    policy, behavior = (tensor(golden[name], dtype) for name in ("policy_logprobs", "behavior_logprobs"))
    values = clipped_surrogate(policy, behavior, advantages, clip_range=golden["clip_range"])
    tolerance = {"rtol": 0, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 1e-5, "atol": 0}
    torch.testing.assert_close(values, tensor(golden[level], dtype), **tolerance)
