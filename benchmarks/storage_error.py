"""What storing a support changes of each objective on real distributions: k, top-p, the tail and rounding.

    python -m benchmarks.storage_error --teacher teacher --reference reference --data pairs.jsonl --positions 3000

Every value and gradient from what is stored is compared with the one over the whole vocabulary, unrounded. The student
is the reference at 0.8 of its sharpness. Bytes are those of a shard with these rows, by column.
"""

import argparse
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.preferences.reader import read_preferences
from data.signals.rounding import round_support, round_to
from data.signals.schema import ResponseIds, ResponseSignals
from data.signals.shards import write_signal_shard
from data.signals.support import tail_logprobs, truncate_top_p
from data.tokens.encoder import PairEncoder
from student_training import objectives

#: Times the reference's logits: a student that is less sure.
_SHARPNESS = 0.8

#: What is large in a shard; the others are ids and one number a position.
_COLUMNS = ("topk_ids", "teacher_logprobs", "advantages")

Rounding = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Target:
    """What is known of teacher and reference at T positions, on a support of K tokens."""

    logprobs: Tensor
    tail: Tensor
    advantages: Tensor
    tail_advantages: Tensor
    mask: Tensor | None


def kl(support: Tensor, tail: Tensor, target: Target) -> Tensor:
    """DCKD's term."""
    return objectives.forward_kl(support, tail, target.logprobs, target.tail, support_mask=target.mask)


def boosted_kl(support: Tensor, tail: Tensor, target: Target) -> Tensor:
    """ABD's with its defaults."""
    boosted = objectives.boosted_target(
        target.logprobs,
        target.tail,
        target.advantages,
        target.tail_advantages,
        scale=1.0,
        clip=1.0,
        support_mask=target.mask,
    )
    return objectives.forward_kl(support, tail, *boosted, support_mask=target.mask)


def expected_advantage(support: Tensor, tail: Tensor, target: Target) -> Tensor:
    """ADPA's with its defaults."""
    return objectives.expected_advantage(
        support, tail, target.advantages, clip=(0.0, 1.0), support_mask=target.mask
    )


OBJECTIVES = {
    "KL (dckd)": kl,
    "boosted KL (abd)": boosted_kl,
    "expected advantage (adpa)": expected_advantage,
}


