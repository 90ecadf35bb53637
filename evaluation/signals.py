"""`adpa evaluate signals`: checkpoints on held-out signals, side by side, with intervals paired over the pairs.

A figure per position is a ratio of two sums over pairs (nats over positions), so that long responses count as much as
they do in training; its interval resamples whole pairs, the same ones for every checkpoint. Figures of pairs (does it
prefer chosen over rejected) are means over pairs.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.errors import EvaluationError
from data.files import write_atomic
from data.options.command_line import command_line
from data.signals.dataset import SignalDataset
from data.storage.transfer import open_signals
from evaluation.language_model import model_labels
from evaluation.metrics.statistics import FEW_PROMPTS, Estimate, PromptBootstrap
from evaluation.options import SignalsEvaluationOptions
from evaluation.result_files import as_json, write_result
from evaluation.tables import markdown_table, with_interval

logger = logging.getLogger(__name__)


class HeldOut(Protocol):
    """Sums over the positions of every response; `student_training.held_out.HeldOutFigures` is one."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What identifies the checkpoint."""
        ...

    @property
    def pair_ids(self) -> Sequence[str]:
        """Pair of each response."""
        ...

    @property
    def roles(self) -> Sequence[str]:
        """Role of each response."""
        ...

    @property
    def positions(self) -> np.ndarray:
        """Positions of each response."""
        ...

    @property
    def sums(self) -> Mapping[str, np.ndarray]:
        """Sums of each figure over the positions of each response; nan where there is none."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure of one checkpoint.

    Attributes:
        name: which, such as `kl/chosen`.
        value: with its 95% interval.
        difference: to the baseline, paired over pairs; None for the baseline itself and without one.
    """

    name: str
    value: Estimate
    difference: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFigures:
    """All figures of one checkpoint."""

    model: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalsEvaluation:
    """What held-out signals say of checkpoints.

    Attributes:
        models: in the order of the options, the baseline first.
        num_pairs: pairs that were measured.
        request: everything that determined the figures.
        findings: what a reader must know beside them, one sentence each.
        table: all of it as text.
    """

    models: tuple[ModelFigures, ...]
    num_pairs: int
    request: Mapping[str, Any]
    findings: tuple[str, ...]
    table: str

    def __str__(self) -> str:
        return self.table

    def to_json(self) -> dict[str, Any]:
        """All of it for programs."""
        return {"kind": "signals", **as_json(self)}


#: Figures per position: the name of the sum, and what a reader sees.
_PER_POSITION = {
    "nll": "negative log-likelihood, nats",
    "kl": "KL from the teacher to the model, nats",
    "expected_advantage": "expected advantage, nats",
    "coverage": "mass on the teacher's support",
    "entropy": "entropy, nats",
}

_PER_PAIR = {
    "chosen_above_rejected": "chosen more likely per token than rejected, share",
    "implicit_accuracy": "implicit reward of chosen above rejected, share",
    "implicit_margin": "implicit reward, chosen minus rejected, nats",
}

Measure = Callable[..., HeldOut]


def evaluate_signals(options: SignalsEvaluationOptions, measure: Measure) -> SignalsEvaluation:
    """Measure checkpoints on held-out signals.

    Args:
        options: the command's.
        measure: runs one checkpoint over a dataset: `student_training.held_out.measure_signals`.
    Raises:
        AdpaError: for a dataset or checkpoint that cannot be used.
    """
    dataset = open_signals(options.signals)
    names = [*(() if options.baseline is None else (options.baseline,)), *options.model]
    labels = model_labels(list(dict.fromkeys(names)))
    measured: dict[str, HeldOut] = {}
    for name in dict.fromkeys(names):
        logger.info("%s: measuring on %s pairs", labels[name], f"{options.limit or dataset.num_pairs:,}")
        measured[labels[name]] = measure(
            name,
            dataset,
            option="--baseline" if name == options.baseline else "--model",
            limit=options.limit,
            batch_size=options.batch_size,
            dtype=options.dtype,
            trust_remote_code=options.trust_remote_code,
        )
    baseline = None if options.baseline is None else labels[options.baseline]
    models, num_pairs = _figures(measured, baseline)
    findings = []
    if num_pairs < FEW_PROMPTS:
        findings.append(f"only {num_pairs} pairs: fewer than {FEW_PROMPTS} say little, whatever the interval")
    if not dataset.has_advantages:
        findings.append("the signals have no advantages (scored without --reference): no expected advantage")
    if baseline is None:
        findings.append("without --baseline there are neither differences nor implicit rewards")
    request = {
        "signals": dataset.manifest.fingerprint,
        "pairs": num_pairs,
        "dtype": options.dtype,
        "baseline": baseline,
        "models": {label: dict(found.identity) for label, found in measured.items()},
        "versions": {name: version(name) for name in ("adpa", "torch", "transformers")},
    }
    table = _table(models, baseline, findings, num_pairs, dataset)
    result = SignalsEvaluation(
        models=models, num_pairs=num_pairs, request=request, findings=tuple(findings), table=table
    )
    if options.out is not None:
        _write(
            Path(options.out), result, measured, command_line("evaluate signals", options, determining=True)
        )
    return result


