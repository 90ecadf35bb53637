"""One process and two with the same global batch: the same loss and the same gradient."""

import json
import os
import socket
import traceback

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from data.signals import SignalDataset
from student_training.batches import PairCollator, PairDataset
from student_training.methods import build_method, find_method
from student_training.run import train_student
from student_training.student import StudentWithObjective


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def in_two_processes(function) -> None:
    """Run a function in two processes that find each other as those of torchrun do."""
    port = free_port()
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
                "MASTER_PORT": str(port),
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
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert codes == [0, 0], "their tracebacks are in the captured output"


def first_moments(out):
    """Adam's first moment after one step: a tenth of the gradient."""
    state = torch.load(out / "checkpoints" / "checkpoint-1" / "optimizer.pt", weights_only=True)["state"]
    return [state[index]["exp_avg"] for index in sorted(state)]


@pytest.mark.parametrize("method", ["dckd", "dpo"])
def test_two_data_parallel_processes_train_as_one_does(method, scored, tmp_path):
    changes = {"max_steps": 2, "save_steps": 1, "max_grad_norm": 0.0, "threads": 1}
    train_student(scored.options(method, tmp_path / "one", batch_size=4, **changes))
    options = scored.options(method, tmp_path / "two", batch_size=2, **changes)
    in_two_processes(lambda rank: train_student(options))
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 2
    for name in ("loss", "grad_norm", "entropy"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-6)
    # Later steps start from weights that Adam moved by rounding-sensitive amounts where a gradient is near 0.
    assert two[1]["loss"] == pytest.approx(one[1]["loss"], rel=1e-3)
    for single, double in zip(first_moments(tmp_path / "one"), first_moments(tmp_path / "two"), strict=True):
        assert (
            double - single
        ).abs().max() <= 1e-6 * single.abs().max() + 1e-9  # float32 sums in another order
    AutoModelForCausalLM.from_pretrained(tmp_path / "two")


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


def prepared(scored):
    method, _ = build_method(find_method("dckd"), {})
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
