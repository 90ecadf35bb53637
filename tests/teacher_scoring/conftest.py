"""Small random checkpoints of the architectures people use, and sequences to score."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from teacher_scoring.engines.contract import TokenSequence

# vLLM's kernels want head sizes of 32 or more; everything else is as small as it goes.
_SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 128,
}


def save_checkpoint(
    folder: Path, model_type: str, *, dtype: str = "float32", seed: int = 0, **overrides: Any
) -> Path:
    """A model with random weights, large enough that its distributions are far from uniform."""
    config = AutoConfig.for_model(model_type, **{**_SHAPE, **overrides})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                # The head alone sets the logits' spread: about 2 nats.
                scale = 2.0 if "embed" in name or "lm_head" in name or "wte" in name else 1.0
                torch.nn.init.normal_(weight, std=scale / weight.shape[-1] ** 0.5)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _nothing_of_vllm_is_left() -> Iterator[None]:
    """In this very process it changes the environment, torch's threads and its compiler for all that comes after."""
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    yield
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads = set_num_threads
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].config.disable = False


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a checkpoint of an architecture; the same arguments give the same folder."""
    made: dict[str, Path] = {}

    def make(model_type: str = "llama", **overrides: Any) -> Path:
        key = repr((model_type, sorted(overrides.items())))
        if key not in made:
            made[key] = save_checkpoint(tmp_path_factory.mktemp(model_type), model_type, **overrides)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[Path, Path]]:
    """Puts a random LoRA adapter on a checkpoint: its folder, and that of the model with the adapter merged."""

    def make(base: Path) -> tuple[Path, Path]:
        from peft import LoraConfig, get_peft_model

        folder = tmp_path_factory.mktemp("adapter")
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_pretrained(base)
        targets = ["q_proj", "v_proj", "down_proj"]
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
        adapted: Any = get_peft_model(model, lora)
        adapted.save_pretrained(folder / "adapter")
        adapted.merge_and_unload().save_pretrained(folder / "merged")
        return folder / "adapter", folder / "merged"

    return make


@pytest.fixture(scope="session")
def make_sequences() -> Callable[..., list[TokenSequence]]:
    """Random prompts and responses of mixed lengths."""

    def make(num: int = 8, vocab_size: int = 97, longest: int = 24, seed: int = 0) -> list[TokenSequence]:
        rng = np.random.default_rng(seed)

        def ids() -> np.ndarray:
            return rng.integers(0, vocab_size, rng.integers(1, longest)).astype(np.int32)

        return [TokenSequence(ids(), ids()) for _ in range(num)]

    return make


@pytest.fixture(scope="session")
def dense_logprobs() -> Callable[[Path, TokenSequence], np.ndarray]:
    """Float64 log-softmax of a plain float32 model at the response positions, shape (T, V): the oracle."""
    models: dict[Path, Any] = {}

    def dense(folder: Path, sequence: TokenSequence) -> np.ndarray:
        if folder not in models:
            models[folder] = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.response_ids])).long()
        with torch.inference_mode():
            logits = models[folder](input_ids=ids.unsqueeze(0)).logits[0].double()
        return torch.log_softmax(logits, dim=-1).numpy()[len(sequence.prompt_ids) - 1 : -1]

    return dense


def _is_running(pid: int | str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    # A process whose parent was killed may stay in the table for good, where nobody looks after orphans.
    return state not in ("Z", "X")


@pytest.fixture(scope="session")
def still_running() -> Callable[[Iterable[int | str]], list[int | str]]:
    """Those processes that have not ended after a long time; a killed one takes a while on a busy machine."""

    def left(pids: Iterable[int | str]) -> list[int | str]:
        deadline = time.monotonic() + 120
        while (found := [pid for pid in pids if _is_running(pid)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    return left
