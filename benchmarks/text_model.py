"""A small language model trained on text that every installation has: real distributions to measure storage
on.

The text is the docstrings of the installed packages. The model is a feed-forward one over the last tokens
(Bengio et al. 2003) trained with sampled softmax, so that two cores train a vocabulary of 128,256 in minutes.
The reference is that model; the teacher is the same model trained on a little further, on one package's text
only, which moves its distributions the way that tuning does: a lot for some tokens, hardly for most.
"""

import argparse
import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

__all__ = ["TextModel", "load_text_model", "train_text_model"]

CONTEXT = 8
_SHORTEST_TEXT = 200
_NUM_NEGATIVES = 2048
_BATCH = 512


class FeedForwardModel(nn.Module):
    """Next-token logits from the last `CONTEXT` tokens."""

    def __init__(self, vocab_size: int, width: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width, sparse=True)
        self.hidden = nn.Sequential(
            nn.Linear(CONTEXT * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.LayerNorm(width)
        )
        self.head = nn.Embedding(vocab_size, width, sparse=True)
        self.bias = nn.Embedding(vocab_size, 1, sparse=True)
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.bias.weight)

    def features(self, contexts: Tensor) -> Tensor:
        """Hidden states, shape [N, width], of contexts [N, CONTEXT]."""
        return self.hidden(self.embedding(contexts).flatten(1))

    def logits(self, contexts: Tensor) -> Tensor:
        """Logits over the whole vocabulary, shape [N, V]."""
        return self.features(contexts) @ self.head.weight.T + self.bias.weight[:, 0]


@dataclass(frozen=True, slots=True)
class TextModel:
    """Teacher, reference and text to evaluate them on.

    Attributes:
        teacher: the model tuned on one package's text.
        reference: the model that it was tuned from.
        tokens: held-out token ids.
    """

    teacher: FeedForwardModel
    reference: FeedForwardModel
    tokens: np.ndarray


def docstrings(packages: tuple[str, ...]) -> Iterator[str]:
    """The longer docstrings of installed packages, in path order."""
    root = Path(sysconfig.get_paths()["purelib"])
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = ast.get_docstring(node) or ""
                    if len(text) >= _SHORTEST_TEXT:
                        yield text


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer; it may end up smaller than asked for."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=1, special_tokens=["<end>"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _fit(model: FeedForwardModel, tokens: Tensor, *, num_steps: int, learning_rate: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(tokens, minlength=model.head.num_embeddings).float() ** 0.75
    noise = counts / counts.sum()
    sparse = [model.embedding.weight, model.head.weight, model.bias.weight]
    optimizers = [
        torch.optim.SparseAdam(sparse, lr=learning_rate),
        torch.optim.AdamW(model.hidden.parameters(), lr=learning_rate),
    ]
    offsets = torch.arange(-CONTEXT, 0)
    for step in range(num_steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - step / num_steps)
        places = torch.randint(CONTEXT, len(tokens), (_BATCH,), generator=generator)
        targets = tokens[places]
        negatives = torch.multinomial(noise, _NUM_NEGATIVES, replacement=True, generator=generator)
        candidates = torch.cat([targets, negatives])
        hidden = model.features(tokens[places[:, None] + offsets])
        logits = hidden @ model.head(candidates).T + model.bias(candidates)[:, 0]
        # Sampled softmax: correct for how often each candidate is drawn, and hide accidental copies of the
        # target.
        logits = logits - torch.log(noise[candidates] * _NUM_NEGATIVES + 1e-9)
        copies = candidates[None, :] == targets[:, None]
        copies[torch.arange(_BATCH), torch.arange(_BATCH)] = False
        loss = nn.functional.cross_entropy(logits.masked_fill(copies, -torch.inf), torch.arange(_BATCH))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if step % 500 == 0:
            print(f"step {step}: sampled loss {loss.item():.3f}", flush=True)


def train_text_model(path: Path, *, vocab_size: int, num_steps: int) -> None:
    """Train tokenizer, reference and teacher, and save what the benchmark needs."""
    texts = list(
        docstrings(("transformers", "torch", "numpy", "sympy", "networkx", "vllm", "pandas", "datasets"))
    )
    print(f"{len(texts):,} texts, {sum(map(len, texts)):,} characters")
    tokenizer = train_tokenizer(texts, vocab_size)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(texts))
    held_out, kept = order[: len(texts) // 20], order[len(texts) // 20 :]

    def encode(indices: np.ndarray) -> Tensor:
        encoded = tokenizer.encode_batch([texts[i] + "<end>" for i in indices])
        return torch.tensor([token for encoding in encoded for token in encoding.ids])

    torch.manual_seed(0)
    reference = FeedForwardModel(vocab_size)
    tokens = encode(kept)
    print(f"vocabulary {tokenizer.get_vocab_size():,}, {len(tokens):,} tokens")
    _fit(reference, tokens, num_steps=num_steps, learning_rate=2e-3, seed=1)
    teacher = FeedForwardModel(vocab_size)
    teacher.load_state_dict(reference.state_dict())
    tuning = encode(np.array([i for i in kept if i < len(texts) // 4]))
    _fit(teacher, tuning, num_steps=num_steps // 10, learning_rate=1e-3, seed=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "vocab_size": vocab_size,
            "teacher": teacher.state_dict(),
            "reference": reference.state_dict(),
            "tokens": encode(held_out),
        },
        path,
    )


def load_text_model(path: Path) -> TextModel:
    """Load what `train_text_model` saved."""
    saved = torch.load(path, weights_only=True)
    teacher, reference = FeedForwardModel(saved["vocab_size"]), FeedForwardModel(saved["vocab_size"])
    teacher.load_state_dict(saved["teacher"])
    reference.load_state_dict(saved["reference"])
    return TextModel(teacher.eval(), reference.eval(), saved["tokens"].numpy().astype(np.int32))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    train_text_model(options.out, vocab_size=options.vocab_size, num_steps=options.steps)
