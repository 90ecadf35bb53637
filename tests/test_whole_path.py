"""From JSONL through shards and batches to loss and gradient, against a dense float64 computation."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.signals.dataset import SignalDataset
from student_training.batching.collator import PairCollator, PairDataset
from student_training.methods import build_method, find_method
from student_training.options import TrainOptions
from student_training.run import train_student
from student_training.student import StudentWithObjective
from teacher_scoring.sample import SampleOptions, sample_student
from teacher_scoring.score import ScoreOptions, score_teacher

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def signals(tiny_world, tmp_path_factory):
    """Both kinds of rows, scored with k = V: then the support loses nothing and the dense value is exact."""
    folder = tmp_path_factory.mktemp("whole-path")
    common = {"data": str(tiny_world.pairs), "engine": "transformers"}
    rollouts = folder / "rollouts"
    sample_student(
        SampleOptions(
            student=str(tiny_world.student), max_new_tokens=8, num_samples=2, out=str(rollouts), **common
        )
    )
    options = ScoreOptions(
        teacher=str(tiny_world.teacher),
        reference=str(tiny_world.reference),
        rollouts=str(rollouts),
        top_k=tiny_world.vocab_size,
        precision="exact",
        pass_cache=str(folder / "passes"),
        out=str(folder / "signals"),
        **common,
    )
    return score_teacher(options).open()


def dense_loss(method, tiny_world, signals, student):
    """The method's loss from full distributions in float64, by its formula; responses only, one by one."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_world.teacher)
    teacher, reference = (
        AutoModelForCausalLM.from_pretrained(path).double()
        for path in (tiny_world.teacher, tiny_world.reference)
    )
    responses = {"chosen": [], "rejected": [], "student": []}
    for line in tiny_world.pairs.read_text().splitlines():
        row = json.loads(line)
        for role in ("chosen", "rejected"):
            # The template's own rendering of the conversation, independent of how data/ finds the response.
            text = tokenizer.apply_chat_template(row[role], tokenize=False)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            start = max(place for place, token in enumerate(ids) if token == 5) + 1
            responses[role].append((ids, start))
    for row in signals.iterate():
        if row.role == "student":
            responses["student"].append(
                ([*row.prompt_ids.tolist(), *row.response_ids.tolist()], len(row.prompt_ids))
            )

    def logprobs(model, ids, start):
        return model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)

    sums = {"nll": 0.0, "kl_chosen": 0.0, "kl_rejected": 0.0, "advantage": 0.0}
    counts = {role: sum(len(ids) - start for ids, start in rows) for role, rows in responses.items()}
    for role, rows in responses.items():
        for ids, start in rows:
            p = logprobs(student, ids, start)
            with torch.no_grad():
                pi, r = logprobs(teacher, ids, start), logprobs(reference, ids, start)
            if role == "chosen":
                sums["nll"] -= p.gather(1, torch.tensor(ids[start:])[:, None]).sum()
            if role == "student":
                sums["advantage"] += (p.exp() * (pi - r).clamp(0, 1)).sum()
            else:
                target = pi if method == "dckd" else (pi + (pi - r).clamp(-1, 1)).log_softmax(-1)
                sums[f"kl_{role}"] += (target.exp() * (target - p)).sum()
    mean = {
        "nll": sums["nll"] / counts["chosen"],
        "kl": sums["kl_chosen"] / counts["chosen"] + sums["kl_rejected"] / counts["rejected"],
        "advantage": sums["advantage"] / counts["student"],
    }
    return {
        "dckd": mean["nll"] + 5 * mean["kl"],
        "abd": mean["nll"] + mean["kl"],
        "adpa": mean["nll"] - mean["advantage"],
    }[method]


def prepared(method_name, tiny_world, **settings):
    method, _ = build_method(find_method(method_name), settings)
    torch.manual_seed(0)
    student = AutoModelForCausalLM.from_pretrained(tiny_world.student).double()
    collator = PairCollator(method.needs, vocab_size=tiny_world.vocab_size, pad_token_id=0)
    return StudentWithObjective(student, method, head_chunk=16), collator, method


