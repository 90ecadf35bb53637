"""Win rates of models against baselines, from judgments: one result for each pair, their differences, the matrix."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.judgments import AnswerFacts, Judgment
from evaluation.metrics.bradley_terry import strengths
from evaluation.metrics.judge_trust import JudgeTrust, judge_trust
from evaluation.metrics.length_control import LengthControlled, own_prompts_length_control
from evaluation.metrics.statistics import (
    FEW_PROMPTS,
    Estimate,
    PromptBootstrap,
    mean_estimate,
    standard_error,
)

# A share of malformed verdicts above which the figures are about the prompts that a judge can handle.
_MANY_MALFORMED = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSummary:
    """What one model's answers look like, over the prompts that count.

    Attributes:
        mean_chars: mean length, characters.
        cut: share cut at the limit of new tokens; None where that is unknown.
        refused: share of refusals; None where that is unknown.
        empty: share without any text.
    """

    mean_chars: float
    cut: float | None
    refused: float | None
    empty: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRateResult:
    """How one model does against a baseline.

    Attributes:
        model: name of the model.
        baseline: name of what it is compared with.
        num_prompts: prompts that count: judged in every order, with no malformed verdict.
        num_judgments: judgments that were stored for this pair.
        num_malformed: those without a valid verdict.
        num_dropped: prompts that do not count, because a verdict is malformed or missing.
        win_rate: percent; mean preference for the model, orders averaged first.
        standard_error: of the win rate, percentage points.
        wins: prompts whose averaged preference is above one half.
        ties: exactly one half.
        losses: below one half.
        discrete_win_rate: percent; wins plus half of the ties.
        length_controlled: the win rate at equal lengths, see `LengthControlled`; None for too few prompts.
        model_answers: what the model's answers look like.
        baseline_answers: likewise.
        trust: how far this judge can be trusted on this pair.
        findings: what a reader must know beside the figures, one sentence each.
    """

    model: str
    baseline: str
    num_prompts: int
    num_judgments: int
    num_malformed: int
    num_dropped: int
    win_rate: Estimate
    standard_error: float
    wins: int
    ties: int
    losses: int
    discrete_win_rate: Estimate
    length_controlled: LengthControlled | None
    model_answers: AnswerSummary
    baseline_answers: AnswerSummary
    trust: JudgeTrust
    findings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Win rate of one model minus that of another, over the prompts that both have.

    Attributes:
        model: the first.
        other: the second.
        baseline: what both were compared with.
        num_prompts: prompts that count for both.
        difference: percentage points.
    """

    model: str
    other: str
    baseline: str
    num_prompts: int
    difference: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRateMatrix:
    """Every model against every other.

    Attributes:
        names: rows and columns.
        win_rates: percent, of the row's model against the column's; None where the two were not compared.
        strengths: Bradley-Terry strengths, natural log of odds, mean 0; None where some models were never compared,
            not even through others.
    """

    names: tuple[str, ...]
    win_rates: tuple[tuple[float | None, ...], ...]
    strengths: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All that a set of judgments says.

    Attributes:
        results: one for each pair of model and baseline, in the order of the judgments.
        differences: between any two models with the same baseline.
        matrix: of all win rates; None for a single pair.
    """

    results: tuple[WinRateResult, ...]
    differences: tuple[PairedDifference, ...]
    matrix: WinRateMatrix | None


def compare_models(judgments: Iterable[Judgment], *, seed: int = 0) -> Comparison:
    """Compute every figure from judgments.

    Args:
        judgments: of any number of pairs of model and baseline, in any order.
        seed: of the bootstrap.
    """
    pairs: dict[tuple[str, str], list[Judgment]] = {}
    for judgment in judgments:
        pairs.setdefault((judgment.model, judgment.baseline), []).append(judgment)
    results = tuple(_win_rate(found, seed=seed) for found in pairs.values() if prompt_preferences(found))
    preferences = {pair: prompt_preferences(found) for pair, found in pairs.items()}
    return Comparison(
        results=results,
        differences=tuple(_differences(preferences, seed=seed)),
        matrix=_matrix(results) if len(results) > 1 else None,
    )


def prompt_preferences(judgments: Sequence[Judgment]) -> dict[str, float]:
    """Preference for the model on every prompt that counts, 0 to 1, orders averaged.

    A prompt counts when each order in which this pair was judged has a valid verdict for it: half of a pair of orders
    would bring in the judge's taste for a position.

    Args:
        judgments: of one model and one baseline.
    """
    orders = {judgment.order for judgment in judgments if not judgment.identical}
    by_prompt: dict[str, dict[str, float | None]] = {}
    for judgment in judgments:
        by_prompt.setdefault(judgment.prompt_id, {})[judgment.order] = judgment.preference
        if judgment.identical:
            by_prompt[judgment.prompt_id] = dict.fromkeys(orders or {judgment.order}, judgment.preference)
    averaged = {}
    for prompt_id, verdicts in by_prompt.items():
        valid = [preference for preference in verdicts.values() if preference is not None]
        if len(valid) == max(len(orders), 1):
            averaged[prompt_id] = sum(valid) / len(valid)
    return averaged


def _win_rate(judgments: Sequence[Judgment], *, seed: int) -> WinRateResult:
    # Sorted, so that intervals do not depend on the order in which verdicts came.
    preferences = dict(sorted(prompt_preferences(judgments).items()))
    values = np.array(list(preferences.values()))
    discrete = np.where(values > 0.5, 1.0, np.where(values == 0.5, 0.5, 0.0))
    first = {judgment.prompt_id: judgment for judgment in reversed(judgments)}
    model_facts = [first[prompt_id].model_answer for prompt_id in preferences]
    baseline_facts = [first[prompt_id].baseline_answer for prompt_id in preferences]
    length_controlled = own_prompts_length_control(
        values,
        np.array([facts.chars for facts in model_facts]),
        np.array([facts.chars for facts in baseline_facts]),
        seed=seed,
    )
    num_malformed = sum(judgment.preference is None for judgment in judgments)
    trust = judge_trust(judgments)
    findings = [*_findings_about_size(len(values), num_malformed, len(judgments)), *trust.findings]
    if length_controlled is not None:
        findings += length_controlled.findings
    return WinRateResult(
        model=judgments[0].model,
        baseline=judgments[0].baseline,
        num_prompts=len(values),
        num_judgments=len(judgments),
        num_malformed=num_malformed,
        num_dropped=len(first) - len(values),
        win_rate=_percent(mean_estimate(values, bounds=(0, 1), seed=seed)),
        standard_error=100 * standard_error(values),
        wins=int(np.sum(values > 0.5)),
        ties=int(np.sum(values == 0.5)),
        losses=int(np.sum(values < 0.5)),
        discrete_win_rate=_percent(mean_estimate(discrete, bounds=(0, 1), seed=seed)),
        length_controlled=length_controlled,
        model_answers=_summary(model_facts),
        baseline_answers=_summary(baseline_facts),
        trust=trust,
        findings=tuple(findings),
    )


def _findings_about_size(num_prompts: int, num_malformed: int, num_judgments: int) -> list[str]:
    findings = []
    if num_prompts < FEW_PROMPTS:
        findings.append(
            f"only {num_prompts} prompts count: fewer than {FEW_PROMPTS} say little, whatever the interval"
        )
    if num_malformed > _MANY_MALFORMED * num_judgments:
        findings.append(
            f"{num_malformed} of {num_judgments} verdicts are malformed: the figures are about the other prompts"
        )
    return findings


def _percent(estimate: Estimate) -> Estimate:
    return Estimate(100 * estimate.value, 100 * estimate.low, 100 * estimate.high)


def _summary(facts: Sequence[AnswerFacts]) -> AnswerSummary:
    return AnswerSummary(
        mean_chars=sum(answer.chars for answer in facts) / len(facts),
        cut=_share([answer.cut for answer in facts]),
        refused=_share([answer.refused for answer in facts]),
        empty=sum(answer.chars == 0 for answer in facts) / len(facts),
    )


def _share(flags: Sequence[bool | None]) -> float | None:
    known = [flag for flag in flags if flag is not None]
    return sum(known) / len(known) if known else None


def _differences(
    preferences: Mapping[tuple[str, str], Mapping[str, float]], *, seed: int
) -> Iterable[PairedDifference]:
    for (pair, own), (other_pair, others) in itertools.combinations(preferences.items(), 2):
        shared = sorted(own.keys() & others.keys())
        if pair[1] != other_pair[1] or not shared:
            continue
        gaps = np.array([own[prompt_id] - others[prompt_id] for prompt_id in shared])
        bootstrap = PromptBootstrap(len(gaps), seed=seed)
        estimate = Estimate(float(gaps.mean()), *bootstrap.interval(bootstrap.means(gaps)))
        yield PairedDifference(
            model=pair[0],
            other=other_pair[0],
            baseline=pair[1],
            num_prompts=len(shared),
            difference=_percent(estimate),
        )


def _matrix(results: Sequence[WinRateResult]) -> WinRateMatrix:
    names = list(dict.fromkeys(itertools.chain.from_iterable((r.model, r.baseline) for r in results)))
    wins = np.zeros((len(names), len(names)))
    for result in results:
        row, column = names.index(result.model), names.index(result.baseline)
        share = result.win_rate.value / 100
        wins[row, column] += share * result.num_prompts
        wins[column, row] += (1 - share) * result.num_prompts
    games = wins + wins.T
    fitted = strengths(wins)
    return WinRateMatrix(
        names=tuple(names),
        win_rates=tuple(
            tuple(
                float(100 * wins[i, j] / games[i, j]) if i != j and games[i, j] > 0 else None
                for j in range(len(names))
            )
            for i in range(len(names))
        ),
        strengths=None if fitted is None else tuple(float(value) for value in fitted),
    )
