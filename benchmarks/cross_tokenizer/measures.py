"""What models assign to the two answers of held-out pairs: likelihood, preference, and both with intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adpa import read_preferences
from data.files import write_atomic
from data.tokens.encoder import PairEncoder
from evaluation.metrics.statistics import PromptBootstrap

_BATCH = 16

_COLUMNS = ("chosen", "rejected", "chosen_bytes", "rejected_bytes", "prompts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model on pairs, one array element for each.

    Attributes:
        parameters: how many the model has.
        chosen: log-probability of the chosen answer with its end, nats.
        rejected: the same of the rejected one.
        chosen_bytes: UTF-8 bytes of the chosen answer.
        rejected_bytes: the same of the rejected one.
        prompts: a number for the prompt that the pair is of; intervals are over prompts.
    """

    parameters: int
    chosen: np.ndarray
    rejected: np.ndarray
    chosen_bytes: np.ndarray
    rejected_bytes: np.ndarray
    prompts: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """Log-probability of the chosen minus that of the rejected answer, nats."""
        return self.chosen - self.rejected


@torch.no_grad()
def measure(folder: Path, pairs: Path, kept: Path) -> Measured:
    """Log-probabilities of both answers of every pair under a model, kept in a file.

    Args:
        folder: the model's checkpoint.
        pairs: preference rows with text.
        kept: the file; read where it is there.
    Raises:
        SystemExit: when the model's tokenizer drops a pair: models must be measured on the same ones.
    """
    if kept.exists():
        found = json.loads(kept.read_text())
        columns = {name: np.array(found[name]) for name in _COLUMNS}
        return Measured(parameters=found["parameters"], **columns)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = PairEncoder(AutoTokenizer.from_pretrained(folder))
    rows = list(read_preferences(str(pairs)))
    encoded = [encoder.encode(row) for row in rows]
    if any(pair is None for pair in encoded):
        raise SystemExit(f"{folder}: {encoder.describe()}; the models must be measured on the same pairs")
    responses = [one for pair in encoded if pair for one in (*pair.chosen, *pair.rejected)]
    logprobs = np.array(_logprobs(model, [(one.prompt_ids, one.ids) for one in responses]))
    sizes = [[len(str(answer).encode()) for answer in (row.chosen, row.rejected)] for row in rows]
    prompts = np.unique([str(row.prompt) for row in rows], return_inverse=True)[1]
    found = (logprobs[::2], logprobs[1::2], *np.array(sizes).T, prompts)
    columns = dict(zip(_COLUMNS, found, strict=True))
    measured = Measured(parameters=sum(each.numel() for each in model.parameters()), **columns)
    kept.parent.mkdir(parents=True, exist_ok=True)
    listed = {name: column.tolist() for name, column in columns.items()}
    write_atomic(kept, json.dumps({"parameters": measured.parameters, **listed}))
    return measured


