"""One process and two with the same global batch: the same loss and the same gradient."""

import json
import logging
import os
import signal
import traceback
from types import SimpleNamespace

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from data.signals.dataset import SignalDataset
from student_training.batching.collator import PairCollator, PairDataset
from student_training.checkpoints.checkpoints import last_whole_checkpoint
from student_training.methods import Method, Needs, Term, build_method, find_method
from student_training.run import train_student
from student_training.student import StudentWithObjective
from student_training.trainer import StudentTrainer, set_sharding_precision

pytestmark = pytest.mark.slow


def in_two_processes(function, *, killed: bool = False) -> None:
    """Run a function in two processes that find each other as those of torchrun do.

    Args:
        function: called with the rank.
        killed: whether the second process is to be killed; the first, which waits for it, then goes too.
    """
    # Theirs is there before they are, on a port that nobody can take in between.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = []
    for rank in range(2):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            torch.set_num_threads(1)
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            # What this process inherited says that there is one.
            for state in (PartialState, AcceleratorState, GradientState):
                state._reset_state()
            function(rank)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            # Not sys.exit: the copy of pytest in this process must not run on.
            os._exit(code)
    if killed:
        assert os.waitpid(children[1], 0)[1] == signal.SIGKILL, "it was not killed"
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)
        return
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert codes == [0, 0], "their tracebacks are in the captured output"


def first_moments(out):
    """Adam's first moment after one step: a tenth of the gradient."""
    state = torch.load(out / "checkpoints" / "checkpoint-1" / "optimizer.pt", weights_only=True)["state"]
    return [state[index]["exp_avg"] for index in sorted(state)]


@pytest.mark.parametrize("method", ["dckd", "dpo"])
def test_two_data_parallel_processes_train_as_one_does(method, scored, tmp_path):
    changes = {
        "max_steps": 2,
        "save_steps": 1,
        "max_grad_norm": 0.0,
        "threads": 1,
        "keep_checkpoints": True,
    }
    train_student(scored.options(method, tmp_path / "one", batch_size=4, **changes))
    options = scored.options(method, tmp_path / "two", batch_size=2, **changes)
    in_two_processes(lambda rank: train_student(options))
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) == 2
    for name in ("loss", "grad_norm", "entropy"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-6)
    # Later steps start from weights that Adam moved by rounding-sensitive amounts where a gradient is near 0.
    assert two[1]["loss"] == pytest.approx(one[1]["loss"], rel=1e-3)
    expected, found = first_moments(tmp_path / "one"), first_moments(tmp_path / "two")
    norms = torch.stack([single.norm() for single in expected])
    errors = torch.stack([(double - single).norm() for single, double in zip(expected, found, strict=True)])
    assert errors.norm() <= 1e-6 * norms.norm()
    # Where the terms of a weight's gradient cancel, the error is that of the terms, larger than the gradient's own.
    assert (errors <= 5e-6 * norms).all()
    AutoModelForCausalLM.from_pretrained(tmp_path / "two")


def test_of_several_processes_one_warns_of_the_runs_health(scored, tmp_path):
    changes = {"rollouts": (str(scored.rollouts),), "max_steps": 6, "batch_size": 5, "learning_rate": 0.3}
    options = scored.options("opd", tmp_path / "run", threads=1, **changes)

    def train(rank):
        logging.getLogger("student_training").addHandler(logging.FileHandler(tmp_path / f"{rank}.log"))
        train_student(options)

    in_two_processes(train)
    said = ["the rollouts are stale" in (tmp_path / f"{rank}.log").read_text() for rank in (0, 1)]
    assert said == [True, False]


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_last_steps_of_an_epoch_are_those_of_one_process_too(scored, tmp_path):
    # 7 of the 10 pairs train: 4, and a last step of 3, two and one. 3 are held out: two batches, and an empty one
    # in the other process. The weights stand still, so that every step can be compared.
    changes = {"epochs": 1.0, "max_steps": None, "learning_rate": 0.0, "eval_fraction": 0.3, "threads": 1}
    train_student(scored.options("dckd", tmp_path / "one", batch_size=4, save_steps=1, **changes))
    options = scored.options("dckd", tmp_path / "two", batch_size=2, save_steps=1, **changes)
    in_two_processes(lambda rank: train_student(options))
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) == 5, "two steps, each with an evaluation, and one before them"
    for single, double in zip(one, two, strict=True):
        names = {name for name in single if "loss" in name or name.endswith(("entropy", "grad_norm"))}
        assert names == {name for name in double if name in names}
        for name in names:
            assert double[name] == pytest.approx(single[name], rel=1e-6), name


