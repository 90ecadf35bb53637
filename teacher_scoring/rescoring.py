"""`signals verify --deep`: scores a sample again with the dataset's models and compares every column."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.commands.options import SignalsVerifyOptions
from data.errors import ConfigurationError, ShardError
from data.signals.dataset import SignalDataset
from data.signals.rounding import grids
from data.signals.schema import ResponseSignals
from teacher_scoring.build.assemble import signals_of
from teacher_scoring.engines.checked import CheckedEngine
from teacher_scoring.engines.contract import EngineOptions, GivenScores, SupportScores, TokenSequence
from teacher_scoring.engines.models import ResolvedModel, find_model
from teacher_scoring.passes.tasks import SupportRule
from teacher_scoring.workers.run import EngineRequest, needs_own_process, run_on_engine


@dataclass(frozen=True, slots=True)
class RescoringResult:
    """How far a sample is from its models.

    Attributes:
        responses: how many were scored again; 0 for a dataset that carries token ids alone.
        positions: their response positions.
        differences: by column the largest absolute difference, nats, rounding included; `probability`, the largest one
            between probabilities beyond what rounding explains; `support`, by how much a token outside a support is
            more probable than the least probable one in it, nats.
    """

    responses: int
    positions: int
    differences: dict[str, float]

    def __str__(self) -> str:
        """The result in one line."""
        if not self.responses:
            return "the dataset carries token ids alone; there is nothing to score again"
        nats = ", ".join(
            f"{name} {value:.2g}" for name, value in self.differences.items() if name != "probability"
        )
        return (
            f"{self.responses:,} responses ({self.positions:,} positions) scored again with transformers; largest "
            f"differences: in probability {self.differences['probability']:.2g} beyond rounding; in nats: {nats}"
        )


def rescore_sample(folder: Path, options: SignalsVerifyOptions) -> RescoringResult:
    """Score some responses of a dataset again and compare probabilities.

    Args:
        folder: the dataset.
        options: how many responses, where the models are, and what difference passes.
    Raises:
        ConfigurationError: models that are not there, or whose weights are not those of the manifest.
        ShardError: a dataset that is no signal dataset, or whose numbers are not the models'.
        ScoringError: an engine that fails.
    """
    dataset = SignalDataset.open(folder)
    request = dataset.manifest.request
    teacher = _find(dataset, "teacher", options.teacher, options.teacher_adapter, options)
    reference = None
    if request.get("reference") is not None:
        reference = _find(dataset, "reference", options.reference, options.reference_adapter, options)
    rows = _sample_rows(dataset, options.deep)
    if not rows:
        return RescoringResult(0, 0, {})

    def engine(model: ResolvedModel) -> EngineRequest:
        # transformers on this machine, whatever the dataset was made with.
        settings = EngineOptions(
            model=str(model.folder),
            adapter=str(model.adapter) if model.adapter is not None else None,
            dtype=request["dtype"],
            trust_remote_code=options.trust_remote_code,
            max_length=request["max_length"],
        )
        return EngineRequest(
            kind="transformers",
            settings=settings,
            option=model.option,
            vocab_size=model.vocab_size,
            own_process=needs_own_process("transformers"),
        )

    # The stored support is taken as it is, however it was cut.
    rule = SupportRule(
        top_p=1.0,
        teacher_vocab_size=teacher.vocab_size,
        reference_vocab_size=reference.vocab_size if reference is not None else None,
    )
    found = _row_differences(
        rows,
        engine(teacher),
        engine(reference) if reference is not None else None,
        rule,
        rounded=request["precision"] == "rounded",
    )
    wrong = [
        (differences["probability"], row)
        for row, differences in zip(rows, found, strict=True)
        if not differences["probability"] <= options.tolerance
    ]
    if wrong:
        worst, row = max(wrong, key=lambda entry: entry[0])
        raise ShardError(
            f"{folder}: {len(wrong):,} of {len(rows):,} responses differ from their models by more than --tolerance "
            f"{options.tolerance:g}, most the {row.role} one of pair {row.pair_id}: {worst:.2g} in probability; "
            "delete the dataset and the passes that it was made of, and score again"
        )
    largest = {name: max(differences[name] for differences in found) for name in found[0]}
    return RescoringResult(len(rows), sum(row.num_scored for row in rows), largest)


def _find(
    dataset: SignalDataset, name: str, given: str | None, adapter: str | None, options: SignalsVerifyOptions
) -> ResolvedModel:
    """A model of the dataset, where the user or the manifest says that it is, with the weights of the manifest."""
    manifest = dataset.manifest
    recorded: dict[str, Any] = manifest.request[name]
    option = f"--{name}"
    source = given or str(manifest.created.get(name) or recorded["source"])
    made_with = recorded.get("adapter")
    if (made_with is None) != (adapter is None):
        told = "had none" if made_with is None else f"had one ({made_with['source']})"
        action = "leave the option out" if made_with is None else "say where it is"
        raise ConfigurationError(f"{option}-adapter: the {name} of {dataset.path} {told}; {action}")
    revision = None if Path(source).exists() else recorded["revision"]
    found = find_model(
        option, source, revision=revision, adapter=adapter, trust_remote_code=options.trust_remote_code
    )
    now = found.describe()
    _compare_weights(option, source, recorded, now)
    if made_with is not None:
        _compare_weights(f"{option}-adapter", str(adapter), made_with, now["adapter"])
    return found


def _compare_weights(option: str, source: str, recorded: dict[str, Any], now: dict[str, Any]) -> None:
    if recorded["weights_sha256"] != now["weights_sha256"]:
        raise ConfigurationError(
            f"{option}: {source} has weights {now['weights_sha256'][:12]}..., the dataset was made with "
            f"{recorded['weights_sha256'][:12]}...; say where those are"
        )


_COLUMNS = (
    "teacher_logprobs",
    "teacher_tail_logprobs",
    "teacher_token_logprobs",
    "advantages",
    "reference_tail_logprobs",
    "reference_token_logprobs",
)


def _sample_rows(dataset: SignalDataset, number: int) -> list[ResponseSignals]:
    """Scored rows of pairs drawn at random, always the same ones of the same dataset."""
    draw = random.Random(dataset.manifest.fingerprint)
    rows: list[ResponseSignals] = []
    for pair in draw.sample(range(dataset.num_pairs), min(number, dataset.num_pairs)):
        scored = [row for row in dataset.pair(pair) if isinstance(row, ResponseSignals)]
        rows += draw.sample(scored, min(1, len(scored)))
    return rows


def _row_differences(
    rows: list[ResponseSignals],
    teacher: EngineRequest,
    reference: EngineRequest | None,
    rule: SupportRule,
    *,
    rounded: bool,
) -> list[dict[str, float]]:
    """Score rows at their own support ids and compare.

    Args:
        rows: scored rows of a dataset.
        teacher: its teacher on the transformers engine.
        reference: likewise; None without one.
        rule: how signals follow from scores; no further cut is made.
        rounded: whether the dataset's numbers were rounded for storage (docs/format.md).
    Returns:
        For each row, by column the largest absolute difference, nats, rounding included; `probability`, the largest one
        between probabilities of the support's tokens, the response tokens and the tails of either model, beyond what
        rounding explains; and `support`, by how much a token outside the support is more probable than the least
        probable one in it, nats, 0 where none is.
    Raises:
        ScoringError: an engine that fails.
    """
    found = list(run_on_engine(teacher, _score, rows))
    others = (
        [None] * len(rows)
        if reference is None
        else [given for given, _ in run_on_engine(reference, _score, rows)]
    )
    columns = _COLUMNS if reference is not None else _COLUMNS[:3]
    differences = []
    for row, (given, best), other in zip(rows, found, others, strict=True):
        ids = _padded_ids(row)
        support = SupportScores(ids, given.logprobs, given.token_logprobs)
        again = signals_of(row, support, other, rule)
        largest = {column: _difference(getattr(row, column), getattr(again, column)) for column in columns}
        in_support = np.where(ids >= 0, given.logprobs, np.inf)
        # Rank for rank: the n-th best of all tokens cannot be above the n-th best of a right support.
        ranks = np.minimum(np.sum(ids >= 0, axis=1), best.shape[1]) - 1
        excess = best[np.arange(len(ranks)), ranks] - in_support.min(axis=1)
        largest["support"] = max(0.0, float(excess.max(initial=0.0)))
        largest["probability"] = _probability_difference(
            row, again, with_reference=reference is not None, rounded=rounded
        )
        differences.append(largest)
    return differences


def _probability_difference(
    row: ResponseSignals, again: ResponseSignals, *, with_reference: bool, rounded: bool
) -> float:
    """The largest difference in probability that rounding for storage does not explain.

    A reference's log-probability is stored as the difference of two numbers, each rounded by the teacher's grid: where
    the teacher gives little and the reference much, that alone is a tenth of a probability.
    """
    # A value just below a bound may have been rounded up to it, with the coarser grid: hence the small step down.
    steps = grids(row.teacher_logprobs - np.float32(1e-4)) if rounded else np.zeros_like(row.teacher_logprobs)
    pairs = [
        (row.teacher_logprobs, again.teacher_logprobs, steps / 2),
        (row.teacher_tail_logprobs, again.teacher_tail_logprobs, 0.0),
        (row.teacher_token_logprobs, again.teacher_token_logprobs, 0.0),
    ]
    if with_reference:
        assert row.advantages is not None
        assert again.advantages is not None
        stored = row.teacher_logprobs - row.advantages
        pairs += [
            (stored, again.teacher_logprobs - again.advantages, steps),
            (row.reference_tail_logprobs, again.reference_tail_logprobs, 0.0),
            (row.reference_token_logprobs, again.reference_token_logprobs, 0.0),
        ]
    largest = 0.0
    for stored, now, slack in pairs:
        probability = np.exp(now, dtype=np.float64)
        least = np.exp(stored - slack, dtype=np.float64)
        most = np.minimum(1.0, np.exp(stored + slack, dtype=np.float64))
        beyond = np.maximum(least - probability, probability - most)
        largest = max(largest, float(beyond.max(initial=0.0)))
    return largest


def _score(
    engine: CheckedEngine, rows: Iterable[ResponseSignals]
) -> Iterator[tuple[GivenScores, np.ndarray]]:
    """Scores at the stored ids, and the same number of best log-probabilities of all tokens."""
    for row in rows:
        sequence = TokenSequence(row.prompt_ids, row.response_ids, row.response_mask)
        ids = _padded_ids(row)
        (given,) = engine.score_given([sequence], [ids])
        (best,) = engine.score_support([sequence], ids.shape[1])
        yield given, best.logprobs


def _padded_ids(row: ResponseSignals) -> np.ndarray:
    """The support as a rectangle, int32 (T, K), filled up with -1."""
    width = int(row.support_sizes.max())
    ids = np.full((len(row.support_sizes), width), -1, dtype=np.int32)
    ids[np.arange(width) < row.support_sizes[:, None]] = row.topk_ids
    return ids


def _difference(stored: np.ndarray | None, again: np.ndarray | None) -> float:
    assert stored is not None
    assert again is not None
    # Both tails may be -inf, which differ by nothing.
    different = stored != again
    return float(np.abs(stored[different].astype(np.float64) - again[different]).max(initial=0.0))