def _figures(measured: Mapping[str, HeldOut], baseline: str | None) -> tuple[tuple[ModelFigures, ...], int]:
    first = next(iter(measured.values()))
    pair_ids = list(dict.fromkeys(first.pair_ids))
    if not pair_ids:
        raise EvaluationError("--signals: the dataset holds no pairs; score some held-out preference data")
    places = {pair_id: place for place, pair_id in enumerate(pair_ids)}
    bootstrap = PromptBootstrap(len(pair_ids))
    reference = None if baseline is None else measured[baseline]
    resampled: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
    for label, found in measured.items():
        columns = _columns(found, places, reference if label != baseline else None)
        resampled[label] = {
            name: (numerator.sum() / denominator.sum(), _resampled(bootstrap, numerator, denominator))
            for name, (numerator, denominator) in columns.items()
            if denominator.sum() > 0
        }
    models = []
    for label, values in resampled.items():
        figures = []
        for name, (value, draws) in values.items():
            difference = None
            is_the_teachers = name.startswith("teacher_")
            if baseline not in (None, label) and name in resampled[baseline] and not is_the_teachers:
                other, other_draws = resampled[baseline][name]
                difference = Estimate(value - other, *bootstrap.interval(draws - other_draws))
            estimate = Estimate(float(value), *bootstrap.interval(draws))
            figures.append(Figure(name=name, value=estimate, difference=difference))
        models.append(ModelFigures(model=label, figures=tuple(figures)))
    return tuple(models), len(pair_ids)


def _columns(
    found: HeldOut, places: Mapping[str, int], reference: HeldOut | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(numerator, denominator) of every figure by pair, shape (pairs,) each."""
    pair = np.array([places[pair_id] for pair_id in found.pair_ids])
    roles = np.array(found.roles)
    columns = {}

    def by_pair(values: np.ndarray) -> np.ndarray:
        return np.bincount(pair, weights=values, minlength=len(places))

    for key in (*_PER_POSITION, "teacher_expected_advantage"):
        sums = found.sums[key]
        for role in ("chosen", "rejected", "student"):
            here = (roles == role) & np.isfinite(sums)
            if here.any():
                columns[f"{key}/{role}"] = (
                    by_pair(np.where(here, sums, 0.0)),
                    by_pair(np.where(here, found.positions, 0)),
                )
    per_token = _of_pairs(-found.sums["nll"] / found.positions, pair, roles, len(places))
    columns["chosen_above_rejected"] = _wins(per_token)
    if reference is not None:
        reward = _of_pairs(reference.sums["nll"] - found.sums["nll"], pair, roles, len(places))
        columns["implicit_accuracy"] = _wins(reward)
        both = np.isfinite(reward).astype(float)
        columns["implicit_margin"] = (np.nan_to_num(reward), both)
    return columns


def _of_pairs(values: np.ndarray, pair: np.ndarray, roles: np.ndarray, num_pairs: int) -> np.ndarray:
    """Value of the chosen minus that of the rejected response, shape (pairs,); nan where a pair lacks one."""
    sides = np.full((2, num_pairs), np.nan)
    for side, role in enumerate(("chosen", "rejected")):
        sides[side, pair[roles == role]] = values[roles == role]
    return sides[0] - sides[1]


def _wins(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(1 where chosen is above, one half where equal; which pairs have both)."""
    both = np.isfinite(margins)
    return np.where(both, (np.sign(np.nan_to_num(margins)) + 1) / 2, 0.0), both.astype(float)


def _resampled(bootstrap: PromptBootstrap, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    means = bootstrap.means(np.stack([numerator, denominator], axis=1))
    # A resample without a single pair that has this role says nothing; it is possible where few have it.
    return np.divide(
        means[:, 0],
        means[:, 1],
        out=np.full(len(means), numerator.sum() / denominator.sum()),
        where=means[:, 1] > 0,
    )


def _table(
    models: Sequence[ModelFigures],
    baseline: str | None,
    findings: Sequence[str],
    num_pairs: int,
    dataset: SignalDataset,
) -> str:
    names = list(dict.fromkeys(figure.name for model in models for figure in model.figures))
    rows = []
    for name in names:
        row = [_label(name)]
        for model in models:
            figure = next((figure for figure in model.figures if figure.name == name), None)
            cell = "" if figure is None else with_interval(figure.value, digits=3)
            if figure is not None and figure.difference is not None:
                cell += f", {with_interval(figure.difference, digits=3, sign=True)}"
            row.append(cell)
        rows.append(row)
    header = ["figure", *(f"{m.model} (baseline)" if m.model == baseline else m.model for m in models)]
    said = f"{num_pairs:,} held-out pairs of {dataset.path}. Brackets: 95% intervals over pairs"
    said += "." if baseline is None else f"; after the comma the difference to {baseline}, paired."
    return "\n\n".join([markdown_table(header, rows), said, *(f"- {finding}" for finding in findings)])


def _label(name: str) -> str:
    key, _, role = name.partition("/")
    if key == "teacher_expected_advantage":
        return f"the teacher's own expected advantage, nats, on {role}"
    return f"{_PER_POSITION[key]}, on {role}" if role else _PER_PAIR[key]


def _write(out: Path, result: SignalsEvaluation, measured: Mapping[str, HeldOut], command: str) -> None:
    write_result(
        out,
        kind="signals",
        table=result.table,
        models=result.models,
        num_pairs=result.num_pairs,
        request=result.request,
        findings=result.findings,
        command=command,
    )
    lines = []
    for label, found in measured.items():
        for row, (pair_id, role) in enumerate(zip(found.pair_ids, found.roles, strict=True)):
            sums = {key: _finite(column[row]) for key, column in found.sums.items()}
            about = {"model": label, "pair_id": pair_id, "role": role, "positions": int(found.positions[row])}
            lines.append(json.dumps({**about, **sums}))
    write_atomic(out / "responses.jsonl", "".join(line + "\n" for line in lines))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
