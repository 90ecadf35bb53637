"""What vLLM has to be told about a LoRA adapter, and which adapters it cannot score with."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from data.errors import ConfigurationError

__all__ = ["adapter_arguments"]

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
            "--engine transformers"
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
