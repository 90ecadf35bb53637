import json
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from data.errors import ConfigurationError
from teacher_scoring.engines.contract import EngineOptions
from teacher_scoring.engines.vllm.settings import prepare_environment, vllm_arguments


@pytest.fixture
def arguments(make_checkpoint):
    return lambda model_type="llama", **options: vllm_arguments(
        EngineOptions(model=str(make_checkpoint(model_type)), **options)
    )


def test_scores_never_depend_on_what_was_asked_before_and_the_head_is_float32(arguments):
    chosen = arguments()
    assert chosen["enable_prefix_caching"] is False
    assert chosen["hf_overrides"] == {"head_dtype": "float32"}
    assert chosen["generation_config"] == "vllm"
    assert chosen["trust_remote_code"] is False


@pytest.mark.parametrize(("saved", "asked", "taken"), [
    ("float32", "auto", "float32"),
    ("bfloat16", "auto", "bfloat16"),
    ("bfloat16", "float32", "float32"),
])  # fmt: skip
def test_auto_is_the_checkpoints_own_dtype(make_checkpoint, saved, asked, taken):
    checkpoint = make_checkpoint("llama", dtype=saved)
    assert vllm_arguments(EngineOptions(model=str(checkpoint), dtype=asked))["dtype"] == taken


@pytest.mark.parametrize(("max_length", "taken"), [(None, 129), (64, 65), (500, 129)])
def test_one_more_position_is_reserved_than_the_longest_sequence_has(arguments, max_length, taken):
    assert arguments(max_length=max_length)["max_model_len"] == taken


def test_options_reach_vllm_and_engine_arguments_win(arguments):
    chosen = arguments(
        tensor_parallel_size=2,
        pipeline_parallel_size=3,
        gpu_memory_utilization=0.5,
        max_num_batched_tokens=1000,
        quantization="fp8",
        engine_args=("seed=7", "kv_cache_dtype=fp8", "gpu_memory_utilization=0.6"),
    )
    assert chosen["tensor_parallel_size"] == 2
    assert chosen["pipeline_parallel_size"] == 3
    assert chosen["max_num_batched_tokens"] == 1000
    assert chosen["quantization"] == "fp8"
    assert chosen["kv_cache_dtype"] == "fp8"
    assert (chosen["seed"], chosen["gpu_memory_utilization"]) == (7, 0.6)


def test_further_overrides_of_the_configuration_leave_the_head_in_float32(arguments):
    chosen = arguments(engine_args=('hf_overrides={"rope_theta": 1e6}',))
    assert chosen["hf_overrides"] == {"head_dtype": "float32", "rope_theta": 1e6}
    # A quantised head has no float32; vLLM says so, and this is the way around it.
    chosen = arguments(engine_args=('hf_overrides={"head_dtype": "model"}',))
    assert chosen["hf_overrides"] == {"head_dtype": "model"}


@pytest.mark.parametrize(("pair", "reason"), [
    ("enable-prefix-caching=true", "enable_prefix_caching cannot be set: with it, scores depend on what was asked"),
    ("logprobs_mode=raw_logits", "logprobs_mode cannot be set: a dataset holds log-probabilities"),
    ("tensor_parallel_size=8", "tensor_parallel_size cannot be set: there is an option for it"),
])  # fmt: skip
def test_engine_arguments_that_would_make_numbers_wrong_are_refused(arguments, pair, reason):
    with pytest.raises(ConfigurationError, match=f"^engine_arg: {reason}.*; leave it out$"):
        arguments(engine_args=(pair,))


def test_on_gpus_cuda_stays_usable_in_the_processes_that_vllm_starts(monkeypatch):
    environment: dict[str, str] = {}
    asked_with = []

    def is_available():
        asked_with.append(environment.get("PYTORCH_NVML_BASED_CUDA_CHECK"))
        return True

    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    prepare_environment()
    # PyTorch: only with it does asking for a GPU not spoil CUDA for forked processes.
    assert asked_with == ["1"]
    assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment


@pytest.fixture
def make_adapter_folder(tmp_path):
    def make(config, modules=("q_proj",)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        names = [f"base_model.model.model.layers.{i}.x.{m}.lora_A.weight" for m in modules for i in (0, 1)]
        save_file(
            {name: np.zeros(1, dtype=np.float32) for name in names}, tmp_path / "adapter_model.safetensors"
        )
        return str(tmp_path)

    return make


@pytest.mark.parametrize(("config", "rank"), [
    ({"r": 4}, 8),
    ({"r": 16}, 16),
    ({"r": 4, "rank_pattern": {"q_proj": 20}}, 32),
])  # fmt: skip
def test_an_adapters_rank_is_rounded_up_to_one_that_vllm_has(arguments, make_adapter_folder, config, rank):
    chosen = arguments(adapter=make_adapter_folder(config))
    assert (chosen["enable_lora"], chosen["max_lora_rank"]) == (True, rank)


def test_only_the_modules_that_an_adapter_changes_are_prepared_for_it(arguments, make_adapter_folder):
    chosen = arguments(adapter=make_adapter_folder({"r": 4}, ["v_proj", "q_proj"]))
    assert chosen["lora_target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(("config", "modules", "words"), [
    ({"r": 600}, ["q_proj"], "rank 600, above 512"),
    ({"r": 4, "modules_to_save": ["lm_head"]}, ["q_proj"], "replaces whole modules .lm_head., which vLLM"),
    ({"r": 4, "use_dora": True}, ["q_proj"], "DoRA"),
    ({"r": 4, "bias": "all"}, ["q_proj"], "has a bias"),
    ({"r": 4}, ["q_proj", "lm_head"], "changes the vocabulary's layers .lm_head."),
])  # fmt: skip
def test_adapters_that_vllm_would_serve_wrongly_or_not_at_all_are_refused(
    arguments, make_adapter_folder, config, modules, words
):
    with pytest.raises(ConfigurationError, match=words):
        arguments(adapter=make_adapter_folder(config, modules))
