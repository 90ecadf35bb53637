"""What trainer.py relies on in transformers.Trainer beyond its documentation; fails by name when a version differs.

Each private method that is overridden must exist, take these arguments, and be called by these methods.
"""

import inspect
import re

import pytest
from transformers import Trainer, TrainingArguments

from student_training.checkpoints.resumable import ResumableTrainer
from student_training.trainer import StudentTrainer

#: Overridden method -> its parameters, and who has to call it.
OVERRIDDEN = {
    "get_batch_samples": (["epoch_iterator", "num_batches", "device"], ["_run_epoch"]),
    "_prepare_input": (["data"], ["_prepare_inputs"]),
    "compute_loss": (["model", "inputs", "return_outputs", "num_items_in_batch"], ["training_step"]),
    "_get_grad_norm": (["model", "grad_norm"], ["_run_epoch"]),
    "_save": (["output_dir", "state_dict"], ["save_model"]),
    "_save_checkpoint": (["model", "trial"], ["_maybe_log_save_evaluate"]),
    "_load_from_checkpoint": (["resume_from_checkpoint", "model"], ["train", "_prepare_for_training"]),
    "_load_best_model": ([], ["_finalize_training"]),
    "_load_optimizer_and_scheduler": (["checkpoint"], ["_prepare_for_training"]),
    "evaluate": (["eval_dataset", "ignore_keys", "metric_key_prefix"], ["_evaluate"]),
    "log": (["logs", "start_time"], ["_maybe_log_save_evaluate"]),
    "get_train_dataloader": ([], ["_inner_training_loop"]),
}


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_method_is_still_what_transformers_calls(name):
    parameters, callers = OVERRIDDEN[name]
    inherited = getattr(Trainer, name, None)
    assert inherited is not None, f"transformers.Trainer has no {name} any more"
    found = list(inspect.signature(inherited).parameters)[1:]
    assert found == parameters, f"transformers.Trainer.{name} takes {found} now"
    assert list(inspect.signature(getattr(StudentTrainer, name)).parameters)[1:] == parameters
    for caller in callers:
        source = inspect.getsource(getattr(Trainer, caller))
        assert re.search(rf"self\.{name}\(", source), f"transformers.Trainer.{caller} no longer calls {name}"


def test_every_private_method_that_is_overridden_is_pinned_here():
    overridden = {
        name
        for owner in (ResumableTrainer, StudentTrainer)
        for name, value in vars(owner).items()
        if callable(value) and hasattr(Trainer, name) and name != "__init__"
    }
    assert overridden - {"get_eval_dataloader"} == OVERRIDDEN.keys()


def source(name):
    return inspect.getsource(getattr(Trainer, name))


def test_the_loss_is_not_divided_by_accumulation_again():
    # compute_loss divides by the step's counts; these two attributes tell training_step to leave it.
    assert "loss_is_scaled_for_ga" in inspect.getsource(Trainer)
    assert "model_accepts_loss_kwargs" in source("training_step")


def test_the_gradient_norm_is_read_before_the_optimizer_moves():
    loop = source("_run_epoch")
    assert loop.index("self._get_grad_norm(") < loop.index("self.optimizer.step()")


def test_a_step_ends_with_callbacks_and_then_lines_evaluation_and_checkpoint():
    # SaveOnRequest asks on_step_end for a checkpoint; a line that is due is written before it is saved.
    loop = source("_run_epoch")
    assert loop.index("callback_handler.on_step_end(") < loop.index("self._maybe_log_save_evaluate(")
    ending = source("_maybe_log_save_evaluate")
    places = [ending.index(f"self.{name}(") for name in ("log", "_evaluate", "_save_checkpoint")]
    assert places == sorted(places)


def test_a_run_continues_by_skipping_batches_and_then_restoring_random_numbers():
    loop = source("_run_epoch")
    assert loop.index("skip_first_batches(") < loop.index("self._load_rng_state(")
    assert "self.state.global_step % num_update_steps_per_epoch" in source("_init_training_state")


def test_the_number_of_gpus_that_a_process_takes_can_be_set(tmp_path):
    # arguments.py sets it to 1: a batch's flat positions would not survive torch's DataParallel.
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    arguments._n_gpu = 1
    assert arguments.n_gpu == 1