def test_a_signal_to_one_process_ends_both_at_one_checkpoint(scored, numbers, tmp_path, monkeypatch):
    changes = {"batch_size": 2, "max_steps": 5, "logging_steps": 3, "threads": 1}
    whole, options = (scored.options("dckd", tmp_path / name, **changes) for name in ("whole", "stopped"))
    in_two_processes(lambda rank: train_student(whole))

    def stopped(rank):
        step = StudentTrainer.training_step

        def training_step(self, *arguments, **named):
            if rank == 1 and self.state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, *arguments, **named)

        StudentTrainer.training_step = training_step
        with pytest.raises(SystemExit) as ended:
            train_student(options)
        assert ended.value.code == 143

    in_two_processes(stopped)
    assert last_whole_checkpoint(tmp_path / "stopped" / "checkpoints").name == "checkpoint-2"
    assert not (tmp_path / "stopped" / "config.json").exists()
    in_two_processes(lambda rank: train_student(options))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    # Sums of one process, stored over both, are added up in another order.
    for found, expected in zip(numbers(tmp_path / "stopped"), numbers(tmp_path / "whole"), strict=True):
        assert found == pytest.approx(expected, rel=1e-12)


def test_one_pair_for_two_processes_leaves_one_of_them_an_empty_batch(scored, tmp_path):
    # 9 pairs in steps of 4: the last step has one.
    changes = {"epochs": 1.0, "max_steps": None, "learning_rate": 0.0, "signal_weight": (0.9,), "threads": 1}
    train_student(scored.options("dpo", tmp_path / "one", batch_size=4, **changes))
    options = scored.options("dpo", tmp_path / "two", batch_size=2, **changes)
    in_two_processes(lambda rank: train_student(options))
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) == 3
    for name in ("loss", "grad_norm", "entropy"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-6)


def test_a_token_budget_makes_the_same_steps_for_two_processes_as_for_one(scored, tmp_path):
    changes = {"epochs": 1.0, "max_steps": None, "learning_rate": 0.0, "packing": True, "threads": 1}
    budget = {"max_tokens_per_batch": 90}
    one = scored.options("dckd", tmp_path / "one", gradient_accumulation=2, **changes, **budget)
    two = scored.options("dckd", tmp_path / "two", **changes, **budget)
    train_student(one)
    in_two_processes(lambda rank: train_student(two))
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) > 1
    for name in ("loss", "grad_norm", "entropy"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-6)


