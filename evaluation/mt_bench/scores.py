"""MT-Bench's tables from judgments: turns, average, categories; wins, losses and ties.

The average is the mean over all valid judgments, not of the two turns' means, as FastChat computes it; the two differ
where a turn has malformed verdicts. FastChat appends on a rerun and then counts a question twice; here it counts once,
and `duplicates="all"` gives FastChat's figure.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from evaluation.metrics.statistics import FEW_PROMPTS, Estimate, PromptBootstrap, mean_estimate
from evaluation.mt_bench.files import PairJudgment, Question, SingleJudgment, category_of

Duplicates = Literal["once", "all"]

_Row = TypeVar("_Row", SingleJudgment, PairJudgment)

# As FastChat reads a verdict: two brackets, else one.
_SCORE = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelScores:
    """One model's line.

    Attributes:
        model: its name.
        turn_1: mean score of first turns, 1 to 10; None without any.
        turn_2: of second turns.
        average: mean over all valid judgments, with a 95% interval over questions.
        categories: mean score by category, over both turns.
        num_judgments: judgments that count, malformed ones included.
        num_malformed: those without a score.
        num_duplicates: further judgments of a question and turn that was judged before.
        findings: what a reader must know, one sentence each.
    """

    model: str
    turn_1: float | None
    turn_2: float | None
    average: Estimate | None
    categories: dict[str, float]
    num_judgments: int
    num_malformed: int
    num_duplicates: int
    findings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTable:
    """One model against one other, or against all others.

    Attributes:
        model: its name.
        other: the other one; None for all of them together.
        wins: judgments won in both orders.
        losses: lost in both orders.
        ties: ties in both orders, and verdicts that change with the order.
        num_malformed: judgments left out because a verdict has no winner.
        num_duplicates: further judgments of the same question, turn and pair.
        win_rate: percent; wins among all.
        loss_rate: percent; losses among all.
        adjusted_win_rate: percent; wins and half of the ties among all.
        consistency: share of the judgments with the same verdict in both orders.
    """

    model: str
    other: str | None
    wins: int
    losses: int
    ties: int
    num_malformed: int
    num_duplicates: int
    win_rate: float
    loss_rate: float
    adjusted_win_rate: float
    consistency: float


def parse_score(text: str) -> float:
    """The score in a judge's text, `[[7]]` or `[7]`, the first one; -1 where there is none."""
    for pattern in _SCORE:
        if found := pattern.search(text):
            return float(found.group(1))
    return -1.0


def parse_winner(text: str) -> str:
    """`A`, `B` or `tie` from `[[A]]`, `[[B]]` or `[[C]]` in a judge's text, looked for in this order; else `error`."""
    for letter, winner in (("A", "A"), ("B", "B"), ("C", "tie")):
        if f"[[{letter}]]" in text:
            return winner
    return "error"


def score_models(
    judgments: Iterable[SingleJudgment],
    *,
    questions: Sequence[Question] | None = None,
    duplicates: Duplicates = "once",
    seed: int = 0,
) -> list[ModelScores]:
    """One line for each model, in the order in which they come.

    Args:
        judgments: of any number of models; those of several judges must not be mixed.
        questions: for the categories; None goes by the public file's numbering.
        duplicates: `once` counts a question and turn once, the last valid judgment of it; `all` counts every row.
        seed: of the bootstrap.
    """
    by_model: dict[str, list[SingleJudgment]] = {}
    for judgment in judgments:
        by_model.setdefault(judgment.model, []).append(judgment)
    return [_scores(model, found, questions, duplicates, seed) for model, found in by_model.items()]


def _scores(
    model: str,
    judgments: list[SingleJudgment],
    questions: Sequence[Question] | None,
    duplicates: Duplicates,
    seed: int,
) -> ModelScores:
    counted, num_duplicates = (
        _once(judgments) if duplicates == "once" else (judgments, _num_repeated(judgments))
    )
    valid = [judgment for judgment in counted if not judgment.is_malformed]
    by_category: dict[str, list[float]] = {}
    for judgment in valid:
        if (category := category_of(judgment.question_id, questions)) is not None:
            by_category.setdefault(category, []).append(judgment.score)
    num_malformed = len(counted) - len(valid)
    findings = []
    if num_malformed:
        findings.append(f"{num_malformed} of {len(counted)} verdicts have no score and are left out")
    if num_duplicates and duplicates == "once":
        findings.append(
            f"{num_duplicates} judgments repeat a question and turn; each counts once, with its last score"
        )
    num_questions = len({judgment.question_id for judgment in valid})
    if num_questions < FEW_PROMPTS:
        findings.append(
            f"only {num_questions} questions count: fewer than {FEW_PROMPTS} say little, whatever the interval"
        )
    return ModelScores(
        model=model,
        turn_1=_mean([judgment.score for judgment in valid if judgment.turn == 1]),
        turn_2=_mean([judgment.score for judgment in valid if judgment.turn == 2]),
        average=_average(valid, seed) if valid else None,
        categories={category: sum(scores) / len(scores) for category, scores in by_category.items()},
        num_judgments=len(counted),
        num_malformed=num_malformed,
        num_duplicates=num_duplicates,
        findings=tuple(findings),
    )


