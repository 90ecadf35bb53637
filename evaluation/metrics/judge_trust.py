"""How far a judge can be trusted: does it agree with itself in both orders, and with labels where there are any."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.judgments import Judgment

# Above this share of verdicts for one position the position has decided, not the answers.
_ONE_SIDED = 0.95

_ENOUGH_VERDICTS = 10

# Coin tosses agree in half of the pairs.
_LOW_CONSISTENCY = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeTrust:
    """Whether a judge says the same when the answers change places.

    Attributes:
        num_pairs: prompts with valid verdicts in both orders; pairs of identical answers are left out.
        consistency: share of those with the same winner, or a tie, in both orders; None without any.
        first_share: share of all verdicts, ties left out, for the answer that was shown first; None without any.
        findings: what a reader must know, one sentence each.
    """

    num_pairs: int
    consistency: float | None
    first_share: float | None
    findings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeAgreement:
    """How often a judge agrees with labels.

    Attributes:
        num_pairs: labelled pairs that were judged.
        num_malformed: verdicts without a winner.
        accuracy: share of all verdicts that name the labelled winner, both orders; a tie counts half, a malformed
            verdict as wrong.
        accuracy_chosen_first: where the labelled winner was shown first; None where it never was.
        accuracy_rejected_first: where the labelled loser was shown first; None where it never was.
        both_correct: share of the pairs judged in both orders with the right winner in both; None without any.
        consistency: share of those with the same verdict in both orders; None without any.
    """

    num_pairs: int
    num_malformed: int
    accuracy: float
    accuracy_chosen_first: float | None
    accuracy_rejected_first: float | None
    both_correct: float | None
    consistency: float | None


def judge_trust(judgments: Sequence[Judgment]) -> JudgeTrust:
    """Consistency and taste for a position, from judgments of one pair of models, or of several."""
    judged = [judgment for judgment in judgments if not judgment.identical]
    first_wins = [
        (judgment.preference > 0.5) == (judgment.order == "model_first")
        for judgment in judged
        if judgment.order != "separate" and judgment.preference not in (None, 0.5)
    ]
    same = [_winner(one) == _winner(other) for one, other in _both_orders(judged) if _valid(one, other)]
    consistency = sum(same) / len(same) if same else None
    first_share = sum(first_wins) / len(first_wins) if first_wins else None
    findings = []
    one_sided = first_share is not None and max(first_share, 1 - first_share) >= _ONE_SIDED
    if one_sided and len(first_wins) >= _ENOUGH_VERDICTS and _saw_both_orders(judged):
        place = "first" if first_share and first_share > 0.5 else "second"
        findings.append(
            f"the judge prefers the answer shown {place} in {max(sum(first_wins), len(first_wins) - sum(first_wins))} "
            f"of {len(first_wins)} verdicts: it judges the position, not the answers"
        )
    elif consistency is not None and len(same) >= _ENOUGH_VERDICTS and consistency < _LOW_CONSISTENCY:
        findings.append(
            f"the judge names the same winner in both orders for {consistency:.0%} of the prompts only: "
            "much of the win rate is noise"
        )
    return JudgeTrust(
        num_pairs=len(same), consistency=consistency, first_share=first_share, findings=tuple(findings)
    )


def judge_agreement(judgments: Sequence[Judgment]) -> JudgeAgreement:
    """Agreement with labels: judgments whose model is the labelled winner and whose baseline is the loser."""
    if not judgments:
        raise ValueError("no judgments of labelled pairs")
    chosen_first = [_credit(judgment) for judgment in judgments if judgment.order == "model_first"]
    rejected_first = [_credit(judgment) for judgment in judgments if judgment.order == "baseline_first"]
    both = _both_orders(judgments)
    return JudgeAgreement(
        num_pairs=len({judgment.prompt_id for judgment in judgments}),
        num_malformed=sum(judgment.preference is None for judgment in judgments),
        accuracy=_mean([_credit(judgment) for judgment in judgments]) or 0.0,
        accuracy_chosen_first=_mean(chosen_first),
        accuracy_rejected_first=_mean(rejected_first),
        both_correct=_mean([float(_credit(one) == _credit(other) == 1) for one, other in both]),
        consistency=_mean(
            [float(_valid(one, other) and _winner(one) == _winner(other)) for one, other in both]
        ),
    )


def _both_orders(judgments: Sequence[Judgment]) -> list[tuple[Judgment, Judgment]]:
    model_first = {j.key[:3]: j for j in judgments if j.order == "model_first"}
    baseline_first = {j.key[:3]: j for j in judgments if j.order == "baseline_first"}
    return [(model_first[key], baseline_first[key]) for key in model_first if key in baseline_first]


def _saw_both_orders(judgments: Sequence[Judgment]) -> bool:
    return {"model_first", "baseline_first"} <= {judgment.order for judgment in judgments}


def _valid(one: Judgment, other: Judgment) -> bool:
    return one.preference is not None and other.preference is not None


def _winner(judgment: Judgment) -> int:
    preference = judgment.preference
    return 0 if preference is None or preference == 0.5 else 1 if preference > 0.5 else -1


def _credit(judgment: Judgment) -> float:
    if judgment.preference is None:
        return 0.0
    return {1: 1.0, 0: 0.5, -1: 0.0}[_winner(judgment)]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
