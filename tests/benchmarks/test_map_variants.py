"""Rules that only the map tries, with values worked by hand."""

import dataclasses

import pytest
import torch

from benchmarks.map import variants
from benchmarks.map.plan.methods import VARIANTS
from student_training.head.chunk import SparseLogprobs
from student_training.methods import Positions, build_method, find_method


def positions_of(teacher, tail, **columns):
    logs = torch.tensor(teacher).log()
    given = {
        "support_mask": torch.ones(logs.shape, dtype=torch.bool),
        "teacher_logprobs": logs,
        "advantages": torch.zeros_like(logs),
        "teacher_tail": torch.tensor(tail).log(),
        "terminator": torch.zeros(len(logs), dtype=torch.bool),
        **columns,
    }
    zeros = torch.zeros(len(logs))
    return Positions(**{field.name: given.get(field.name, zeros) for field in dataclasses.fields(Positions)})


def test_confidence_is_0_for_an_even_teacher_and_1_for_a_certain_one():
    positions = positions_of([[0.25, 0.25, 0.25], [1.0, 0.0, 0.0]], [0.25, 0.0])
    assert variants.confidence(positions).tolist() == pytest.approx([0, 1], abs=1e-6)
    assert variants.doubt(positions).tolist() == pytest.approx([1, 0], abs=1e-6)


def test_falling_weights_have_mean_1_in_every_response():
    # Two positions that end, two that were cut, and two of the next response, which the sum tells apart.
    positions = positions_of(
        [[0.5]] * 6,
        [0.5] * 6,
        terminator=torch.tensor([False, True, False, False, False, True]),
        response_advantage=torch.tensor([3.0, 3.0, 3.0, 3.0, 4.0, 4.0]),
    )
    assert variants.falling(positions).tolist() == [1.5, 0.5] * 3
    assert variants.rising(positions).tolist() == [0.5, 1.5] * 3


def test_united_supports_keep_both_models_tokens_and_all_mass(monkeypatch):
    monkeypatch.setattr(variants, "_TOP_K", 1)
    # The teacher's first token and the reference's third; the second goes into the tails.
    teacher, reference = torch.tensor([[0.5, 0.3, 0.1]]), torch.tensor([[0.1, 0.2, 0.6]])
    positions = positions_of(
        teacher.tolist(),
        [0.1],
        advantages=(teacher / reference).log(),
        reference_tail=torch.tensor([0.1]).log(),
    )
    own = torch.tensor([[0.2, 0.3, 0.5]], requires_grad=True)
    student = SparseLogprobs(torch.zeros(1), own.log(), torch.tensor([-torch.inf]), torch.zeros(1))
    fewer, changed = variants.unite(positions, student)
    assert fewer.support_mask.tolist() == [[True, False, True]]
    assert fewer.teacher_tail.exp().tolist() == pytest.approx([0.4])
    assert fewer.reference_tail.exp().tolist() == pytest.approx([0.3])
    assert changed.tail.exp().tolist() == pytest.approx([0.3])
    changed.tail.sum().backward()
    assert own.grad is not None
    assert own.grad[0].tolist() == pytest.approx([0, 1 / 0.3, 0])


def test_variants_are_methods_that_train_student_finds():
    for run in VARIANTS.values():
        method, _ = build_method(find_method(run.method), run.settings)
        assert all(term.weight for term in method.terms)
