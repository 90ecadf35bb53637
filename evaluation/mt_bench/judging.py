"""Judging MT-Bench: scores of single answers, or which of two is better; the published structure in words of our own.

The first turn is judged by itself, the second with the whole dialogue. Math, reasoning and coding come with a reference
answer where there is one. A verdict is the number or letter in double brackets at the end of a short assessment.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from evaluation.judges.contract import ChatModel
from evaluation.mt_bench.files import ModelAnswer, PairJudgment, Question, SingleJudgment
from evaluation.mt_bench.scores import parse_score, parse_winner

__all__ = ["REFERENCE_CATEGORIES", "judge_pairs", "judge_single"]


logger = logging.getLogger(__name__)

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
        earlier: judgments of an earlier run; those with a score and the same text to judge are taken over.
    Returns:
        Judgments in the order of the answers, turn by turn.
    """
    by_id = {question.question_id: question for question in questions}
    known = {(found.key, found.user_prompt): found for found in earlier if not found.is_malformed}
    wanted: list[tuple[ModelAnswer, int, str, str]] = []
    for answer in answers:
        question = by_id.get(answer.question_id)
        if question is None:
            continue
        for turn in range(1, min(len(question.turns), len(answer.turns)) + 1):
            reference = _reference(question, references)
            name = "single" + ("-math" if reference else "") + ("-multi-turn" if turn > 1 else "")
            wanted.append((answer, turn, name, _single_prompt(question, answer, turn, reference)))
    asked = [
        place
        for place, (answer, turn, _, prompt) in enumerate(wanted)
        if ((answer.model, answer.question_id, turn), prompt) not in known
    ]
    texts: dict[int, str] = {}
    for number, reply in judge.write([wanted[place][3] for place in asked], max_new_tokens=_MAX_NEW_TOKENS):
        texts[asked[number]] = reply.text if reply.text is not None else f"$ERROR$ {reply.problem}"
    judgments = []
    for place, (answer, turn, name, prompt) in enumerate(wanted):
        if place not in texts:
            judgments.append(known[(answer.model, answer.question_id, turn), prompt])
            continue
        judgments.append(
            SingleJudgment(
                question_id=answer.question_id,
                model=answer.model,
                turn=turn,
                score=parse_score(texts[place]),
                judge=(judge.identity.name, f"adpa-{name}"),
                user_prompt=prompt,
                judgment=texts[place],
                tstamp=time.time(),
            )
        )
    return judgments


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
        earlier: judgments of an earlier run; valid ones with the same texts to judge are taken over.
    """
    known = {
        (found.key, found.g1_user_prompt, found.g2_user_prompt): found
        for found in earlier
        if not found.is_malformed
    }
    wanted: list[tuple[ModelAnswer, ModelAnswer, int, str, str, str]] = []
    for first, second in pairs:
        others = {answer.question_id: answer for answer in second}
        by_id = {answer.question_id: answer for answer in first}
        for question in questions:
            one, two = by_id.get(question.question_id), others.get(question.question_id)
            if one is None or two is None:
                continue
            for turn in range(1, min(len(question.turns), len(one.turns), len(two.turns)) + 1):
                reference = _reference(question, references)
                name = "pair" + ("-math" if reference else "") + ("-multi-turn" if turn > 1 else "")
                prompts = (
                    _pair_prompt(question, one, two, turn, reference),
                    _pair_prompt(question, two, one, turn, reference),
                )
                wanted.append((one, two, turn, name, *prompts))
    asked = [
        (place, order)
        for place, (one, two, turn, _, *prompts) in enumerate(wanted)
        if ((one.model, two.model, one.question_id, turn), *prompts) not in known
        for order in (0, 1)
    ]
    texts: dict[tuple[int, int], str] = {}
    prompts_asked = [wanted[place][4] if order == 0 else wanted[place][5] for place, order in asked]
    for number, reply in judge.write(prompts_asked, max_new_tokens=_MAX_NEW_TOKENS):
        texts[asked[number]] = reply.text if reply.text is not None else f"$ERROR$ {reply.problem}"
    judgments = []
    for place, (one, two, turn, name, first_prompt, second_prompt) in enumerate(wanted):
        if (place, 0) not in texts:
            judgments.append(
                known[(one.model, two.model, one.question_id, turn), first_prompt, second_prompt]
            )
            continue
        names = ({"A": "model_1", "B": "model_2"}, {"A": "model_2", "B": "model_1"})
        winners = []
        for order in (0, 1):
            verdict = parse_winner(texts[place, order])
            winners.append(names[order].get(verdict, verdict))
        judgments.append(
            PairJudgment(
                question_id=one.question_id,
                model_1=one.model,
                model_2=two.model,
                turn=turn,
                g1_winner=winners[0],
                g2_winner=winners[1],
                judge=(judge.identity.name, f"adpa-{name}"),
                g1_user_prompt=first_prompt,
                g1_judgment=texts[place, 0],
                g2_user_prompt=second_prompt,
                g2_judgment=texts[place, 1],
                tstamp=time.time(),
            )
        )
    return judgments


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
