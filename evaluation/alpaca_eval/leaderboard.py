"""A leaderboard row from annotations: win rate, its error, and the length-controlled win rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.errors import EvaluationError
from evaluation.alpaca_eval.files import Annotation, Output
from evaluation.metrics.length_control import GamedRows, LengthControlled, alpaca_length_control
from evaluation.metrics.statistics import FEW_PROMPTS, Estimate, mean_estimate, standard_error

Join = Literal["instruction", "position"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderboardRow:
    """One model's row; names and units are those of AlpacaEval's leaderboard where it has them.

    Attributes:
        model: name of the model.
        baseline: name of what it is compared with.
        annotator: name of the judge.
        win_rate: percent; mean preference for the model.
        interval: the win rate with its 95% interval over questions.
        standard_error: of the win rate, percentage points.
        n_wins: questions with a preference above 1.5.
        n_wins_base: below 1.5.
        n_draws: exactly 1.5.
        n_total: questions with a valid preference.
        n_null: questions without one; they count nowhere, except in the prediction of the length-controlled win rate.
        discrete_win_rate: percent; wins plus half of the draws.
        avg_length: mean length of the model's answers, characters, rounded down; over model_outputs.json where it was
            given, else over the annotated rows.
        length_controlled: None without difficulties.
        findings: what a reader must know, one sentence each.
    """

    model: str
    baseline: str
    annotator: str
    win_rate: float
    interval: Estimate
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    n_null: int
    discrete_win_rate: float
    avg_length: int
    length_controlled: LengthControlled | None
    findings: tuple[str, ...]


def leaderboard_row(
    annotations: Sequence[Annotation],
    *,
    outputs: Sequence[Output] | None = None,
    difficulty: Mapping[str, float] | Sequence[float] | None = None,
    gamed: GamedRows | None = None,
    question_numbers: Mapping[str, int] | None = None,
    join: Join = "instruction",
    c: float | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> LeaderboardRow:
    """Compute a row.

    Args:
        annotations: of one model against one baseline.
        outputs: the model's model_outputs.json, for the mean length.
        difficulty: by question, or by number; None leaves the length-controlled win rate out.
        gamed: regularising rows of the length control.
        question_numbers: place of each question in the question file; None takes the place among the annotations.
        join: how a question finds its difficulty. `position` takes row n's difficulty from the difficulty file's row n,
            as AlpacaEval does, also where rows are missing and every later one is then wrong.
        c: inverse strength of the length control's regularisation; None cross-validates.
        resamples: refits for the length-controlled interval; 0 makes none.
        seed: of the bootstraps.
    Raises:
        EvaluationError: for annotations of several models, of none with a valid preference, or questions without a
            difficulty.
    """
    models = {(row.generator_2, row.generator_1) for row in annotations}
    if len(models) != 1:
        raise EvaluationError(
            f"annotations of {len(models)} pairs of model and baseline in one file "
            f"({', '.join(sorted(model for model, _ in models))}); split it by generator_1 and generator_2"
        )
    ((model, baseline),) = models
    preferences = np.array([np.nan if row.preference is None else row.preference - 1 for row in annotations])
    valid = preferences[~np.isnan(preferences)]
    if not len(valid):
        raise EvaluationError(
            f"{model}: none of the {len(annotations)} annotations has a preference; judge them again"
        )
    wins, draws = int(np.sum(valid > 0.5)), int(np.sum(valid == 0.5))
    interval = mean_estimate(valid, bounds=(0, 1), seed=seed)
    findings = []
    if len(valid) < FEW_PROMPTS:
        findings.append(
            f"only {len(valid)} questions count: fewer than {FEW_PROMPTS} say little, whatever the interval"
        )
    if len(valid) < len(annotations):
        findings.append(
            f"{len(annotations) - len(valid)} of {len(annotations)} annotations have no preference and are dropped"
        )
    if repeated := len(annotations) - len({row.instruction for row in annotations}):
        findings.append(f"{repeated} annotations repeat a question; all of them count")
    controlled = None
    if difficulty is not None:
        numbers = _numbers(annotations, question_numbers, join)
        controlled = alpaca_length_control(
            preferences,
            np.array([len(row.output_2) for row in annotations]),
            np.array([len(row.output_1) for row in annotations]),
            _difficulty(annotations, difficulty, numbers, join),
            gamed,
            groups=numbers,
            c=c,
            resamples=resamples,
            seed=seed,
        )
        findings += controlled.findings
    lengths = [len(row.output) for row in outputs] if outputs else [len(row.output_2) for row in annotations]
    return LeaderboardRow(
        model=model,
        baseline=baseline,
        annotator=annotations[0].annotator,
        win_rate=100 * float(valid.mean()),
        interval=Estimate(100 * interval.value, 100 * interval.low, 100 * interval.high),
        standard_error=100 * standard_error(valid),
        n_wins=wins,
        n_wins_base=len(valid) - wins - draws,
        n_draws=draws,
        n_total=len(valid),
        n_null=len(annotations) - len(valid),
        discrete_win_rate=100 * (wins + draws / 2) / len(valid),
        avg_length=int(sum(lengths) / len(lengths)),
        length_controlled=controlled,
        findings=tuple(findings),
    )


def _numbers(
    annotations: Sequence[Annotation], question_numbers: Mapping[str, int] | None, join: Join
) -> np.ndarray:
    if question_numbers is None or join == "position":
        return np.arange(len(annotations))
    unknown = [row.instruction for row in annotations if row.instruction not in question_numbers]
    if unknown:
        raise EvaluationError(_unknown_questions(unknown, len(annotations), "the question file"))
    return np.array([question_numbers[row.instruction] for row in annotations])


def _difficulty(
    annotations: Sequence[Annotation],
    difficulty: Mapping[str, float] | Sequence[float],
    numbers: np.ndarray,
    join: Join,
) -> np.ndarray:
    if isinstance(difficulty, Mapping):
        if join == "position":
            by_position = list(difficulty.values())
            return np.array([by_position[number] for number in range(len(annotations))])
        unknown = [row.instruction for row in annotations if row.instruction not in difficulty]
        if unknown:
            raise EvaluationError(_unknown_questions(unknown, len(annotations), "the file of difficulties"))
        return np.array([difficulty[row.instruction] for row in annotations])
    if len(annotations) != len(difficulty) and join == "instruction":
        raise EvaluationError(
            f"{len(annotations)} annotations and {len(difficulty)} difficulties without questions: "
            "which belongs to which is unknown; give the question file, or join by position as AlpacaEval does"
        )
    if len(annotations) > len(difficulty):
        raise EvaluationError(
            f"{len(annotations)} annotations, but only {len(difficulty)} difficulties; are both of one question set?"
        )
    return np.array([difficulty[number] for number in numbers])


def _unknown_questions(unknown: Sequence[str], total: int, where: str) -> str:
    return (
        f"{len(unknown)} of {total} annotated questions are not in {where}, such as {unknown[0][:60]!r}; "
        "are both of one question set?"
    )
