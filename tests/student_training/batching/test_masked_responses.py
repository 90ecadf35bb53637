"""Training on masked responses: what is masked has no gradient, and turns count alike in one row or in several."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from data.signals.schema import ResponseSignals
from student_training.batching.collator import PairCollator
from student_training.methods import METHODS, build_method, find_method
from student_training.student import StudentWithObjective

VOCAB = 40


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).double()


def response(role, rng, *, masked=True):
    """A row with signals of both models; of twelve positions nine count, in two turns."""
    mask = np.array([1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1], bool) if masked else np.ones(12, bool)
    logits = [rng.normal(size=(mask.sum(), VOCAB)) for _ in range(2)]
    teacher, reference = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in logits)
    ids = np.argsort(-teacher, axis=1)[:, :4].astype(np.int32)
    kept = [np.take_along_axis(x, ids, axis=1).astype(np.float32) for x in (teacher, reference)]
    tokens = rng.integers(3, VOCAB, 12).astype(np.int32)
    tokens[-1] = 2
    own = [x[np.arange(len(ids)), tokens[mask]].astype(np.float32) for x in (teacher, reference)]
    tails = [np.log1p(-np.exp(x).sum(1)) for x in kept]
    return ResponseSignals(
        "pair",
        role,
        0,
        rng.integers(3, VOCAB, 5).astype(np.int32),
        tokens,
        support_sizes=np.full(len(ids), 4, np.uint16),
        topk_ids=ids.ravel(),
        teacher_logprobs=kept[0].ravel(),
        advantages=(kept[0] - kept[1]).ravel(),
        teacher_tail_logprobs=tails[0],
        reference_tail_logprobs=tails[1],
        teacher_token_logprobs=own[0],
        reference_token_logprobs=own[1],
        response_mask=mask if masked else None,
    )


def turns(row):
    """The turns of a masked row as separate rows, each after all that precedes it."""
    ids = np.concatenate([row.prompt_ids, row.response_ids])
    begin = len(row.prompt_ids)
    starts = np.cumsum([0, *row.support_sizes])
    for number, (first, end, scored) in enumerate([(0, 4, slice(0, 4)), (7, 12, slice(4, 9))]):
        support = slice(starts[scored.start], starts[scored.stop])
        columns = {
            name: getattr(row, name)[support] for name in ("topk_ids", "teacher_logprobs", "advantages")
        }
        for name in ("support_sizes", "teacher_tail_logprobs", "reference_tail_logprobs"):
            columns[name] = getattr(row, name)[scored]
        for name in ("teacher_token_logprobs", "reference_token_logprobs"):
            columns[name] = getattr(row, name)[scored]
        yield dataclasses.replace(
            row,
            sample_index=number,
            prompt_ids=ids[: begin + first],
            response_ids=ids[begin + first : begin + end],
            response_mask=None,
            **columns,
        )


def known(rows, pair=0):
    """Log-probabilities of response tokens by row, for methods that compare with an earlier student."""
    return {(pair, row.role, row.sample_index): -np.ones(row.num_scored, np.float32) for row in rows}


def loss_of(student, name, rows, *, normalize="token", packed=False):
    method, _ = build_method(find_method(name), {"clip": "0.2"} if name.startswith("dppo") else {})
    roles = [row for row in rows if row.role in method.needs.roles]
    collator = PairCollator(
        method.needs,
        vocab_size=VOCAB,
        pad_token_id=0,
        packed=packed,
        initial=known(roles) if method.needs.initial else None,
        behavior=known(roles) if method.needs.behavior else None,
    )
    student.zero_grad()
    model = StudentWithObjective(student, method, normalize=normalize, head_chunk=4)
    loss = model(**collator([(0, roles)]))["loss"]
    loss.backward()
    return loss.item(), [weight.grad.clone() for weight in student.parameters()]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("normalize", ["token", "sequence"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_turns_count_alike_in_one_masked_row_and_in_rows_of_their_own(student, name, normalize, packed):
    rng = np.random.default_rng(0)
    rows = [response(role, rng) for role in ("chosen", "rejected")]
    sampled = response("student", rng, masked=False)
    apart = [turn for row in rows for turn in turns(row)]
    loss, gradients = loss_of(student, name, [*rows, sampled], normalize=normalize, packed=packed)
    other, others = loss_of(student, name, [*apart, sampled], normalize=normalize, packed=packed)
    assert loss == pytest.approx(other, rel=1e-6)
    for one, two in zip(gradients, others, strict=True):
        # Signals are float32, and so is what the student's attention knows of positions.
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sft", "dpo", "dckd", "abd"])
def test_masked_positions_have_no_gradient_at_all(student, name):
    rng = np.random.default_rng(1)
    rows = [response(role, rng) for role in ("chosen", "rejected")]
    seen = []

    def keep(_module, _inputs, outputs):
        if outputs[0].requires_grad:
            outputs[0].retain_grad()
            seen.append(outputs[0])

    hook = student.model.register_forward_hook(keep)
    loss_of(student, name, rows)
    hook.remove()
    predicting = np.zeros(17, bool)
    predicting[4 + rows[0].scored_places] = True
    for gradient in seen[0].grad:
        assert (gradient[torch.tensor(~predicting)] == 0).all()
        assert (gradient[torch.tensor(predicting)] != 0).any()


@pytest.mark.parametrize("name", ["sft", "dpo", "dckd", "abd"])
def test_what_masked_labels_are_changes_no_bit_of_the_loss(student, name):
    rng = np.random.default_rng(2)
    rows = [response(role, rng) for role in ("chosen", "rejected")]
    # Off at the end, where no other position sees the tokens, so that they are labels alone.
    rows = [
        dataclasses.replace(
            row,
            response_ids=np.append(row.response_ids, np.int32([7, 8, 9])),
            response_mask=np.append(row.response_mask, [False] * 3),
        )
        for row in rows
    ]
    changed = [
        dataclasses.replace(row, response_ids=np.append(row.response_ids[:-3], np.int32([11, 30, 3])))
        for row in rows
    ]
    (loss, gradients), (other, others) = loss_of(student, name, rows), loss_of(student, name, changed)
    assert loss == other
    for one, two in zip(gradients, others, strict=True):
        assert torch.equal(one, two)
