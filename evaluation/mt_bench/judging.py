"""Judging MT-Bench: scores of single answers, or which of two is better; the published structure in words of our own.

The first turn is judged by itself, the second with the whole dialogue. Math, reasoning and coding come with a reference
answer where there is one. A verdict is the number or letter in double brackets at the end of a short assessment.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from evaluation.judges.contract import ChatModel
from evaluation.mt_bench.files import ModelAnswer, PairJudgment, Question, SingleJudgment
from evaluation.mt_bench.scores import parse_score, parse_winner

_Judgment = TypeVar("_Judgment", SingleJudgment, PairJudgment)

#: Categories whose answers are compared with a reference.
REFERENCE_CATEGORIES = ("math", "reasoning", "coding")

_MAX_NEW_TOKENS = 2048

_GRADE = """\
Grade an AI assistant's {which}. Consider whether it is helpful, relevant, correct, deep, creative and detailed enough \
for what was asked.{reference_hint} First assess it in a few sentences, as objectively as you can. Then give a grade \
from 1 to 10 on a line of its own, in exactly this form: Rating: [[5]]
"""

_COMPARE = """\
Two AI assistants have answered the same user. Decide which one did what was asked better: consider whether the \
answers are helpful, relevant, correct, deep, creative and detailed enough.{reference_hint} Their order and their \
length must not count, nor their names.{focus} First compare them in a few sentences, as objectively as you can. Then \
give your verdict on a line of its own: [[A]] if assistant A is better, [[B]] if assistant B is better, [[C]] for a tie.
"""

_REFERENCE_HINT = " A reference answer is given: find the mistakes by comparing with it."


def judge_single(
    judge: ChatModel,
    questions: Sequence[Question],
    answers: Sequence[ModelAnswer],
    references: Mapping[int, ModelAnswer],
    *,
    earlier: Iterable[SingleJudgment] = (),
) -> list[SingleJudgment]:
    """Score every turn of every answer.

    Args:
        judge: who is asked.
        questions: all of them.
        answers: of any number of models.
        references: reference answers by question.
        earlier: judgments of an earlier run; those with a score and the same text to judge are kept.
    Returns:
        Judgments in the order of the answers, turn by turn.
    """
    by_id = {question.question_id: question for question in questions}
    wanted = []
    for answer in answers:
        question = by_id.get(answer.question_id)
        if question is None:
            continue
        for turn in range(1, min(len(question.turns), len(answer.turns)) + 1):
            reference = _reference(question, references)
            wanted.append(
                SingleJudgment(
                    question_id=answer.question_id,
                    model=answer.model,
                    turn=turn,
                    score=-1,
                    judge=_name(judge, "single", reference, turn),
                    user_prompt=_single_prompt(question, answer, turn, reference),
                )
            )

    def with_verdict(judgment: SingleJudgment, text: str) -> SingleJudgment:
        score = parse_score(text)
        return dataclasses.replace(judgment, score=score, judgment=text, tstamp=time.time())

    return _judged(judge, wanted, earlier, lambda judgment: (judgment.user_prompt,), with_verdict)


def judge_pairs(
    judge: ChatModel,
    questions: Sequence[Question],
    pairs: Sequence[tuple[Sequence[ModelAnswer], Sequence[ModelAnswer]]],
    references: Mapping[int, ModelAnswer],
    *,
    earlier: Iterable[PairJudgment] = (),
) -> list[PairJudgment]:
    """Compare the answers of pairs of models, every turn in both orders.

    Args:
        judge: who is asked.
        questions: all of them.
        pairs: the answers of the one and of the other model.
        references: reference answers by question.
        earlier: judgments of an earlier run; valid ones with the same texts to judge are kept.
    """
    wanted = []
    for first, second in pairs:
        others = {answer.question_id: answer for answer in second}
        by_id = {answer.question_id: answer for answer in first}
        for question in questions:
            one, two = by_id.get(question.question_id), others.get(question.question_id)
            if one is None or two is None:
                continue
            for turn in range(1, min(len(question.turns), len(one.turns), len(two.turns)) + 1):
                reference = _reference(question, references)
                wanted.append(
                    PairJudgment(
                        question_id=question.question_id,
                        model_1=one.model,
                        model_2=two.model,
                        turn=turn,
                        g1_winner="error",
                        g2_winner="error",
                        judge=_name(judge, "pair", reference, turn),
                        g1_user_prompt=_pair_prompt(question, one, two, turn, reference),
                        g2_user_prompt=_pair_prompt(question, two, one, turn, reference),
                    )
                )

    def with_verdicts(judgment: PairJudgment, first_text: str, second_text: str) -> PairJudgment:
        winner_1, winner_2 = parse_winner(first_text), parse_winner(second_text)
        return dataclasses.replace(
            judgment,
            g1_winner={"A": "model_1", "B": "model_2"}.get(winner_1, winner_1),
            g2_winner={"A": "model_2", "B": "model_1"}.get(winner_2, winner_2),
            g1_judgment=first_text,
            g2_judgment=second_text,
            tstamp=time.time(),
        )

    return _judged(
        judge,
        wanted,
        earlier,
        lambda judgment: (judgment.g1_user_prompt, judgment.g2_user_prompt),
        with_verdicts,
    )


def _judged(
    judge: ChatModel,
    wanted: Sequence[_Judgment],
    earlier: Iterable[_Judgment],
    prompts_of: Callable[[_Judgment], tuple[str, ...]],
    complete: Callable[..., _Judgment],
) -> list[_Judgment]:
    """The judgments with their verdicts: valid ones with the same prompts are kept, the others asked for.

    Args:
        judge: who is asked.
        wanted: without verdicts.
        earlier: of an earlier run.
        prompts_of: the questions that a judgment asks.
        complete: a judgment with the texts that answer them.
    """
    known = {(found.key, prompts_of(found)): found for found in earlier if not found.is_malformed}
    places = [place for place, item in enumerate(wanted) if (item.key, prompts_of(item)) not in known]
    questions = [(place, prompt) for place in places for prompt in prompts_of(wanted[place])]
    texts: dict[int, str] = {}
    for number, reply in judge.write([prompt for _, prompt in questions], max_new_tokens=_MAX_NEW_TOKENS):
        texts[number] = reply.text if reply.text is not None else f"$ERROR$ {reply.problem}"
    said: dict[int, list[str]] = {place: [] for place in places}
    for number, (place, _) in enumerate(questions):
        said[place].append(texts[number])
    return [
        complete(item, *said[place]) if place in said else known[item.key, prompts_of(item)]
        for place, item in enumerate(wanted)
    ]


def _name(judge: ChatModel, kind: str, reference: ModelAnswer | None, turn: int) -> tuple[str, str]:
    """The judge and its prompt, as FastChat names prompts."""
    return (
        judge.identity.name,
        f"adpa-{kind}" + ("-math" if reference else "") + ("-multi-turn" if turn > 1 else ""),
    )


def _reference(question: Question, references: Mapping[int, ModelAnswer]) -> ModelAnswer | None:
    return references.get(question.question_id) if question.category in REFERENCE_CATEGORIES else None


def _single_prompt(question: Question, answer: ModelAnswer, turn: int, reference: ModelAnswer | None) -> str:
    which = (
        "answer to the question below"
        if turn == 1
        else "answer to the user's last question in the dialogue below"
    )
    parts = [_GRADE.format(which=which, reference_hint=_REFERENCE_HINT if reference else "")]
    if reference is not None:
        parts.append(_dialogue(question, reference, turn, "reference answer"))
    parts.append(_dialogue(question, answer, turn, "assistant's answer"))
    return "\n".join(parts)


def _pair_prompt(
    question: Question, first: ModelAnswer, second: ModelAnswer, turn: int, reference: ModelAnswer | None
) -> str:
    focus = (
        "" if turn == 1 else " Judge the answers to the user's last question, given the dialogue before it."
    )
    parts = [_COMPARE.format(reference_hint=_REFERENCE_HINT if reference else "", focus=focus)]
    if reference is not None:
        parts.append(_dialogue(question, reference, turn, "reference answer"))
    parts.append(_dialogue(question, first, turn, "assistant A's answer"))
    parts.append(_dialogue(question, second, turn, "assistant B's answer"))
    return "\n".join(parts)


def _dialogue(question: Question, answer: ModelAnswer, turn: int, whose: str) -> str:
    lines = []
    for number in range(turn):
        label = f" {number + 1}" if turn > 1 else ""
        lines += [f"[Question{label}]", question.turns[number], f"[The {whose}{label}]", answer.turns[number]]
    return "\n".join([*lines, f"[End of the {whose}]", ""])
