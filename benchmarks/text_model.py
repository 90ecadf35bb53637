"""A small language model trained on text that every installation has, to measure storage on distributions of its kind.

The text is the docstrings of installed packages and of the standard library. The model is a feed-forward one over
the last tokens (Bengio et al. 2003) trained with sampled softmax, so that one core trains a vocabulary of 128,256 in
less than eight minutes. The reference is that model; the teacher is the same model trained on a little further, on a
part of the packages only, which moves its distributions the way that tuning does: a lot for some tokens, hardly for
most.

What is synthetic: the text has words for about 90,000 tokens only. The ids of a larger vocabulary are those tokens
spread over it at random in their order of frequency, as the tokens of one language lie among those of others.
"""

import ast
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from data.files import atomic_output

__all__ = ["CONTEXT", "FeedForwardModel", "TextModel", "load_text_model", "text_model"]

CONTEXT = 8
_PACKAGES = ("transformers", "torch", "sympy", "pandas", "networkx", "numpy", "datasets")
_SHORTEST_TEXT = 200
_NUM_NEGATIVES = 512
_BATCH = 1024
_NUM_STEPS = 7_000


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
        teacher: the model tuned on some packages' text.
        reference: the model that it was tuned from.
        tokens: held-out token ids.
        num_learned: how many ids of the vocabulary the text has a token for.
    """

    teacher: FeedForwardModel
    reference: FeedForwardModel
    tokens: np.ndarray
    num_learned: int


def docstrings(folders: Sequence[Path]) -> Iterator[str]:
    """The longer docstrings of the Python files in folders, in path order; of each text the first one only."""
    seen: set[str] = set()
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) >= _SHORTEST_TEXT and text not in seen:
                    seen.add(text)
                    yield text


def _installed() -> list[Path]:
    paths = sysconfig.get_paths()
    library = Path(paths["stdlib"])
    standard = sorted(
        path for path in library.iterdir() if path.is_dir() and path.name not in ("site-packages", "test")
    )
    return [*(Path(paths["purelib"]) / package for package in _PACKAGES), *standard]


def _train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
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
    counts = torch.bincount(tokens, minlength=model.head.num_embeddings).float()
    frequency = counts / counts.sum()
    # Also ids that never occur are drawn now and then, or nothing would push their logits down.
    noise = (counts + 0.1) ** 0.75
    noise /= noise.sum()
    # How often a token is among the candidates of a step, as a negative or as a target of the batch.
    expected = (_NUM_NEGATIVES * noise + _BATCH * frequency).log()
    optimizers = [
        torch.optim.SparseAdam(
            [model.embedding.weight, model.head.weight, model.bias.weight], lr=learning_rate
        ),
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
        # Sampled softmax: correct for how often each candidate is drawn, and hide accidental copies of the target.
        logits = torch.addmm(
            model.bias(candidates)[:, 0] - expected[candidates], hidden, model.head(candidates).T
        )
        copies = candidates[None, :] == targets[:, None]
        copies[torch.arange(_BATCH), torch.arange(_BATCH)] = False
        loss = nn.functional.cross_entropy(logits.masked_fill(copies, -torch.inf), torch.arange(_BATCH))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if step % 1000 == 0:
            print(f"step {step}: sampled loss {loss.item():.3f}", flush=True)


def _train(path: Path, *, vocab_size: int) -> None:
    """Train tokenizer, reference and teacher, and save what the benchmark needs."""
    texts = list(docstrings(_installed()))
    print(f"{len(texts):,} texts, {sum(map(len, texts)):,} characters")
    tokenizer = _train_tokenizer(texts, vocab_size)
    num_learned = tokenizer.get_vocab_size()
    generator = np.random.default_rng(0)
    spread = torch.from_numpy(np.sort(generator.permutation(vocab_size)[:num_learned]))
    order = generator.permutation(len(texts))
    held_out, kept = order[: len(texts) // 20], order[len(texts) // 20 :]

    def encode(indices: np.ndarray) -> Tensor:
        encoded = tokenizer.encode_batch([texts[i] + "<end>" for i in indices])
        return spread[torch.tensor([token for encoding in encoded for token in encoding.ids])]

    torch.manual_seed(0)
    reference = FeedForwardModel(vocab_size)
    tokens = encode(kept)
    print(f"vocabulary {num_learned:,} of {vocab_size:,}, {len(tokens):,} tokens")
    # What is known without a context; training starts from there.
    counts = torch.bincount(tokens, minlength=vocab_size)
    with torch.no_grad():
        reference.bias.weight[:, 0] = ((counts + 0.1) / len(tokens)).log()
    _fit(reference, tokens, num_steps=_NUM_STEPS, learning_rate=2e-3, seed=1)
    teacher = FeedForwardModel(vocab_size)
    teacher.load_state_dict(reference.state_dict())
    tuning = encode(np.array([i for i in kept if i < len(texts) // 4]))
    _fit(teacher, tuning, num_steps=_NUM_STEPS // 10, learning_rate=1e-3, seed=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(path) as file:
        torch.save(
            {
                "vocab_size": vocab_size,
                "num_learned": num_learned,
                "teacher": teacher.state_dict(),
                "reference": reference.state_dict(),
                "tokens": encode(held_out),
            },
            file,
        )


def text_model(folder: Path, *, vocab_size: int) -> TextModel:
    """The trained model of that vocabulary, from a folder, or trained and left there."""
    path = folder / f"text-model-{vocab_size}.pt"
    if not path.exists():
        _train(path, vocab_size=vocab_size)
    return load_text_model(path)


def load_text_model(path: Path) -> TextModel:
    """Load what was trained."""
    saved = torch.load(path, weights_only=True)
    teacher, reference = FeedForwardModel(saved["vocab_size"]), FeedForwardModel(saved["vocab_size"])
    teacher.load_state_dict(saved["teacher"])
    reference.load_state_dict(saved["reference"])
    return TextModel(
        teacher.eval(), reference.eval(), saved["tokens"].numpy().astype(np.int32), saved["num_learned"]
    )
