"""Every method end to end, its loss against the written-down formula, its settings, and one added by a user."""

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.errors import ConfigurationError, DataError
from data.signals.dataset import SignalDataset
from data.signals.rollouts import RolloutDataset
from student_training.batching.collator import PairCollator, PairDataset
from student_training.batching.reward_means import reward_means
from student_training.inputs.initial_supports import InitialSupports
from student_training.inputs.inputs import open_inputs
from student_training.methods import METHODS, build_method, find_method
from student_training.methods.settings import parse_clip, preset_settings
from student_training.run import resolve_method
from student_training.student import StudentWithObjective
from teacher_scoring.sample import SampleOptions, sample_student

ROOT = Path(__file__).parents[3]


def first_line(out: Path) -> dict[str, float]:
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[0])


def first_loss(scored, method_name, initial=None, **changes) -> float:
    """The loss of one batch of everything, through the options, the reader, the collator and the student."""
    options = scored.options(method_name, Path("unused"), **changes)
    method, settings = resolve_method(options)
    inputs = open_inputs(options, method.needs, AutoTokenizer.from_pretrained(scored.student))
    behavior = inputs.behavior() if method.needs.behavior else None
    means = reward_means(inputs.signals) if method.needs.reward_means else None
    known = {"behavior": behavior, "initial": initial, "means": means}
    collator = PairCollator(method.needs, vocab_size=128, pad_token_id=0, **known)
    dataset = PairDataset(inputs.source, method.needs.roles)
    student = AutoModelForCausalLM.from_pretrained(scored.student).double()
    model = StudentWithObjective(student, method, normalize=settings["normalize"], head_chunk=16)
    with torch.no_grad():
        return model(**collator([dataset[index] for index in range(len(dataset))]))["loss"].item()


class Rows:
    """All rows of the dataset with the student's own full log-probabilities, float64: the formulas' inputs."""

    def __init__(self, scored) -> None:
        model = AutoModelForCausalLM.from_pretrained(scored.student).double()
        sampled = {(r.pair_id, r.sample_index): r for r in RolloutDataset.open(scored.rollouts).iterate()}
        self.by_role = {"chosen": [], "rejected": [], "student": []}
        for row in SignalDataset.open(scored.full).iterate():
            ids = [*row.prompt_ids.tolist(), *row.response_ids.tolist()]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, len(row.prompt_ids) - 1 : -1]
            p = logits.log_softmax(-1)
            labels = torch.tensor(row.response_ids).long()
            ids = torch.tensor(row.topk_ids).long().reshape(len(labels), -1)
            shape = ids.shape
            support = p.gather(1, ids)
            rollout = sampled.get((row.pair_id, row.sample_index)) if row.role == "student" else None
            self.by_role[row.role].append(
                {
                    "token": p.gather(1, labels[:, None])[:, 0],
                    "support": support,
                    "tail": torch.log1p(-support.exp().sum(1)),
                    "teacher": torch.tensor(row.teacher_logprobs).double().reshape(shape),
                    "teacher_tail": torch.tensor(row.teacher_tail_logprobs).double(),
                    "reference_tail": torch.tensor(row.reference_tail_logprobs).double(),
                    "advantages": torch.tensor(row.advantages).double().reshape(shape),
                    "teacher_token": torch.tensor(row.teacher_token_logprobs).double(),
                    "reference_token": torch.tensor(row.reference_token_logprobs).double(),
                    "behavior": None if rollout is None else torch.tensor(rollout.token_logprobs).double(),
                    "ended": int(labels[-1]) == 2,
                }
            )

    def mean(self, role, values, normalize="token"):
        """Average over all positions of a role, or of sums per response."""
        per_row = [values(row) for row in self.by_role[role]]
        if normalize == "sequence":
            return sum(v.sum() for v in per_row) / len(per_row)
        return torch.cat(per_row).mean()

    def pairs(self):
        return zip(self.by_role["chosen"], self.by_role["rejected"], strict=True)


@pytest.fixture(scope="module")
def rows(scored):
    return Rows(scored)


def nll(row):
    return -row["token"]


def kl(row):
    support = (row["teacher"].exp() * (row["teacher"] - row["support"])).sum(1)
    return support + row["teacher_tail"].exp() * (row["teacher_tail"] - row["tail"])


def advantage(clip):
    return lambda row: (row["support"].exp() * row["advantages"].clamp(*clip)).sum(1)