def _average(judgments: Sequence[SingleJudgment], seed: int) -> Estimate:
    """Mean over judgments, resampled by question: both turns of one go together."""
    sums: dict[int, list[float]] = {}
    for judgment in judgments:
        sums.setdefault(judgment.question_id, []).append(judgment.score)
    totals = np.array([sum(scores) for scores in sums.values()])
    sizes = np.array([len(scores) for scores in sums.values()])
    value = float(totals.sum() / sizes.sum())
    if (sizes == sizes[0]).all():
        estimate = mean_estimate(totals / sizes[0], seed=seed)
        return Estimate(value, estimate.low, estimate.high)
    bootstrap = PromptBootstrap(len(totals), seed=seed)
    means = bootstrap.means(np.column_stack([totals, sizes]))
    return Estimate(value, *bootstrap.interval(means[:, 0] / means[:, 1]))


def pair_tables(judgments: Iterable[PairJudgment], *, duplicates: Duplicates = "once") -> list[PairTable]:
    """Every pair of models, then every model against all it met.

    A verdict counts where both orders have a winner; orders that disagree are a tie.

    Args:
        judgments: of any number of pairs.
        duplicates: see `score_models`.
    """
    counted = list(judgments)
    repeated = _num_repeated(counted)
    if duplicates == "once":
        counted, _ = _once(counted)
    groups: dict[tuple[str, str | None], list[tuple[int, bool]]] = {}
    malformed: dict[tuple[str, str | None], int] = {}
    for judgment in counted:
        outcome = _outcome(judgment)
        same = judgment.g1_winner == judgment.g2_winner
        for key, sign in (
            ((judgment.model_1, judgment.model_2), 1),
            ((judgment.model_1, None), 1),
            ((judgment.model_2, None), -1),
        ):
            groups.setdefault(key, [])
            if judgment.is_malformed:
                malformed[key] = malformed.get(key, 0) + 1
            else:
                groups[key].append((sign * outcome, same))
    pairs = [key for key in groups if key[1] is not None]
    overall = [key for key in groups if key[1] is None]
    return [_table(key, groups[key], malformed.get(key, 0), repeated) for key in (*pairs, *overall)]


def _table(
    key: tuple[str, str | None], outcomes: Sequence[tuple[int, bool]], num_malformed: int, num_duplicates: int
) -> PairTable:
    wins = sum(outcome == 1 for outcome, _ in outcomes)
    losses = sum(outcome == -1 for outcome, _ in outcomes)
    total = len(outcomes)
    ties = total - wins - losses
    share = 100 / total if total else 0.0
    return PairTable(
        model=key[0],
        other=key[1],
        wins=wins,
        losses=losses,
        ties=ties,
        num_malformed=num_malformed,
        num_duplicates=num_duplicates,
        win_rate=wins * share,
        loss_rate=losses * share,
        adjusted_win_rate=(wins + ties / 2) * share,
        consistency=sum(same for _, same in outcomes) / total if total else 0.0,
    )


def _outcome(judgment: PairJudgment) -> int:
    """1 where model_1 won in both orders, -1 where model_2 did, else 0."""
    if judgment.g1_winner != judgment.g2_winner:
        return 0
    return {"model_1": 1, "model_2": -1}.get(judgment.g1_winner, 0)


def _once(judgments: Sequence[_Row]) -> tuple[list[_Row], int]:
    """One judgment for each key, the last valid one, or the last one where none is valid; and how many went."""
    kept: dict[tuple[object, ...], _Row] = {}
    for judgment in judgments:
        earlier = kept.get(judgment.key)
        if earlier is None or earlier.is_malformed or not judgment.is_malformed:
            kept[judgment.key] = judgment
    return list(kept.values()), len(judgments) - len(kept)


def _num_repeated(judgments: Sequence[SingleJudgment] | Sequence[PairJudgment]) -> int:
    return len(judgments) - len({judgment.key for judgment in judgments})


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
