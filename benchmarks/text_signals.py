"""Signal rows of the small text model, with the dense distributions that errors are measured against."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.text_model import CONTEXT, FeedForwardModel, TextModel, text_model
from data.files import atomic_output
from data.signals.schema import ResponseSignals
from data.signals.support import tail_logprobs, truncate_top_p

__all__ = ["TextSignals", "cut_top_p", "make_text_signals", "objectives"]

RESPONSE_LENGTH = 300
PROMPT_LENGTH = 60
# Positions whose distributions are held at once; few, so that the allocator hands the same memory out again.
_CHUNK = 32
# The sharpness is found on one position in four: the mean entropy of a few hundred positions is off by a tenth.
_SHARPENING_STRIDE = 4


@dataclass(frozen=True, slots=True)
class TextSignals:
    """Rows, and what a student would need to evaluate objectives on them.

    Attributes:
        rows: exact signals of the responses, with the whole top-k.
        student_logprobs: a student's log-probabilities at the rows' support, float32 [positions, K].
        dense_kl: forward KL(teacher || student) over the whole vocabulary, nats, float64 [positions].
        dense_advantage: the student's expected advantage over the whole vocabulary, clipped to [0, 1], nats.
        entropy: mean entropy of the teacher, nats.
    """

    rows: list[ResponseSignals]
    student_logprobs: np.ndarray
    dense_kl: np.ndarray
    dense_advantage: np.ndarray
    entropy: float


def _contexts(model: TextModel, num_responses: int) -> tuple[Tensor, np.ndarray]:
    stride = PROMPT_LENGTH + RESPONSE_LENGTH
    starts = np.arange(num_responses) * stride
    if starts[-1] + stride > len(model.tokens):
        raise ValueError(f"{len(model.tokens)} held-out tokens are too few for {num_responses} responses")
    pieces = np.stack([model.tokens[start : start + stride] for start in starts])
    places = np.arange(PROMPT_LENGTH, stride)
    windows = pieces[:, places[:, None] + np.arange(-CONTEXT, 0)]
    return torch.from_numpy(windows.reshape(-1, CONTEXT).astype(np.int64)), pieces


def _sharpness(model: FeedForwardModel, contexts: Tensor, entropy: float) -> float:
    """The factor on the logits that gives this mean entropy: interpolated between factors that were tried."""
    factors = torch.arange(0.5, 4.01, 0.25, dtype=torch.float64)
    sums = torch.zeros_like(factors)
    chosen = contexts[::_SHARPENING_STRIDE]
    for chunk in chosen.split(_CHUNK):
        logits = model.logits(chunk)
        for index, factor in enumerate(factors):
            logprobs = torch.log_softmax(float(factor) * logits, dim=-1)
            sums[index] -= torch.linalg.vecdot(logprobs.exp(), logprobs).sum()
    # Entropy falls as the factor grows; numpy wants rising abscissas.
    means = (sums / len(chosen)).flip(0).numpy()
    return float(np.interp(entropy, means, factors.flip(0).numpy()))


def make_text_signals(
    folder: Path, *, vocab_size: int, num_responses: int, top_k: int, entropy: float | None
) -> TextSignals:
    """Score held-out text with teacher and reference, or take what was scored before.

    Args:
        folder: where the trained model and its scores are kept.
        vocab_size: of the model.
        num_responses: responses of `RESPONSE_LENGTH` tokens.
        top_k: size of the support.
        entropy: sharpen both models' logits by the factor that brings the teacher to this mean entropy, nats,
            as a large model's are; None leaves them as trained.
    """
    sharpness = "as-trained" if entropy is None else f"{entropy:g}-nats"
    path = folder / f"text-signals-{vocab_size}-{num_responses}-{top_k}-{sharpness}.npz"
    if not path.exists():
        model = text_model(folder, vocab_size=vocab_size)
        scores = _score(model, num_responses=num_responses, top_k=top_k, entropy=entropy)
        with atomic_output(path) as file:
            np.savez(file, **scores)  # pyright: ignore[reportArgumentType]
    with np.load(path) as saved:
        scores = dict(saved)
    return TextSignals(
        rows=list(_rows(scores, vocab_size)),
        student_logprobs=scores["student"],
        dense_kl=scores["kl"].astype(np.float64),
        dense_advantage=scores["advantage"].astype(np.float64),
        entropy=float(scores["entropy"].mean()),
    )


@torch.no_grad()
def _score(
    model: TextModel, *, num_responses: int, top_k: int, entropy: float | None
) -> dict[str, np.ndarray]:
    """Top-k of the teacher and everything else that needs whole distributions, for each position."""
    contexts, pieces = _contexts(model, num_responses)
    beta = 1.0 if entropy is None else _sharpness(model.teacher, contexts, entropy)
    targets = torch.from_numpy(pieces[:, PROMPT_LENGTH:].reshape(-1).astype(np.int64))
    # Allocated beforehand: small results that stay between large ones that go would leave the heap in pieces.
    scores: dict[str, np.ndarray] = {"ids": np.empty((len(contexts), top_k), np.int32)}
    for name in ("teacher", "reference", "student"):
        scores[name] = np.empty((len(contexts), top_k), np.float32)
    for name in ("teacher_token", "reference_token", "kl", "advantage", "entropy"):
        scores[name] = np.empty(len(contexts), np.float32)
    for start in range(0, len(contexts), _CHUNK):
        here = slice(start, start + _CHUNK)
        base = model.reference.logits(contexts[here])
        teacher = torch.log_softmax(model.teacher.logits(contexts[here]).mul_(beta), dim=-1)
        reference = torch.log_softmax(base.mul_(beta), dim=-1)
        # A student: less sharp than the reference, and tuned on nothing.
        student = torch.log_softmax(base.mul_(0.8), dim=-1)
        logprobs, ids = teacher.topk(top_k, dim=-1)
        probabilities = teacher.exp()
        token = targets[here, None]
        scores["ids"][here] = ids
        scores["teacher"][here] = logprobs
        scores["reference"][here] = reference.gather(1, ids)
        scores["student"][here] = student.gather(1, ids)
        scores["teacher_token"][here] = teacher.gather(1, token)[:, 0]
        scores["reference_token"][here] = reference.gather(1, token)[:, 0]
        scores["entropy"][here] = -torch.linalg.vecdot(probabilities, teacher)
        scores["kl"][here] = torch.linalg.vecdot(probabilities, teacher - student)
        clipped = (teacher - reference).clamp_(0, 1)
        scores["advantage"][here] = torch.linalg.vecdot(student.exp_(), clipped)
    return scores | {"tokens": pieces}


def _rows(flat: dict[str, np.ndarray], vocab_size: int) -> Iterator[ResponseSignals]:
    top_k = flat["ids"].shape[1]
    sizes = np.full(RESPONSE_LENGTH, top_k, dtype=np.uint16)
    for index, piece in enumerate(flat["tokens"]):
        span = slice(index * RESPONSE_LENGTH, (index + 1) * RESPONSE_LENGTH)
        teacher, reference = flat["teacher"][span].ravel(), flat["reference"][span].ravel()
        yield ResponseSignals(
            pair_id=f"{index // 2:016x}",
            role=("chosen", "rejected")[index % 2],
            sample_index=0,
            prompt_ids=piece[:PROMPT_LENGTH],
            response_ids=piece[PROMPT_LENGTH:],
            support_sizes=sizes,
            topk_ids=flat["ids"][span].ravel(),
            teacher_logprobs=teacher,
            advantages=teacher - reference,
            teacher_tail_logprobs=tail_logprobs(teacher, sizes, vocab_size=vocab_size),
            reference_tail_logprobs=tail_logprobs(reference, sizes, vocab_size=vocab_size),
            teacher_token_logprobs=flat["teacher_token"][span],
            reference_token_logprobs=flat["reference_token"][span],
        )


def cut_top_p(signals: TextSignals, top_p: float) -> TextSignals:
    """The same signals with each position's support cut at `top_p`; the student's values become flat, shape [S]."""
    rows, student = [], []
    for index, row in enumerate(signals.rows):
        assert row.topk_ids is not None
        assert row.teacher_logprobs is not None
        assert row.advantages is not None
        shape = (RESPONSE_LENGTH, -1)
        teacher, advantages = row.teacher_logprobs.reshape(shape), row.advantages.reshape(shape)
        sizes, keep = truncate_top_p(teacher, top_p)
        vocab_size = 1 << 30  # Never the whole vocabulary.
        rows.append(
            ResponseSignals(
                row.pair_id,
                row.role,
                row.sample_index,
                row.prompt_ids,
                row.response_ids,
                support_sizes=sizes,
                topk_ids=row.topk_ids.reshape(shape)[keep],
                teacher_logprobs=teacher[keep],
                advantages=advantages[keep],
                teacher_tail_logprobs=tail_logprobs(teacher[keep], sizes, vocab_size=vocab_size),
                reference_tail_logprobs=tail_logprobs(
                    (teacher - advantages)[keep], sizes, vocab_size=vocab_size
                ),
                teacher_token_logprobs=row.teacher_token_logprobs,
                reference_token_logprobs=row.reference_token_logprobs,
            )
        )
        span = slice(index * RESPONSE_LENGTH, (index + 1) * RESPONSE_LENGTH)
        student.append(signals.student_logprobs[span][keep])
    return TextSignals(
        rows, np.concatenate(student), signals.dense_kl, signals.dense_advantage, signals.entropy
    )


def objectives(rows: list[ResponseSignals], student_logprobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forward KL with tail bucket, and expected advantage clipped to [0, 1], per position, nats, float64.

    Args:
        rows: signals as stored.
        student_logprobs: the student's log-probabilities at their support, in row order, any shape.
    """
    sizes = np.concatenate([row.support_sizes for row in rows if row.support_sizes is not None]).astype(
        np.int64
    )
    teacher = np.concatenate([row.teacher_logprobs for row in rows if row.teacher_logprobs is not None])
    advantages = np.concatenate([row.advantages for row in rows if row.advantages is not None])
    tails = np.concatenate(
        [row.teacher_tail_logprobs for row in rows if row.teacher_tail_logprobs is not None]
    )
    teacher, tails = teacher.astype(np.float64), tails.astype(np.float64)
    student = student_logprobs.ravel().astype(np.float64)
    starts = np.cumsum(sizes) - sizes
    student_tail = np.log(np.maximum(1 - np.add.reduceat(np.exp(student), starts), 1e-12))
    kl = np.add.reduceat(np.exp(teacher) * (teacher - student), starts)
    kl += np.exp(tails) * (tails - student_tail)
    return kl, np.add.reduceat(np.exp(student) * np.clip(advantages, 0, 1), starts)