def renormalized_kl(row):
    """The teacher scaled to one over the support; the student as it is."""
    teacher = row["teacher"].log_softmax(1)
    return (teacher.exp() * (teacher - row["support"])).sum(1)


def scaled_advantage_with_tail(row):
    support = (row["support"].exp() * (0.5 * row["advantages"]).clamp(-0.25, 0.25)).sum(1)
    return support + row["tail"].exp() * 0.5 * (row["teacher_tail"] - row["reference_tail"])


def boosted(boost, clip):
    """Teacher and tail, each moved along its own clipped advantage, and normalised."""

    def target(row):
        advantages = torch.cat([row["advantages"], (row["teacher_tail"] - row["reference_tail"])[:, None]], 1)
        teacher = torch.cat([row["teacher"], row["teacher_tail"][:, None]], 1)
        return (teacher + boost * advantages.clamp(-clip, clip)).log_softmax(1)

    return target


def student_with_tail(row):
    return torch.cat([row["support"], row["tail"][:, None]], 1)


def boosted_kl(boost, clip):
    def values(row):
        target = boosted(boost, clip)(row)
        return (target.exp() * (target - student_with_tail(row))).sum(1)

    return values


def boosted_reverse_kl(boost, clip):
    def values(row):
        student = student_with_tail(row)
        return (student.exp() * (student - boosted(boost, clip)(row))).sum(1)

    return values


def reverse_kl_to_the_stored_teacher(row):
    """Not normalised: stored probabilities are rounded."""
    student = student_with_tail(row)
    return (student.exp() * (student - torch.cat([row["teacher"], row["teacher_tail"][:, None]], 1))).sum(1)


def mixed(weight, first, second):
    """Generalised Jensen-Shannon divergence, by its definition."""

    def values(row):
        p, q = second(row).exp(), first(row).exp()
        m = weight * q + (1 - weight) * p
        return weight * (q * (q / m).log()).sum(1) + (1 - weight) * (p * (p / m).log()).sum(1)

    return values


def reference_with_tail(row):
    return torch.cat([row["teacher"] - row["advantages"], row["reference_tail"][:, None]], 1)


def aligned(row):
    """AlignDistil: λ = 15 Σ|π − r| + 0.001, and the KL to π·(π/r)^λ over λ."""
    teacher, reference = boosted(0.0, 1)(row), reference_with_tail(row)
    boost = 15 * (teacher.exp() - reference.exp()).abs().sum(1, keepdim=True) + 1e-3
    target = (teacher + boost * (teacher - reference)).log_softmax(1)
    student = student_with_tail(row)
    return (student.exp() * (student - target)).sum(1) / boost[:, 0]


def mass_of_unlikely(row):
    """Of the student's tokens, from the least probable up, those outside the fewest that hold 80%; and the tail."""
    masses = []
    for position, tail in zip(row["support"].exp(), row["tail"].exp(), strict=True):
        ordered = position.sort(descending=True)[0].tolist()
        held = 0.0
        while ordered and held < 0.8:
            held += ordered.pop(0)
        masses.append(sum(ordered) + tail.item())
    return torch.tensor(masses, dtype=torch.float64)


def surrogate(reward):
    def values(row):
        ratio = (row["token"] - row["behavior"]).exp()
        gain = reward(row)
        return -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)

    return values


def token_reward(row):
    return row["teacher_token"] - row["reference_token"]


def sequence_reward(row):
    return token_reward(row).sum().expand(len(row["token"]))


def from_the_mean(rows, reward, *, clip, scale=1.0):
    mean = rows.mean("student", reward)
    return lambda row: (scale * (reward(row) - mean)).clamp(*clip)


def pair_loss(margin):
    return lambda rows: torch.stack(
        [-torch.nn.functional.logsigmoid(margin(*p)) for p in rows.pairs()]
    ).mean()


def simpo_margin(chosen, rejected):
    return 2.0 * (chosen["token"].mean() - rejected["token"].mean()) - 1.0


def dpkd_margin(chosen, rejected):
    ratios = [(row["token"] - row["teacher_token"]).sum() for row in (chosen, rejected)]
    return 0.1 * (ratios[0] - ratios[1])


def dpkd_mean_margin(chosen, rejected):
    ratios = [(row["token"] - row["teacher_token"]).mean() for row in (chosen, rejected)]
    return 0.1 * (ratios[0] - ratios[1])