def exact(logprobs: np.ndarray, advantages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """No rounding."""
    return logprobs, advantages


def to_grid(step: float) -> Rounding:
    """One grid for all tokens."""

    def rounding(logprobs: np.ndarray, advantages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps = np.full(logprobs.shape, step, np.float32)
        return round_to(logprobs, steps), round_to(advantages, steps)

    return rounding


def stored_grids(logprobs: np.ndarray, advantages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The format's."""
    rounded, both = round_support(logprobs, advantages)
    assert both is not None
    return rounded, both


@dataclass(slots=True)
class Sums:
    """Sums over positions of one objective under one setting."""

    exact: float = 0.0
    stored: float = 0.0
    deviation: float = 0.0
    gradient: float = 0.0
    gradient_error: float = 0.0
    rounding_error: float = 0.0
    # Over all positions, by token: what is left when errors may cancel.
    total: Tensor | float = 0.0
    total_error: Tensor | float = 0.0


@dataclass(slots=True)
class Setting:
    """One way to store."""

    name: str
    top_k: int
    top_p: float = 1.0
    rounding: Rounding = exact
    precision: str | None = None
    rows: list[ResponseSignals] = field(default_factory=list)
    sums: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))


def settings() -> list[Setting]:
    """What is compared."""
    return [
        Setting("k = 16", 16, precision="exact"),
        Setting("k = 50", 50, precision="exact"),
        Setting("k = 100", 100, precision="exact"),
        Setting("k = 16, rounded", 16, rounding=stored_grids, precision="rounded"),
        Setting("k = 50, rounded (default)", 50, rounding=stored_grids, precision="rounded"),
        Setting("k = 100, rounded", 100, rounding=stored_grids, precision="rounded"),
        Setting("k = 50, 1/16 nat everywhere", 50, rounding=to_grid(1 / 16)),
        Setting("k = 50, top-p 0.999, rounded", 50, 0.999, stored_grids, "rounded"),
        Setting("k = 50, top-p 0.99, rounded", 50, 0.99, stored_grids, "rounded"),
        Setting("k = 50, top-p 0.95, rounded", 50, 0.95, stored_grids, "rounded"),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--data", required=True, help="preference data")
    parser.add_argument("--positions", type=int, default=3000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, statistics, compared = time.process_time(), defaultdict(float), settings()
    for row, teacher, reference in itertools.islice(_responses(options), 10**6):
        student = torch.log_softmax(_SHARPNESS * reference, dim=-1)
        _add_statistics(statistics, teacher, reference)
        whole = Target(teacher, _no_tail(teacher), teacher - reference, torch.zeros(len(teacher)), None)
        dense = {name: _dense(objective, student, whole) for name, objective in OBJECTIVES.items()}
        for setting in compared:
            _compare(setting, row, teacher, reference, student, dense)
        if statistics["positions"] >= options.positions:
            break
    seconds = time.process_time() - start
    _print(compared, statistics, seconds)


def _responses(options: argparse.Namespace) -> Iterator[tuple[ResponseIds, Tensor, Tensor]]:
    """Rows with their ids, and both models' log-probabilities of the whole vocabulary, shape (T, V)."""
    encoder = PairEncoder(AutoTokenizer.from_pretrained(options.reference))
    models: list[Any] = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (options.teacher, options.reference)
    ]
    for row in read_preferences(options.data, need="pair"):
        encoded = encoder.encode(row)
        if encoded is None:
            continue
        for role, response in (("chosen", encoded.chosen[-1]), ("rejected", encoded.rejected[-1])):
            ids = torch.from_numpy(np.concatenate([response.prompt_ids, response.ids])).long()
            with torch.inference_mode():
                keep = len(response.ids) + 1
                dense = [model(ids[None], logits_to_keep=keep).logits[0, :-1] for model in models]
            signals = ResponseIds(encoded.pair_id, role, 0, response.prompt_ids, response.ids)
            teacher, reference = (torch.log_softmax(logits.clone(), dim=-1) for logits in dense)
            yield signals, teacher, reference


def _no_tail(logprobs: Tensor) -> Tensor:
    return torch.full((len(logprobs),), -torch.inf)


def _add_statistics(statistics: dict[str, float], teacher: Tensor, reference: Tensor) -> None:
    mass = teacher.exp()
    statistics["positions"] += len(teacher)
    statistics["vocabulary"] = teacher.shape[1]
    statistics["entropy"] += float(-(mass * teacher).sum())
    statistics["kl"] += float((mass * (teacher - reference)).sum())
    for top_k in (16, 50, 100):
        statistics[f"mass {top_k}"] += float(mass.topk(top_k).values.sum())


def _dense(objective: Callable, student: Tensor, whole: Target) -> tuple[Tensor, Tensor]:
    """Values and gradients at the logits over the whole vocabulary, (T,) and (T, V)."""
    logits = student.clone().requires_grad_()
    values = objective(torch.log_softmax(logits, dim=-1), _no_tail(student), whole)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    return values.detach(), gradient


def _compare(
    setting: Setting,
    row: ResponseIds,
    teacher: Tensor,
    reference: Tensor,
    student: Tensor,
    dense: dict[str, tuple[Tensor, Tensor]],
) -> None:
    top = teacher.topk(setting.top_k)
    sizes, keep = truncate_top_p(top.values.numpy(), setting.top_p)
    ids = top.indices
    logprobs, others = top.values.numpy()[keep], reference.gather(1, ids).numpy()[keep]
    vocab_size = teacher.shape[1]
    tails = [tail_logprobs(values, sizes, vocab_size=vocab_size) for values in (logprobs, others)]
    if setting.precision is not None:
        tokens = torch.from_numpy(row.response_ids).long()[:, None]
        setting.rows.append(
            row.with_signals(
                support_sizes=sizes,
                topk_ids=ids.numpy()[keep].astype(np.int32),
                teacher_logprobs=logprobs,
                advantages=logprobs - others,
                teacher_tail_logprobs=tails[0],
                reference_tail_logprobs=tails[1],
                teacher_token_logprobs=teacher.gather(1, tokens)[:, 0].numpy(),
                reference_token_logprobs=reference.gather(1, tokens)[:, 0].numpy(),
            )
        )
    mask = torch.from_numpy(keep)
    tail, reference_tail = (torch.from_numpy(values) for values in tails)

    def target(values: tuple[np.ndarray, np.ndarray]) -> Target:
        spread = [torch.zeros(keep.shape).masked_scatter_(mask, torch.from_numpy(part)) for part in values]
        return Target(spread[0], tail, spread[1], tail - reference_tail, mask)

    kept = logprobs, logprobs - others
    unrounded, stored = target(kept), target(setting.rounding(*kept))
    for name, objective in OBJECTIVES.items():
        values, gradient = _sparse(objective, student, ids, stored)
        if setting.rounding is not exact:
            _, before = _sparse(objective, student, ids, unrounded)
            setting.sums[name].rounding_error += float((gradient - before).square().sum())
        expected, expected_gradient = dense[name]
        error = gradient - expected_gradient
        sums = setting.sums[name]
        sums.exact += float(expected.sum())
        sums.stored += float(values.sum())
        sums.deviation += float((values - expected).abs().sum())
        sums.gradient += float(expected_gradient.square().sum())
        sums.gradient_error += float(error.square().sum())
        sums.total = sums.total + expected_gradient.sum(0)
        sums.total_error = sums.total_error + error.sum(0)


def _sparse(objective: Callable, student: Tensor, ids: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Values from a support and a tail, and their gradients at all logits by the chain rule, (T,) and (T, V)."""
    assert target.mask is not None
    support = student.gather(1, ids)
    outside = student.clone().scatter_(1, ids, torch.where(target.mask, -torch.inf, support))
    tail = outside.logsumexp(-1)
    support.requires_grad_()
    tail.requires_grad_()
    values = objective(support, tail, target)
    at_support, at_tail = torch.autograd.grad(values.sum(), (support, tail), materialize_grads=True)
    gradient = (outside - tail.detach()[:, None]).exp() * at_tail[:, None]
    gradient.scatter_add_(1, ids, at_support)
    # Every log-probability falls by a token's probability where that token's logit rises.
    gradient -= student.exp() * (at_support.sum(-1) + at_tail)[:, None]
    return values.detach(), gradient


def _print(compared: list[Setting], statistics: dict[str, float], seconds: float) -> None:
    count = statistics["positions"]
    held = ", ".join(f"{statistics[f'mass {top_k}'] / count:.1%}" for top_k in (16, 50, 100))
    print(
        f"{count:,.0f} positions, V = {statistics['vocabulary']:,.0f}, teacher's entropy "
        f"{statistics['entropy'] / count:.2f} nats, KL(teacher || reference) {statistics['kl'] / count:.3f}; on the "
        f"first 16, 50, 100 tokens {held} of "
        f"its mass; {seconds:.0f} s of one core"
    )
    print(f"\n| stored | tokens | {' | '.join(_COLUMNS)} | others | bytes a position |\n{'| --- ' * 7}|")
    for setting in compared:
        if setting.precision is not None:
            print(f"| {setting.name} | {' | '.join(_bytes(setting, setting.precision, count))} |")
    for name in OBJECTIVES:
        print(f"\n{name}\n\n| stored | mean | each | gradient, each | gradient, summed | rounding alone |")
        print("| --- " * 6 + "|")
        for setting in compared:
            print(f"| {setting.name} | {' | '.join(_errors(setting.sums[name]))} |")


def _bytes(setting: Setting, precision: str, count: float) -> Iterator[str]:
    """Tokens of a support, and bytes by column and in all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.parquet"
        write_signal_shard(path, setting.rows, fingerprint="0" * 64, precision=precision, encoding="compact")
        metadata = pq.ParquetFile(path).metadata
        sizes: dict[str, int] = defaultdict(int)
        for group, column in itertools.product(range(metadata.num_row_groups), range(metadata.num_columns)):
            found = metadata.row_group(group).column(column)
            sizes[found.path_in_schema.split(".")[0]] += found.total_compressed_size
        whole = path.stat().st_size
    tokens = sum(len(row.topk_ids) for row in setting.rows)
    yield f"{tokens / count:.1f}"
    for column in _COLUMNS:
        yield f"{sizes[column] / count:.1f}"
    yield f"{(whole - sum(sizes[column] for column in _COLUMNS)) / count:.1f}"
    yield f"{whole / count:.1f}"


def _errors(sums: Sums) -> Iterator[str]:
    """Relative changes of the mean, each position, each gradient, their sum; of each gradient by rounding alone."""
    assert isinstance(sums.total, Tensor)
    assert isinstance(sums.total_error, Tensor)
    yield f"{(sums.stored - sums.exact) / abs(sums.exact):+.3%}"
    yield f"{sums.deviation / abs(sums.exact):.3%}"
    yield f"{(sums.gradient_error / sums.gradient) ** 0.5:.3%}"
    yield f"{float(sums.total_error.norm() / sums.total.norm()):.3%}"
    yield f"{(sums.rounding_error / sums.gradient) ** 0.5:.3%}" if sums.rounding_error else ""


if __name__ == "__main__":
    main()
