"""Splitting small random models of many architectures into backbone and head."""

import pytest
import torch
from dense_head import dense_sparse_logprobs
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from data.errors import TrainingError
from student_training.head.fused import sparse_logprobs
from student_training.head.lm_head import read_head, split_model

SMALL = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": {"tie_word_embeddings": False},
    "llama tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {},
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 0.5, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {"final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8},
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.25},
    "hyperclovax": {"logits_scaling": 0.125},
    "falcon_h1": {
        "lm_head_multiplier": 0.25,
        "mamba_d_ssm": 16,
        "mamba_n_heads": 2,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_n_groups": 1,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neox": {"tie_word_embeddings": False},
    "phi": {},
    "phi3": {},
    "olmo2": {},
    "smollm3": {},
}


def small_model(name, **overrides):
    settings = SMALL | {"initializer_range": 0.5} | ARCHITECTURES[name] | overrides
    model_type = settings.pop("model_type", name)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        nn.init.normal_(bias)  # initialised to zero, where a lost bias would not show
    return model.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_head_on_hidden_states_gives_the_models_own_logits(name):
    model = small_model(name)
    backbone, head = split_model(model)
    inputs = {
        "input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    logits = model(**inputs).logits
    # The same operations in float32, whose roundings may be ordered otherwise.
    torch.testing.assert_close(head.logits(backbone(**inputs)), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere", "phi", "gpt2", "llama tied"])
def test_sparse_logprobs_and_parameter_gradients_match_the_whole_model(name):
    model = small_model(name).double()
    input_ids = torch.tensor([[3, 4, 5, 6, 7]])
    labels = torch.tensor([4, 5, 6, 7, 8])
    support_ids = torch.tensor([[1, 2, 3]]).repeat(5, 1)
    support_mask = torch.ones_like(support_ids, dtype=torch.bool)
    backbone, head = split_model(model)

    def gradients(student):
        (student.token + student.support.sum(1) + student.tail).sum().backward()
        seen = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
        model.zero_grad()
        return seen

    logits = model(input_ids=input_ids, use_cache=False).logits[0]
    expected = gradients(dense_sparse_logprobs(logits, labels, support_ids, support_mask))
    hidden = backbone(input_ids=input_ids)[0]
    seen = gradients(sparse_logprobs(hidden, head, labels, support_ids, support_mask, chunk_size=2))
    assert seen.keys() == expected.keys()
    for key, gradient in seen.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-9)  # float64 sums, other order


def test_tied_and_untied_heads_are_the_models_own_parameters():
    tied, untied = small_model("llama tied"), small_model("llama")
    assert read_head(tied).weight is tied.get_input_embeddings().weight
    assert read_head(untied).weight is untied.lm_head.weight
    assert read_head(untied).weight is not untied.get_input_embeddings().weight


def test_adapters_below_the_head_are_part_of_the_backbone():
    model = get_peft_model(small_model("llama"), LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)  # zero at first, where a lost adapter would not show
    backbone, head = split_model(model)
    input_ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(
        head.logits(backbone(input_ids=input_ids)), model(input_ids=input_ids).logits, rtol=1e-5, atol=1e-5
    )
    backbone(input_ids=input_ids).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize(
    "adapter",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["low-rank", "trained copy"],
)
def test_adapters_on_the_head_are_refused(adapter):
    model = get_peft_model(small_model("llama"), LoraConfig(r=2, **adapter))
    with pytest.raises(TrainingError, match="LlamaForCausalLM: its output head carries an adapter"):
        split_model(model)


def test_prompt_tuning_is_refused():
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    model = get_peft_model(small_model("llama"), config)
    with pytest.raises(TrainingError, match="virtual prompt tokens are not supported; use LoRA"):
        split_model(model)


class DoubledHead(nn.Linear):
    """An architecture whose logits are not what the head's weight says."""

    def forward(self, hidden):
        return 2.0 * super().forward(hidden)


def test_an_architecture_that_does_something_else_is_refused_by_name():
    model = small_model("llama")
    model.lm_head = DoubledHead(16, 61, bias=False)
    with pytest.raises(TrainingError, match=r"LlamaForCausalLM: logits rebuilt .* differ"):
        split_model(model)


def test_a_quantized_head_is_refused_by_name():
    model = small_model("llama")
    model.lm_head.weight = nn.Parameter(torch.zeros(61, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        TrainingError, match=r"LlamaForCausalLM: its output head is Linear, .* in floating point"
    ):
        split_model(model)


def test_the_check_leaves_the_mode_of_every_module_as_it_was():
    model = small_model("llama").train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    split_model(model)
    assert [module.training for module in model.modules()] == before


def test_a_model_without_weights_is_split_unchecked():
    with torch.device("meta"):
        model = small_model("llama")
    _, head = split_model(model)
    assert head.weight.shape == (61, 16)