def gradients(module):
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("method_name", ["dckd", "abd", "adpa"])
def test_loss_and_gradient_equal_a_dense_float64_computation(method_name, tiny_world, signals):
    module, collator, method = prepared(method_name, tiny_world)
    dataset = PairDataset(signals, method.needs.roles)
    outputs = module(**collator([dataset[index] for index in range(len(dataset))]))
    outputs["loss"].backward()
    found = gradients(module.student)

    oracle, _, _ = prepared(method_name, tiny_world)
    expected = dense_loss(method_name, tiny_world, signals, oracle.student)
    expected.backward()
    # Shards hold float32 log-probabilities of models run in float32: about 1e-6 nats each.
    torch.testing.assert_close(outputs["loss"].double(), expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(oracle.student).items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("method_name", ["dckd", "abd", "adpa"])
def test_the_command_s_first_step_has_the_dense_loss_and_gradient_norm(
    method_name, tiny_world, signals, tmp_path
):
    options = TrainOptions(
        method=method_name,
        student=str(tiny_world.student),
        signals=(str(signals.path),),
        out=str(tmp_path / "run"),
        max_steps=1,
        batch_size=5,
        gradient_accumulation=2,
        dtype="float32",
    )
    train_student(options)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    oracle, _, _ = prepared(method_name, tiny_world)
    expected = dense_loss(method_name, tiny_world, signals, oracle.student)
    expected.backward()
    norm = torch.stack([gradient.norm() for gradient in gradients(oracle.student).values()]).norm()
    # The student computes in float32 here.
    assert first["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def step(module, batches):
    """Loss and gradients of one optimizer step over several micro-batches, as the trainer runs it."""
    counts = torch.stack([batch["counts"] for batch in batches]).sum(0)
    module.zero_grad()
    losses = []
    for batch in batches:
        loss = module(step_counts=counts, **batch)["loss"]
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum(), gradients(module.student)


@pytest.mark.parametrize("normalize", ["token", "sequence"])
@pytest.mark.parametrize("method_name", ["dckd", "abd", "adpa", "sft", "dpo"])
def test_permuting_padding_and_splitting_the_batch_change_nothing(
    method_name, normalize, tiny_world, signals
):
    module, collator, method = prepared(method_name, tiny_world)
    module = StudentWithObjective(module.student, method, normalize=normalize, head_chunk=16)
    dataset = PairDataset(signals, method.needs.roles)
    pairs = [dataset[index] for index in range(6)]
    loss, gradient = step(module, [collator(pairs)])
    assert loss.item() != 0
    padded = collator(pairs)
    width = padded["input_ids"].shape[1]
    rows = torch.div(padded["position_index"], width, rounding_mode="floor")
    padded["position_index"] += rows * 7
    for name in ("input_ids", "attention_mask"):
        padded[name] = torch.nn.functional.pad(padded[name], (0, 7))
    variants = {
        "permuted": [collator([pairs[index] for index in (3, 0, 5, 1, 4, 2)])],
        "split": [collator(pairs[:1]), collator(pairs[1:4]), collator(pairs[4:])],
        "padded": [padded],
    }
    for name, batches in variants.items():
        other_loss, other_gradient = step(module, batches)
        # float64 throughout; only the order of summation differs, and float32 shards are the same ones.
        torch.testing.assert_close(other_loss, loss, rtol=1e-9, atol=1e-9, msg=name)
        for parameter, value in gradient.items():
            torch.testing.assert_close(other_gradient[parameter], value, rtol=1e-6, atol=1e-9, msg=name)


def test_teacher_ids_beyond_the_students_vocabulary_fold_into_the_tail(tiny_world, signals):
    """The sparse KL with folded ids equals that of a teacher whose mass on them was never in the support."""
    method, _ = build_method(find_method("dckd"), {})
    index, rows = PairDataset(signals, method.needs.roles)[0]
    narrow = PairCollator(method.needs, vocab_size=100, pad_token_id=0)([(index, rows)])
    full = PairCollator(method.needs, vocab_size=tiny_world.vocab_size, pad_token_id=0)([(index, rows)])
    assert (narrow["support_ids"] < 100).all()
    lost = full["support_mask"] & (full["support_ids"] >= 100)
    mass = full["teacher_logprobs"].exp().masked_fill(~lost, 0).sum(1)
    # The dataset's own tail is empty (k = V), so the student's tail is what was folded.
    torch.testing.assert_close(narrow["teacher_tail"].exp(), mass, rtol=1e-5, atol=1e-7)


def test_signals_can_be_opened_by_anyone_who_has_the_folder_alone(signals, tmp_path):
    copied = SignalDataset.open(signals.path, check_shards=True)
    assert dataclasses.asdict(copied.manifest) == dataclasses.asdict(signals.manifest)
    assert copied.roles == ("chosen", "rejected", "student")