def _logprobs(model: Any, sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Log-probability of each response after its prompt, nats."""
    totals = [0.0] * len(sequences)
    # Of about equal length in a batch, so that little is padded.
    by_length = sorted(range(len(sequences)), key=lambda number: sum(map(len, sequences[number])))
    for begin in range(0, len(sequences), _BATCH):
        batch = by_length[begin : begin + _BATCH]
        whole = [torch.from_numpy(np.concatenate(sequences[number])).long() for number in batch]
        # Padded on the right: what follows a token does not change what is predicted at it.
        padded = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
        first = min(len(sequences[number][0]) for number in batch) - 1
        logits = model(padded, logits_to_keep=padded.shape[1] - first).logits
        for number, ids, row in zip(batch, whole, logits, strict=True):
            prompt, response = sequences[number]
            logprobs = row[len(prompt) - 1 - first : len(ids) - 1 - first].double().log_softmax(-1)
            totals[number] = float(logprobs.gather(1, ids[-len(response) :, None]).sum())
    return totals


def table(measured: Mapping[str, Sequence[Measured]], starts: Mapping[str, str]) -> str:
    """Every student's figures, means over its orders of the rows, with 95% intervals over the prompts.

    Args:
        measured: models by their name in the table: one for each order, or a single one.
        starts: the model that they were trained from, by name; those without one begin a comparison.
    """
    first = next(iter(measured.values()))[0]
    is_shorter = first.chosen_bytes < first.rejected_bytes
    lines = [
        f"{len(is_shorter)} pairs of {len(set(first.prompts))} prompts, {first.chosen_bytes.sum():,} bytes of chosen "
        f"answers; the chosen answer is the shorter one in {is_shorter.mean():.0%}",
        "",
        "| model | parameters | NLL, nats a byte | change | margin grew, % | in each order | growth, nats | "
        "prefers chosen, % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, orders in measured.items():
        cells = [name, f"{orders[0].parameters / 1e6:.1f} M", _nll(orders)]
        if name in starts:
            start = measured[starts[name]]
            grew = _grew(orders, start)
            shares = " ".join(f"{100 * share:.1f}" for share in grew.mean(1)) if len(orders) > 1 else ""
            cells += [
                _nll(orders, start),
                _share(grew, orders[0]),
                shares,
                _estimate(_growth(orders, start), orders[0]),
            ]
        else:
            cells += [""] * 4
        prefers = np.stack([one.margin > 0 for one in orders])
        lines.append(f"| {' | '.join([*cells, _share(prefers, orders[0])])} |")
    return "\n".join(lines)


def differences(
    measured: Mapping[str, Sequence[Measured]],
    compared: Sequence[tuple[str, str]],
    starts: Mapping[str, str],
) -> str:
    """Students of one start, the first against the second: means over their orders, paired over the prompts."""
    lines = [
        "| difference | NLL, nats a byte | margin grew, points | growth, nats |",
        "| --- | --- | --- | --- |",
    ]
    for names in compared:
        one, other = (measured[name] for name in names)
        start = measured[starts[names[0]]]
        cells = [
            " − ".join(names),
            _nll(one, other),
            _estimate(100 * (_grew(one, start).mean(0) - _grew(other, start).mean(0)), one[0], digits=1),
            _estimate(_growth(one, start) - _growth(other, start), one[0]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _grew(orders: Sequence[Measured], start: Sequence[Measured]) -> np.ndarray:
    """Whether each pair's margin has grown, shape (orders, pairs)."""
    return np.stack([one.margin > start[0].margin for one in orders])


def _growth(orders: Sequence[Measured], start: Sequence[Measured]) -> np.ndarray:
    """By how much each pair's margin has grown, mean over the orders, nats."""
    return np.mean([one.margin for one in orders], 0) - start[0].margin


def _nll(one: Sequence[Measured], other: Sequence[Measured] | None = None) -> str:
    """NLL of the chosen answers in nats a byte, or its difference: long answers count as much as they are long."""
    values = -np.mean([each.chosen for each in one], 0)
    if other is not None:
        values = values + np.mean([each.chosen for each in other], 0)
    return _estimate(values, one[0], sign="" if other is None else "+", digits=3, weights=one[0].chosen_bytes)


def _estimate(
    values: np.ndarray,
    pairs: Measured,
    *,
    sign: str = "+",
    digits: int = 2,
    weights: np.ndarray | None = None,
) -> str:
    """Sum of the pairs' values over the sum of their weights, one each by default, and its interval over prompts."""
    columns = np.stack([values, np.ones_like(values) if weights is None else weights], 1)
    by_prompt = np.zeros((pairs.prompts.max() + 1, 2))
    np.add.at(by_prompt, pairs.prompts, columns)
    bootstrap = PromptBootstrap(len(by_prompt))
    drawn = bootstrap.means(by_prompt)
    low, high = bootstrap.interval(drawn[:, 0] / drawn[:, 1])
    value = columns[:, 0].sum() / columns[:, 1].sum()
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def _share(hits: np.ndarray, pairs: Measured) -> str:
    return _estimate(100 * hits.mean(0), pairs, sign="", digits=1)
