"""Adapters on a student: added, and merged from weights on one device or on several."""

import copy

import torch
from transformers import AutoModelForCausalLM

from student_training.model.loading import load_student
from student_training.model.lora import add_lora, merge_lora


def test_adapters_gathered_from_several_processes_merge_like_those_of_one(scored):
    student = add_lora(load_student(scored.student, trust_remote_code=False), rank=2)
    for name, value in student.named_parameters():
        if "lora_B" in name:  # starts at zero, where merging would change nothing
            torch.nn.init.normal_(value, generator=torch.Generator().manual_seed(1))
    state = {name: value.clone() for name, value in student.state_dict().items()}
    expected = merge_lora(copy.deepcopy(student), scored.student, trust_remote_code=False).state_dict()
    for value in student.parameters():  # what a process holds of a sharded student is not the whole of it
        value.data.zero_()
    merged = merge_lora(student, scored.student, trust_remote_code=False, state=state).state_dict()
    before = AutoModelForCausalLM.from_pretrained(scored.student).state_dict()
    assert merged.keys() == expected.keys() == before.keys()
    for name, value in merged.items():
        torch.testing.assert_close(value, expected[name])
    assert any(not torch.equal(merged[name], before[name]) for name in before)
