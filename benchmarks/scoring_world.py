"""What the benchmarks of whole scoring runs run on: a tiny teacher, its reference, and any number of pairs."""

import json
import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from small_world.models import build_tokenizer
from small_world.world import ANSWER_WORDS

__all__ = ["save_models", "write_rows"]


def save_models(folder: Path) -> tuple[Path, Path]:
    """Save two random Llamas of 100,000 parameters, narrow enough to be quick and wide enough for vLLM on a CPU."""
    tokenizer = build_tokenizer()
    paths = folder / "teacher", folder / "reference"
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            # vLLM's attention on a CPU wants heads of at least 32.
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            # Wide enough that the models disagree.
            initializer_range=0.3,
        )
        LlamaForCausalLM(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
    return paths


def write_rows(path: Path, num_rows: int, *, answer_words: int = 12) -> Path:
    """Write different pairs of random words as JSONL."""
    draw = random.Random(0)

    def words(number: int) -> str:
        return " ".join(draw.choices(ANSWER_WORDS, k=number))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_rows):
            row = {"prompt": words(8), "chosen": words(answer_words), "rejected": words(answer_words)}
            file.write(json.dumps(row) + "\n")
    return path
