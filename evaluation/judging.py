"""Have pairs of answers judged, each order once, every verdict on disk as soon as it is known."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.errors import DataError
from data.preferences.messages import PreferenceRow, as_turns
from data.preferences.reader import read_preferences
from data.progress import Progress
from evaluation.answers import Answer, AnswerSet, prompt_text
from evaluation.judges.contract import Judge, JudgeRequest, Verdict
from evaluation.judgments import AnswerFacts, Judgment, JudgmentFile, Order
from evaluation.metrics.refusals import is_refusal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt with the answers of a model and its baseline."""

    row: PreferenceRow
    model: str
    baseline: str
    model_answer: Answer
    baseline_answer: Answer


def pair_questions(
    rows: Sequence[PreferenceRow], pairs: Sequence[tuple[str, str]], answers: dict[str, AnswerSet]
) -> list[Question]:
    """The questions of several pairs of models; prompts that one of a pair has no answer to are left out."""
    return [
        Question(
            row, model, baseline, answers[model].answers[row.pair_id], answers[baseline].answers[row.pair_id]
        )
        for model, baseline in pairs
        for row in rows
        if row.pair_id in answers[model].answers and row.pair_id in answers[baseline].answers
    ]


def labelled_questions(source: str) -> list[Question]:
    """Labelled pairs as questions: the chosen answer is the model `chosen`, the other the baseline `rejected`.

    Raises:
        DataError: for a source that is not preference data.
    """
    return [
        Question(row, "chosen", "rejected", _as_answer(row.chosen), _as_answer(row.rejected))
        for row in read_preferences(source, need="pair")
    ]


def _as_answer(said: object) -> Answer:
    if said is None:
        raise DataError("--judge-check: a row without both answers; every row must have chosen and rejected")
    turns = as_turns(said, "assistant")  # pyright: ignore[reportArgumentType]
    return Answer("\n\n".join(turn.content for turn in turns if turn.content), 0, "stop")


def answer_questions(judge: Judge, questions: Sequence[Question], file: JudgmentFile) -> None:
    """Have all questions judged that the file does not hold yet.

    Answers that are equal, character for character, are ties and no judge is asked. Verdicts that were stored before an
    error stay stored.

    Args:
        judge: who judges.
        questions: what is to be judged.
        file: takes the judgments.
    Raises:
        AdpaError: whatever the judge raises.
    """
    requests: list[JudgeRequest] = []
    places: list[tuple[Question, Order]] = []
    num_found = num_identical = 0
    for question in questions:
        if question.model_answer.text == question.baseline_answer.text:
            num_identical += 1
            file.append([_judgment(question, judge.orders[0], judge, preference=0.5, identical=True)])
            continue
        for order in judge.orders:
            key = (question.model, question.baseline, question.row.pair_id, order)
            if key in file:
                num_found += 1
                continue
            sides = (question.model_answer, question.baseline_answer)
            first, second = reversed(sides) if order == "baseline_first" else sides
            requests.append(JudgeRequest(question.row, first, second))
            places.append((question, order))
    logger.info(
        "%s: %s judgments, %s of them stored before; %s pairs of equal answers are ties",
        *(judge.identity, f"{len(requests) + num_found:,}", f"{num_found:,}", f"{num_identical:,}"),
    )
    if not requests:
        return
    if (cost := judge.plan(requests)) is not None:
        logger.info("%s: %s", judge.identity, cost)
    num_malformed = 0
    try:
        for index, verdict in _progress(judge, requests):
            question, order = places[index]
            preference = verdict.preference
            num_malformed += preference is None
            if preference is not None and order == "baseline_first":
                preference = 1 - preference
            said = {"verdict": verdict.text, "logprobs": verdict.logprobs, "scores": verdict.scores}
            file.append([_judgment(question, order, judge, preference=preference, **said)])
    finally:
        if (cost := judge.spent()) is not None:
            logger.info("%s: %s", judge.identity, cost)
    if num_malformed:
        logger.warning(
            "%s: %s of %s verdicts are malformed; they are stored and count for neither answer",
            *(judge.identity, f"{num_malformed:,}", f"{len(requests):,}"),
        )


def _progress(judge: Judge, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Verdict]]:
    with Progress("judging", unit="verdicts", total=len(requests)) as progress:
        for found in judge.judge(requests):
            progress.update()
            yield found


def _judgment(question: Question, order: Order, judge: Judge, **verdict: object) -> Judgment:
    return Judgment(
        prompt_id=question.row.pair_id,
        instruction=prompt_text(question.row.prompt),
        model=question.model,
        baseline=question.baseline,
        order=order,
        judge=str(judge.identity),
        model_answer=_facts(question.model_answer),
        baseline_answer=_facts(question.baseline_answer),
        **verdict,  # pyright: ignore[reportArgumentType]
    )


def _facts(answer: Answer) -> AnswerFacts:
    return AnswerFacts(chars=len(answer.text), cut=answer.is_cut, refused=is_refusal(answer.text))
