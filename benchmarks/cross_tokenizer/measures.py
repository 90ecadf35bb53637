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
from evaluation.metrics.statistics import PromptBootstrap, mean_estimate

_BATCH = 16

_COLUMNS = ("chosen", "rejected", "chosen_bytes", "rejected_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model on pairs, one array element for each.

    Attributes:
        parameters: how many the model has.
        chosen: log-probability of the chosen answer with its end, nats.
        rejected: the same of the rejected one.
        chosen_bytes: UTF-8 bytes of the chosen answer.
        rejected_bytes: the same of the rejected one.
    """

    parameters: int
    chosen: np.ndarray
    rejected: np.ndarray
    chosen_bytes: np.ndarray
    rejected_bytes: np.ndarray

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
    columns = dict(zip(_COLUMNS, (logprobs[::2], logprobs[1::2], *np.array(sizes).T), strict=True))
    measured = Measured(parameters=sum(each.numel() for each in model.parameters()), **columns)
    kept.parent.mkdir(parents=True, exist_ok=True)
    listed = {name: column.tolist() for name, column in columns.items()}
    write_atomic(kept, json.dumps({"parameters": measured.parameters, **listed}))
    return measured


def _logprobs(model: Any, sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    totals: list[float] = []
    for first in range(0, len(sequences), _BATCH):
        part = sequences[first : first + _BATCH]
        whole = [torch.from_numpy(np.concatenate(ids)).long() for ids in part]
        # Padded on the right: what follows a token does not change what is predicted at it.
        logits = model(torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)).logits
        for (prompt, response), ids, row in zip(part, whole, logits, strict=True):
            logprobs = row[len(prompt) - 1 : len(ids) - 1].double().log_softmax(-1)
            totals.append(float(logprobs.gather(1, ids[-len(response) :, None]).sum()))
    return totals


def table(measured: Mapping[str, Measured], starts: Mapping[str, str]) -> str:
    """Every model's figures with 95% intervals over the pairs; differences are paired.

    Args:
        measured: models by their name in the table.
        starts: the model that each one was trained from, by name; those without one begin a comparison.
    """
    first = next(iter(measured.values()))
    is_shorter = first.chosen_bytes < first.rejected_bytes
    lines = [
        f"{len(is_shorter)} pairs, {first.chosen_bytes.sum():,} bytes of chosen answers; the chosen answer is the "
        f"shorter one in {is_shorter.mean():.0%}",
        "",
        "| model | parameters | NLL, nats a byte | change | reward prefers chosen | margin gained, nats | "
        "reward a byte prefers chosen | prefers chosen |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in measured.items():
        cells = [name, f"{one.parameters / 1e6:.1f} M", _nll(one)]
        if name in starts:
            start = measured[starts[name]]
            gained = one.margin - start.margin
            cells += [
                _nll(one, start),
                _share(gained > 0),
                _mean(gained),
                _share(_gained_a_byte(one, start) > 0),
            ]
        else:
            cells += [""] * 4
        lines.append(f"| {' | '.join([*cells, _share(one.margin > 0)])} |")
    return "\n".join(lines)


def differences(
    measured: Mapping[str, Measured], compared: Sequence[tuple[str, str]], starts: Mapping[str, str]
) -> str:
    """Pairs of models trained from the same start, the first against the second, paired over the preference pairs."""
    lines = [
        "| difference | NLL, nats a byte | reward prefers chosen, points | margin gained, nats |",
        "| --- | --- | --- | --- |",
    ]
    for one, other in compared:
        start = measured[starts[one]]
        hits = [(measured[name].margin > start.margin).astype(np.float64) for name in (one, other)]
        cells = [
            f"{one} − {other}",
            _nll(measured[one], measured[other]),
            _mean(100 * (hits[0] - hits[1]), digits=0),
            _mean(measured[one].margin - measured[other].margin),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gained_a_byte(one: Measured, start: Measured) -> np.ndarray:
    """Nats a byte that the chosen answer has gained beyond the rejected one."""
    gained = (one.chosen - start.chosen) / one.chosen_bytes
    return gained - (one.rejected - start.rejected) / one.rejected_bytes


def _nll(one: Measured, other: Measured | None = None) -> str:
    """NLL of the chosen answers in nats a byte, or its difference: long answers count as much as they are long."""
    values = -one.chosen if other is None else other.chosen - one.chosen
    bootstrap = PromptBootstrap(len(values))
    drawn = bootstrap.means(np.stack([values, one.chosen_bytes], 1))
    low, high = bootstrap.interval(drawn[:, 0] / drawn[:, 1])
    return _interval(values.sum() / one.chosen_bytes.sum(), low, high, "" if other is None else "+", 3)


def _mean(values: np.ndarray, *, digits: int = 2) -> str:
    found = mean_estimate(values)
    return _interval(found.value, found.low, found.high, "+", digits)


def _interval(value: float, low: float, high: float, sign: str, digits: int) -> str:
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def _share(hits: np.ndarray) -> str:
    found = mean_estimate(hits.astype(np.float64), bounds=(0, 1))
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"
