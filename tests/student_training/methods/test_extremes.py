"""Every method's loss and gradients stay finite where distributions are extreme, in float32 and bfloat16."""

import dataclasses

import pytest
import torch

from student_training.head.fused import fused_objective
from student_training.head.lm_head import LMHead
from student_training.methods import METHODS, Positions, build_method

NEVER = -torch.inf

#: A position's teacher, reference and initial student: log-probabilities of a support of two tokens, and of the tail.
#: What a pass can give: no probability above 1, in a support none that is 0.
ROWS = {
    "everything on one support token, tails empty": (
        ([0.0, -90.0], NEVER),
        ([0.0, -90.0], NEVER),
        ([0.0, -90.0], NEVER),
    ),
    "teacher and reference certain of different tokens": (
        ([0.0, -1e4], NEVER),
        ([-1e4, 0.0], NEVER),
        ([-0.7, -0.7], NEVER),
    ),
    "everything in the tail": (([-1e4, -1e4], 0.0), ([-1e4, -300.0], 0.0), ([-200.0, -1e4], 0.0)),
    "the reference has no tail": (([-1.0, -1.0], -1.33), ([-0.7, -0.7], NEVER), ([-1.0, -1.0], -1.33)),
    "the teacher has no tail": (([-0.7, -0.7], NEVER), ([-60.0, -60.0], 0.0), ([-60.0, -60.0], 0.0)),
    "rounded above 1": (([1e-3, -20.0], -18.0), ([2e-3, -20.0], -18.0), ([1e-3, -20.0], -18.0)),
}


def positions(width):
    """All rows, with the first `width` tokens of their supports, behind one masked slot."""
    models = [torch.tensor([[*row[model][0], row[model][1]] for row in ROWS.values()]) for model in range(3)]
    teacher, reference, initial = (model[:, :width] for model in models)
    tails = [torch.cat([model[:, width:2], model[:, 2:]], 1).logsumexp(1) for model in models]

    def behind(values, filling):
        return torch.cat([torch.full((len(ROWS), 1), filling, dtype=values.dtype), values], 1)

    number = len(ROWS)
    known = {
        "labels": torch.arange(number) % 4,
        "support_ids": behind(torch.arange(width)[None].expand(number, -1) + 1, 0),
        "support_mask": behind(torch.ones(number, width, dtype=torch.bool), False),
        "teacher_logprobs": behind(teacher, 0.0),
        "advantages": behind(teacher - reference, 0.0),
        "initial_support": behind(initial, 0.0),
        "teacher_tail": tails[0],
        "reference_tail": tails[1],
        "initial_tail": tails[2],
        "terminator": torch.zeros(number, dtype=torch.bool),
    }
    nothing = torch.zeros(number)
    return Positions(**({field.name: nothing for field in dataclasses.fields(Positions)} | known))


#: What a method does in its extremes beside its defaults: no clip, every divergence.
SETTINGS = {
    "adpa": [
        {"clip": "none", "advantage_tail": "bucket"},
        {"advantage": "constant"},
        {"advantage_power": 0.5},
    ],
    "vanilla-kd": [{"divergence": "reverse"}, {"divergence": "jsd"}, {"kl_tail": "renormalize"}],
    "dckd": [{"formula": "published"}],
    "abd": [{"clip": "none", "on": "all"}, {"divergence": "jsd", "clip": "none"}, {"advantage": "constant"}],
    "hybrid": [{"boost": 1.0, "boost_clip": "none", "clip": "none", "divergence": "reverse"}],
    "exopd": [{"divergence": "forward"}, {"divergence": "jsd"}, {"advantage_power": 5.0}],
    "aligndistil": [{"divergence": "forward"}, {"position_weight": "even"}],
    "w2s": [{"divergence": "forward"}, {"advantage_power": 0.1}],
    "direct": [{"clip": "1"}, {"advantage_power": 0.1}],
}
CASES = [
    (name, settings)
    for name, spec in METHODS.items()
    for settings in [{}, *SETTINGS.get(name, [])]
    if build_method(spec, settings)[0].terms
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("width", [1, 2], ids=["one support token", "two support tokens"])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{name} {given}" for name, given in CASES])
def test_loss_and_gradients_of_a_method_are_finite_at_extremes(name, settings, width, dtype):
    method, _ = build_method(METHODS[name], settings)
    at = positions(width)
    # A uniform student; one that is certain of a support token; of one outside it; and of one, by a large margin.
    for student in (
        [0.0] * 5,
        [0.0, 100.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 100.0, 0.0],
        [0.0, 1e4, 0.0, 0.0, 0.0],
    ):
        hidden = torch.ones(len(ROWS), 1, dtype=dtype, requires_grad=True)
        weight = torch.tensor(student, dtype=dtype)[:, None].requires_grad_()

        def objective(chunk, logprobs):
            return sum(term.weight * term.values(at[chunk], logprobs) for term in method.terms)

        loss, _ = fused_objective(
            hidden, LMHead(weight=weight), at.labels, at.support_ids, at.support_mask, objective
        )
        loss.backward()
        for value in (loss, hidden.grad, weight.grad):
            assert value.isfinite().all(), (student, value)