FORMULAS = {
    "sft": ({}, lambda r: r.mean("chosen", nll)),
    "vanilla-kd": ({}, lambda r: r.mean("chosen", nll) + 5 * r.mean("chosen", kl)),
    "dckd": (
        {},
        lambda r: r.mean("chosen", nll) + 5 * (r.mean("chosen", kl) + r.mean("rejected", kl)),
    ),
    "adpa": ({}, lambda r: r.mean("chosen", nll) - r.mean("student", advantage((0, 1)))),
    "dckd renormalized": (
        {"kl_tail": "renormalize", "alpha": 2.0, "nll_weight": 0.0},
        lambda r: 2 * (r.mean("chosen", renormalized_kl) + r.mean("rejected", renormalized_kl)),
    ),
    "adpa scaled, clipped, with a tail": (
        {"advantage_scale": 0.5, "clip": "0.25", "advantage_tail": "bucket", "gamma": 2.0},
        lambda r: r.mean("chosen", nll) - 2 * r.mean("student", scaled_advantage_with_tail),
    ),
    "abd": (
        {},
        lambda r: (
            r.mean("chosen", nll) + r.mean("chosen", boosted_kl(1, 1)) + r.mean("rejected", boosted_kl(1, 1))
        ),
    ),
    "abd without NLL": (
        {"nll_weight": 0.0},
        lambda r: r.mean("chosen", boosted_kl(1, 1)) + r.mean("rejected", boosted_kl(1, 1)),
    ),
    "abd on chosen answers alone": (
        {"on": "chosen", "boost": 0.5, "alpha": 0.3},
        lambda r: r.mean("chosen", nll) + 0.3 * r.mean("chosen", boosted_kl(0.5, 1)),
    ),
    "abd on the student's own": (
        {"on": "student", "boost": 0.5, "clip": "0.25", "alpha": 2.0, "nll_weight": 0.1},
        lambda r: 0.1 * r.mean("chosen", nll) + 2 * r.mean("student", boosted_reverse_kl(0.5, 0.25)),
    ),
    "abd everywhere, forward": (
        {"on": "all", "divergence": "forward", "nll_weight": 0.0},
        lambda r: sum(r.mean(role, boosted_kl(1, 1)) for role in ("chosen", "rejected", "student")),
    ),
    "abd with jsd": (
        {"divergence": "jsd", "jsd_weight": 0.3, "boost": 0.5, "nll_weight": 0.0},
        lambda r: sum(
            r.mean(role, mixed(0.3, boosted(0.5, 1), student_with_tail)) for role in ("chosen", "rejected")
        ),
    ),
    "dckd with reverse": (
        {"divergence": "reverse", "nll_weight": 0.0, "alpha": 1.0},
        lambda r: sum(r.mean(role, reverse_kl_to_the_stored_teacher) for role in ("chosen", "rejected")),
    ),
    "opd": ({}, lambda r: r.mean("student", boosted_reverse_kl(0, 1))),
    "exopd": ({}, lambda r: r.mean("student", boosted_reverse_kl(0.25, math.inf))),
    "aligndistil": ({}, lambda r: 0.1 * r.mean("student", aligned)),
    "adpa with a constant": (
        {"advantage": "constant", "constant_advantage": 0.5},
        lambda r: r.mean("chosen", nll) + 0.5 * r.mean("student", mass_of_unlikely),
    ),
    "hybrid": (
        {"alpha": 0.7, "gamma": 2.0, "nll_weight": 0.3, "boost": 0.5},
        lambda r: (
            0.3 * r.mean("chosen", nll)
            + 0.7 * sum(r.mean(role, boosted_kl(0.5, 1)) for role in ("chosen", "rejected"))
            - 2 * r.mean("student", advantage((0, 1)))
        ),
    ),
    "simpo": ({}, pair_loss(simpo_margin)),
    "dpkd": ({}, pair_loss(dpkd_margin)),
    "dpkd length": ({"length_normalize": True}, pair_loss(dpkd_mean_margin)),
    "dppo-token": ({}, lambda r: r.mean("student", surrogate(token_reward))),
    "dppo-sequence": ({}, lambda r: r.mean("student", surrogate(sequence_reward))),
    "dppo-token scaled and clipped": (
        {"advantage_scale": 0.5, "clip": "0.25"},
        lambda r: r.mean("student", surrogate(lambda row: (0.5 * token_reward(row)).clamp(-0.25, 0.25))),
    ),
    "dppo-token from the mean": (
        {"reward_baseline": "mean", "advantage_scale": 0.5, "clip": "-0.25:0.1"},
        lambda r: r.mean("student", surrogate(from_the_mean(r, token_reward, scale=0.5, clip=(-0.25, 0.1)))),
    ),
    # Clipped on one side, or everything that is measured from its mean adds up to 0.
    "dppo-sequence from the mean": (
        {"reward_baseline": "mean", "clip": "0:1"},
        lambda r: r.mean("student", surrogate(from_the_mean(r, sequence_reward, clip=(0, 1)))),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_loss_is_the_written_down_formula(name, scored, rows):
    settings, formula = FORMULAS[name]
    # float64 throughout, but for what the shards and the rollouts hold in float32.
    assert first_loss(scored, name.split()[0], **settings) == pytest.approx(float(formula(rows)), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dpo_starts_at_log_2_and_its_reference_is_the_student_itself(dtype, scored, tmp_path):
    scored.train("dpo", tmp_path / "run", max_steps=1, batch_size=10, dtype=dtype)
    # The pre-pass and the training pass batch and round alike, so only sums in another order separate student from
    # reference. A pre-pass in float32 would be off by 1e-3 in bfloat16.
    assert first_line(tmp_path / "run")["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert (tmp_path / "run" / "initial-student.parquet").exists()


def test_the_penalty_for_leaving_the_initial_student_is_its_written_down_formula(scored, rows):
    # The rows' own order: all pairs of the dataset, and of each its samples.
    dataset = SignalDataset.open(scored.full)
    keys = [
        (index, row.role, row.sample_index)
        for index in range(dataset.num_pairs)
        for row in dataset.pair(index)
        if row.role == "student"
    ]
    initial = {
        key: (row["token"] - 0.3).float().numpy()
        for key, row in zip(keys, rows.by_role["student"], strict=True)
    }
    without = first_loss(scored, "adpa")
    # ρ = p / p_initial = exp(0.3) everywhere: ρ − 1 − log ρ.
    penalty = 0.5 * (math.exp(0.3) - 1 - 0.3)
    found = first_loss(scored, "adpa", initial=initial, initial_kl=0.5)
    # The initial student's log-probabilities are float32.
    assert found - without == pytest.approx(penalty, rel=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_the_initial_pass_keeps_the_students_own_supports(packing, scored, rows, tmp_path):
    """By the options, the reader and the file: w2s with boost 0 is the divergence from the student itself."""
    scored.train("w2s", tmp_path / "run", max_steps=1, batch_size=10, boost=0.0, packing=packing)
    # The square of a float32 rounding error.
    assert first_line(tmp_path / "run")["loss"] == pytest.approx(0, abs=1e-8)
    stored = InitialSupports(tmp_path / "run" / "initial-student.arrow")
    stored = pickle.loads(pickle.dumps(stored))  # as a loader process gets it
    dataset = SignalDataset.open(scored.full)
    keys = [
        (index, row.role, row.sample_index)
        for index in range(dataset.num_pairs)
        for row in dataset.pair(index)
        if row.role == "student"
    ]
    for key, row in zip(keys, rows.by_role["student"], strict=True):
        support, tail = stored.row(*key)
        # float32 against float64.
        torch.testing.assert_close(
            torch.tensor(support).double(), row["support"].flatten(), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(torch.tensor(tail).double(), row["tail"], atol=1e-5, rtol=0)


def test_direct_pays_nothing_for_the_initial_student_at_first_and_something_later(scored, tmp_path):
    scored.train("direct", tmp_path / "run", max_steps=3, batch_size=10, learning_rate=1e-2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # The square of a float32 rounding error of the log-probability.
    assert lines[0]["loss/reverse_kl_initial"] == pytest.approx(0, abs=1e-8)
    assert lines[-1]["loss/reverse_kl_initial"] > 1e-4
    assert lines[-1]["expected_advantage"] > lines[0]["expected_advantage"]


def test_a_resumed_run_keeps_the_student_that_it_began_with(scored, tmp_path):
    whole = {"max_steps": 4, "batch_size": 10, "learning_rate": 1e-2}
    scored.train("w2s", tmp_path / "whole", **whole)
    scored.train("w2s", tmp_path / "parts", **(whole | {"max_steps": 2}), lr_scheduler="constant")
    scored.train("w2s", tmp_path / "parts", **whole, lr_scheduler="constant")
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    # Were the continued student its own anchor, the third step would begin at the target's distance again.
    assert lines[2]["loss/reverse_kl_student"] < lines[1]["loss/reverse_kl_student"]


def test_methods_that_read_no_advantage_need_no_reference(scored):
    for name, settings in (
        ("opd", {}),
        ("hybrid", {"advantage": "constant"}),
        ("adpa", {"advantage": "constant"}),
        ("abd", {"advantage": "constant"}),
    ):
        assert math.isfinite(first_loss(scored, name, signals=(str(scored.plain),), **settings))
    with pytest.raises(DataError, match="method exopd needs advantages"):
        first_loss(scored, "exopd", signals=(str(scored.plain),))


def test_a_part_of_hybrid_without_weight_asks_for_no_rows(scored):
    for settings, roles in (
        ({"gamma": 0.0}, {"chosen", "rejected"}),
        ({"alpha": 0.0}, {"chosen", "student"}),
        ({"alpha": 0.0, "gamma": 0.0}, {"chosen"}),
        ({"alpha": 0.0, "nll_weight": 0.0}, {"student"}),
    ):
        method, _ = build_method(METHODS["hybrid"], settings)
        assert method.needs.roles == roles
    with pytest.raises(ConfigurationError, match="nothing to learn"):
        build_method(METHODS["hybrid"], {"alpha": 0.0, "gamma": 0.0, "nll_weight": 0.0})


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("abd", {"clip": "0:1"}, "abd bounds advantages alike"),
        ("exopd", {"clip": "0:1"}, "exopd bounds advantages alike"),
        ("dckd", {"divergence": "jsd", "kl_tail": "renormalize"}, "forms of the forward KL"),
        ("dckd", {"divergence": "reverse", "formula": "published"}, "forms of the forward KL"),
        ("dckd", {"divergence": "jsd", "jsd_weight": 1.0}, "--jsd-weight: with 1 the divergence is always 0"),
        ("adpa", {"advantage": "constant", "formula": "published"}, "--formula published"),
        ("opd", {"boost": 1.0}, "--boost: method opd does not read it"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(method, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        build_method(METHODS[method], settings)


def test_the_initial_kl_is_zero_at_the_start_and_positive_after_a_step(scored, tmp_path):
    scored.train("adpa", tmp_path / "run", max_steps=3, batch_size=10, learning_rate=1e-2, initial_kl=0.5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # The square of a float32 rounding error of the log-probability.
    assert lines[0]["loss/kl_initial"] == pytest.approx(0, abs=1e-9)
    assert lines[-1]["loss/kl_initial"] > 1e-4


def published_kl(row):
    """Both distributions clamped, the tail as one more outcome; nothing on the terminator."""
    teacher = torch.cat([row["teacher"], row["teacher_tail"][:, None]], 1).exp().clamp(1e-8, 1 - 1e-8)
    student = torch.cat([row["support"], row["tail"][:, None]], 1).exp().clamp(1e-7, 1 - 1e-8)
    return without_terminator(row, (teacher * (teacher / student).log()).sum(1))


def published_advantage(row):
    """Advantages clamped as if they were probabilities: negative ones vanish, those above one count as one."""
    values = (row["support"].exp().clamp(1e-8) * row["advantages"].clamp(1e-8, 1 - 1e-8)).sum(1)
    return without_terminator(row, values + row["tail"].exp() * 1e-8)


def without_terminator(row, values):
    return torch.cat([values[:-1], values[-1:] * (0.0 if row["ended"] else 1.0)])


PRESETS = {
    ("paper", "dckd"): lambda r: (
        r.mean("chosen", nll, "sequence")
        + 5 * (r.mean("chosen", kl, "sequence") + r.mean("rejected", kl, "sequence"))
    ),
    ("paper", "vanilla-kd"): lambda r: (
        r.mean("chosen", nll, "sequence") + 5 * r.mean("chosen", kl, "sequence")
    ),
    ("paper", "adpa"): lambda r: (
        r.mean("chosen", nll, "sequence") - r.mean("student", advantage((-math.inf, math.inf)), "sequence")
    ),
    ("published-code", "dckd"): lambda r: (
        r.mean("chosen", nll) + 5 * (r.mean("chosen", published_kl) + r.mean("rejected", published_kl))
    ),
    ("published-code", "vanilla-kd"): lambda r: r.mean("chosen", nll) + 5 * r.mean("chosen", published_kl),
    ("published-code", "adpa"): lambda r: r.mean("chosen", nll) - r.mean("student", published_advantage),
}


@pytest.mark.parametrize(("preset", "method"), PRESETS)
def test_a_preset_is_its_written_down_formula(preset, method, scored, rows):
    expected = float(PRESETS[preset, method](rows))
    assert first_loss(scored, method, preset=preset) == pytest.approx(expected, rel=1e-6)


def test_the_two_presets_differ_and_single_options_win_over_them(scored):
    chosen = ({"preset": "paper"}, {"preset": "published-code"}, {"preset": "paper", "normalize": "token"})
    assert len({round(first_loss(scored, "dckd", **changes), 3) for changes in chosen}) == 3


def test_a_preset_is_refused_for_a_method_that_it_says_nothing_about():
    with pytest.raises(ConfigurationError, match="says nothing about dpo"):
        preset_settings("paper", METHODS["dpo"], METHODS.values())


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "dckd" else pytest.mark.slow) for name in METHODS]
)
def test_every_method_trains_and_lowers_its_loss(method, scored, tmp_path):
    scored.train(method, tmp_path / "run", max_steps=4, batch_size=10, learning_rate=3e-3)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("changes", "message"), [({"seed": 1}, "has other tokens"), ({"num_samples": 1}, "no sample 1")]
)
def test_rollouts_that_the_signals_were_not_scored_on_are_refused(changes, message, scored, tmp_path):
    chosen = {"max_new_tokens": 8, "num_samples": 2, "engine": "transformers"} | changes
    other = tmp_path / "rollouts"
    sample_student(
        SampleOptions(student=str(scored.student), data=str(scored.pairs), out=str(other), **chosen)
    )
    with pytest.raises(DataError, match=message):
        first_loss(scored, "dppo-token", rollouts=(str(other),))


def test_clips_are_read_as_documented():
    assert parse_clip("0:1") == (0.0, 1.0)
    assert parse_clip("1.5") == (-1.5, 1.5)
    assert parse_clip("none") is None
    for text in ("1:0", "a", "-1", "0:1:2", "nan", "nan:1"):
        with pytest.raises(ConfigurationError, match="--clip"):
            parse_clip(text)


def test_a_setting_that_a_method_does_not_read_is_refused_by_name():
    with pytest.raises(
        ConfigurationError, match="--gamma: method dckd does not read it; its own settings are: --alpha"
    ):
        build_method(find_method("dckd"), {"gamma": 2.0})


OWN_METHOD = '''
"""Likelihood and unlikelihood: raise chosen tokens, lower rejected ones."""
import torch
from student_training.methods import Method, MethodSpec, Needs, Term
from student_training.methods.sft import nll_term

def unlikelihood(positions, student):
    return -torch.log1p(-student.token.exp().clamp(max=0.999))

def build(settings):
    terms = (nll_term(1.0), Term("loss/unlikelihood", "rejected", settings.alpha, unlikelihood))
    return Method("mine", Needs(roles=frozenset({"chosen", "rejected"})), terms=terms)

SPEC = MethodSpec(name="mine", summary="NLL(chosen) + α unlikelihood(rejected)", defaults={"alpha": 0.5}, build=build)
NOT_A_SPEC = 3
'''


@pytest.mark.slow
def test_a_user_adds_a_method_without_touching_the_trainer(scored, tmp_path, monkeypatch):
    (tmp_path / "my_method.py").write_text(OWN_METHOD)
    command = [sys.executable, str(ROOT / "cli.py"), "train-student", "--method", "my_method:SPEC", "--alpha", "0.25",
               "--student", str(scored.student), "--data", str(scored.pairs), "--max-steps", "1",
               "--out", "run"]  # fmt: skip
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    line = first_line(tmp_path / "run")
    assert line["loss"] == pytest.approx(line["loss/nll"] + 0.25 * line["loss/unlikelihood"], rel=1e-6)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match="is a int, not a MethodSpec"):
        find_method("my_method:NOT_A_SPEC")
    with pytest.raises(ConfigurationError, match="my_method:NOTHING cannot be imported"):
        find_method("my_method:NOTHING")