def killed_in_step(number, rank, options):
    """Train, and as the second process die in that step."""
    train_step, steps = StudentTrainer.training_step, []

    def counted(*arguments, **named):
        steps.append(1)
        if rank == 1 and len(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(*arguments, **named)

    StudentTrainer.training_step = counted
    train_student(options)


@pytest.mark.parametrize("batches", [{"batch_size": 2}, {"max_tokens_per_batch": 150, "packing": True}])
def test_two_processes_killed_mid_epoch_end_as_an_uninterrupted_run(
    batches, scored, student_with_dropout, numbers, tmp_path
):
    # Random numbers in every step, and held-out pairs that are looked at in between.
    changes = {"student": str(student_with_dropout), "save_steps": 1, "eval_fraction": 0.3, "threads": 1}
    changes |= {"max_steps": 5, **batches}
    whole = scored.options("dckd", tmp_path / "whole", **changes)
    in_two_processes(lambda rank: train_student(whole))
    options = scored.options("dckd", tmp_path / "killed", **changes)
    in_two_processes(lambda rank: killed_in_step(4, rank, options), killed=True)
    # An epoch has two steps: the next one continues in the middle of the second.
    assert last_whole_checkpoint(tmp_path / "killed" / "checkpoints").name == "checkpoint-3"
    in_two_processes(lambda rank: train_student(options))
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


def sharded_gradients(scored, path, rank):
    """Loss and gradient of half a batch under FSDP2, added up as the trainer does it; rank 0 writes them."""
    torch.distributed.init_process_group("gloo")
    module, batches = prepared(scored)
    mesh = init_device_mesh("cpu", (2,))
    for layer in module.student.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    counts = torch.stack([batch["counts"] for batch in batches]).sum(0)
    loss = module(step_counts=counts, **batches[rank])["loss"]
    (loss * 2).backward()
    total = loss.detach().clone()
    torch.distributed.all_reduce(total)
    gradients = {name: value.grad.full_tensor() for name, value in module.named_parameters()}
    if rank == 0:
        torch.save({"loss": total, "gradients": gradients}, path)
    torch.distributed.destroy_process_group()


def prepared(scored, method=None):
    method = method or build_method(find_method("dckd"), {})[0]
    student = AutoModelForCausalLM.from_pretrained(scored.student)
    dataset = PairDataset(SignalDataset.open(scored.full), method.needs.roles)
    collator = PairCollator(method.needs, vocab_size=128, pad_token_id=0)
    # Unequal halves: dividing by a process's own counts would show.
    batches = [collator([dataset[index] for index in part]) for part in (range(3), range(3, 10))]
    return StudentWithObjective(student, method, head_chunk=16), batches


def test_two_sharded_processes_have_the_gradient_of_one(scored, tmp_path):
    in_two_processes(lambda rank: sharded_gradients(scored, tmp_path / "two.pt", rank))
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    module, batches = prepared(scored)
    counts = torch.stack([batch["counts"] for batch in batches]).sum(0)
    losses = [module(step_counts=counts, **batch)["loss"] for batch in batches]
    torch.stack(losses).sum().backward()
    assert two["loss"].item() == pytest.approx(sum(loss.item() for loss in losses), rel=1e-6)
    for name, parameter in module.named_parameters():
        scale = parameter.grad.abs().max()
        assert (two["gradients"][name] - parameter.grad).abs().max() <= 1e-6 * scale + 1e-9, name


def forward_in_shards_of_bfloat16(scored, rank):
    """What accelerate's policy for bfloat16 would round, seen by a method and in the outputs."""
    torch.distributed.init_process_group("gloo")
    seen = []

    def values(positions, student):
        seen.append((positions.teacher_logprobs.clone(), student.token.dtype))
        return -student.token

    roles = frozenset({"chosen"})
    module, batches = prepared(
        scored, Method("seen", Needs(roles=roles, signals=roles), (Term("loss/nll", "chosen", 1.0, values),))
    )
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    set_sharding_precision(accelerator)
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)), mp_policy=plugin.mixed_precision_policy)
    outputs = module(**batches[rank])
    outputs["loss"].backward()
    expected = batches[rank]["teacher_logprobs"]
    assert torch.equal(torch.cat([logprobs for logprobs, _ in seen])[: len(expected)], expected)
    assert outputs["loss"].dtype is torch.float32
    assert {value.dtype for value in outputs["metrics"].values()} == {torch.float64}
    assert module.student.lm_head.weight.grad.dtype is torch.float32
    torch.distributed.destroy_process_group()


def test_sharding_in_bfloat16_rounds_weights_and_neither_signals_nor_metrics(scored):
    in_two_processes(lambda rank: forward_in_shards_of_bfloat16(scored, rank))
