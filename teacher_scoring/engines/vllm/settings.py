"""How vLLM is started: environment, constructor arguments, LoRA adapters.

Process-wide effects: `prepare_environment` sets environment variables and, without a GPU, turns torch's compiler off,
both for the life of the process. vLLM reads them when it is imported and in the processes that it starts, so they
cannot be set for a block of code; a command gives each model a separate process, so that they do not reach
the command's process.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open

from data.errors import ConfigurationError, ScoringError
from teacher_scoring.engines.checkpoint import LOAD_FAILURES, one_line
from teacher_scoring.engines.contract import EngineOptions, parse_engine_args

_CPU_BATCHED_TOKENS = 4096

_CPU_MIN_CACHE_BYTES = 1 << 26

_CPU_MAX_CACHE_BYTES = 4 << 30

# Engine arguments that are refused, and why: with them numbers would be wrong, or Ray would reserve something else.
_REFUSED = {
    "enable_prefix_caching": "with it, scores depend on what was asked before",
    "kv_sharing_fast_prefill": "with it, vLLM does not score prompts",
    "logprobs_mode": "a dataset holds log-probabilities at temperature 1, normalised over the whole vocabulary",
    **dict.fromkeys(
        (
            "data_parallel_size",
            "dtype",
            "model",
            "pipeline_parallel_size",
            "quantization",
            "revision",
            "tensor_parallel_size",
            "trust_remote_code",
        ),
        "there is an option for it",
    ),
}


def prepare_environment() -> None:
    """Set, for this whole process, what vLLM reads when it is imported; values that the user has set stay."""
    # Before torch is asked for a GPU for the first time: without it, that alone makes CUDA unusable in whatever this
    # process forks, and vLLM forks. It sets this itself when it is imported, which is too late here.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    settings = {
        "VLLM_NO_USAGE_STATS": "1",
        # One token is drawn after the last scored one; it must not need a further position.
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    }
    if torch.cuda.is_available():
        settings |= {
            "VLLM_LOGGING_LEVEL": "ERROR",
            # Its processes must not inherit this one's threads, nor what torch has begun here.
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        }
    else:
        settings |= {
            # Here errors arrive as exceptions; logging them would dump every request of the batch as well.
            "VLLM_LOGGING_LEVEL": "CRITICAL",
            # The engine in this process: starts in 2-5 s instead of 30-75 s.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # The default binds threads to cores that it chooses itself, 20 times slower where cores are shared.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        # Otherwise the first requests compile C++ for 4-10 s. (TORCH_COMPILE_DISABLE, read when torch is
        # imported, would come too late.)
        torch._dynamo.config.disable = True
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def vllm_arguments(options: EngineOptions) -> dict[str, Any]:
    """The constructor's keyword arguments, `engine_args` last.

    Raises:
        ConfigurationError: an adapter that vLLM cannot serve, or an engine argument that may not be set.
        ScoringError: a model whose configuration does not load.
    """
    own = _own_arguments(options)
    config = _text_config(options)
    max_length = min(
        (
            limit
            for limit in (options.max_length, getattr(config, "max_position_embeddings", None))
            if limit is not None
        ),
        default=None,
    )
    arguments: dict[str, Any] = {
        "model": options.model,
        "trust_remote_code": options.trust_remote_code,
        "dtype": _dtype(options, config),
        "quantization": options.quantization,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "max_model_len": None if max_length is None else max_length + 1,
        # Input and output are token ids.
        "skip_tokenizer_init": True,
        # The checkpoint's sampling defaults are not used.
        "generation_config": "vllm",
        # With it, scores depend on the order of requests, and prompts found in it get none.
        "enable_prefix_caching": False,
        # A bfloat16 head rounds logits to 3 digits: up to 0.24 nat.
        "hf_overrides": {"head_dtype": "float32"},
        # Above any vocabulary: top-k and given ids may cover all of it, and one column more.
        "max_logprobs": 1 << 24,
        "worker_extension_cls": "teacher_scoring.engines.vllm.worker_extension.GatheringExtension",
        "use_tqdm_on_load": False,
    }
    if not torch.cuda.is_available():
        tokens = options.max_num_batched_tokens or _CPU_BATCHED_TOKENS
        arguments |= {
            "enforce_eager": True,
            # Seeded requests whose prompts come in chunks fail there: "CPU Generator does not use offset".
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(tokens, 1 + (max_length or 0)),
            # vLLM would take a share of all memory, 85% unless told otherwise.
            "kv_cache_memory_bytes": _cpu_cache_bytes(config, (max_length or tokens) + 8 * tokens),
        }
    if options.adapter is not None:
        arguments |= adapter_arguments(options.adapter)
    if isinstance(overrides := own.get("hf_overrides"), dict):
        # Merged, not replaced: a user who changes another entry has not asked for a rounded head.
        own["hf_overrides"] = arguments["hf_overrides"] | overrides
    return arguments | own


def _own_arguments(options: EngineOptions) -> dict[str, Any]:
    """What the user wants of the constructor beyond the options."""
    own = parse_engine_args(options.engine_args)
    for name, reason in _REFUSED.items():
        if name in own:
            raise ConfigurationError(f"engine_arg: {name} cannot be set: {reason}; leave it out")
    return own


def _text_config(options: EngineOptions) -> Any:
    """The configuration of the language model itself, for multimodal checkpoints too."""
    try:
        config = transformers.AutoConfig.from_pretrained(
            options.model, trust_remote_code=options.trust_remote_code
        )
    except LOAD_FAILURES as error:
        raise ScoringError(f"{options.model}: its configuration does not load: {one_line(error)}") from error
    return config.get_text_config()


def _dtype(options: EngineOptions, config: Any) -> str:
    """`auto` as the checkpoint's own; vLLM's own `auto` turns float32 into half precision."""
    if options.dtype != "auto" or config.dtype is None:
        return options.dtype
    return str(config.dtype).removeprefix("torch.")


def _cpu_cache_bytes(config: Any, num_tokens: int) -> int:
    """Room for the keys and values of some tokens, float32 at most."""
    num_heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    num_cached = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or num_heads)
    return min(max(4 * num_cached * head_dim * num_tokens, _CPU_MIN_CACHE_BYTES), _CPU_MAX_CACHE_BYTES)


# Ranks that vLLM has kernels for.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

_VOCABULARY_MODULES = {"lm_head", "embed_tokens", "embed_out", "embed_in", "wte"}


def adapter_arguments(adapter: str) -> dict[str, Any]:
    """The constructor's keyword arguments for one adapter.

    Raises:
        ConfigurationError: an adapter that vLLM does not serve, or would serve wrongly when it scores prompts.
    """
    config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    modules = _modules(Path(adapter))
    rank = max([config.get("r", 0), *(config.get("rank_pattern") or {}).values()])
    obstacle = None
    if config.get("modules_to_save"):
        obstacle = f"replaces whole modules ({', '.join(config['modules_to_save'])})"
    elif config.get("use_dora"):
        obstacle = "is a DoRA adapter"
    elif config.get("bias", "none") != "none" or config.get("lora_bias"):
        obstacle = "has a bias"
    elif changed := modules & _VOCABULARY_MODULES:
        # vLLM applies an adapted head at sampled positions only, not where prompts are scored.
        obstacle = f"changes the vocabulary's layers ({', '.join(sorted(changed))})"
    elif rank > _RANKS[-1]:
        obstacle = f"has rank {rank}, above {_RANKS[-1]}"
    if obstacle is not None:
        raise ConfigurationError(
            f"{adapter}: the adapter {obstacle}, which vLLM does not serve; merge it into the model, or use "
            "the engine transformers"
        )
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(allowed for allowed in _RANKS if allowed >= rank),
        # Without this list vLLM prepares the LM head for adapters as well, and scoring prompts fails.
        "lora_target_modules": sorted(modules),
    }


def _modules(adapter: Path) -> set[str]:
    """Names of the modules that an adapter changes; its configuration may give a pattern instead."""
    path = adapter / "adapter_model.safetensors"
    try:
        with safe_open(path, framework="np") as weights:
            names = list(weights.keys())
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            f"{path}: not readable ({error}); save the adapter as safetensors"
        ) from error
    # base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight, or lora_embedding_A without .weight
    return {name.split(".lora_")[0].split(".")[-1] for name in names if ".lora_" in name}
