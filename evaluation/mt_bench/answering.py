"""A model's answers to both turns of MT-Bench's questions, at the temperature of each question's category."""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from data.preferences.messages import Message, PreferenceRow
from evaluation.answers import GenerationSettings, generate_answers
from evaluation.language_model import LanguageModel
from evaluation.mt_bench.files import ModelAnswer, Question

logger = logging.getLogger(__name__)

#: As FastChat has them; what is not here is answered at 0.7.
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
_OTHER_TEMPERATURE = 0.7


def temperature_of(category: str) -> float:
    """Sampling temperature of a category."""
    return TEMPERATURES.get(category, _OTHER_TEMPERATURE)


def answer_questions(
    model: LanguageModel,
    questions: Sequence[Question],
    *,
    label: str,
    max_new_tokens: int,
    seed: int,
    thinking: str = "auto",
    earlier: Mapping[int, ModelAnswer] | None = None,
) -> tuple[list[ModelAnswer], dict[str, Any]]:
    """Answer every turn, each seeing the turns before it.

    Args:
        model: whose answers; those that are kept from before are not generated again.
        questions: of one turn or several.
        label: the model's name in the file.
        max_new_tokens: longest answer of a turn.
        seed: each answer's seed is derived from it.
        thinking: as in `GenerationSettings`.
        earlier: answers of an earlier run by question; one with the same turns keeps its time.
    Returns:
        The answers in the order of the questions, and what determined them. Questions whose dialogue a model has no
        room for are left out, with a message.
    """
    turns: dict[int, list[str]] = {question.question_id: [] for question in questions}
    settings: dict[str, Any] = {}
    lost: set[int] = set()
    for turn in range(max(len(question.turns) for question in questions)):
        for temperature in sorted({temperature_of(question.category) for question in questions}):
            asked = [
                question
                for question in questions
                if temperature_of(question.category) == temperature
                and turn < len(question.turns)
                and question.question_id not in lost
            ]
            if not asked:
                continue
            rows = [_row(question, turns[question.question_id]) for question in asked]
            drawing = GenerationSettings(
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=1.0,
                seed=seed,
                thinking=thinking,
            )
            found = generate_answers(model, rows, drawing, label=label)
            settings = {name: value for name, value in found.settings.items() if name != "sampling"}
            for question, row in zip(asked, rows, strict=True):
                if row.pair_id in found.answers:
                    turns[question.question_id].append(found.answers[row.pair_id].text)
                else:
                    lost.add(question.question_id)
    if lost:
        logger.warning("%s: no room for the dialogue of questions %s; they are left out", label, sorted(lost))
    answers = [
        _answer(question, turns[question.question_id], label, earlier or {})
        for question in questions
        if question.question_id not in lost
    ]
    settings["sampling"] = {
        "temperatures": TEMPERATURES,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "thinking": thinking,
    }
    return answers, settings


def _row(question: Question, answers: Sequence[str]) -> PreferenceRow:
    messages = []
    for said, answer in zip(question.turns, answers, strict=False):
        messages += [Message("user", said), Message("assistant", answer)]
    messages.append(Message("user", question.turns[len(answers)]))
    return PreferenceRow(
        str(question.question_id), tuple(messages), None, None, f"question {question.question_id}"
    )


def _answer(
    question: Question, turns: Sequence[str], label: str, earlier: Mapping[int, ModelAnswer]
) -> ModelAnswer:
    before = earlier.get(question.question_id)
    if before is not None and before.turns == tuple(turns) and before.model == label:
        return before
    content = "\0".join([label, str(question.question_id), *turns])
    return ModelAnswer(
        question_id=question.question_id,
        model=label,
        turns=tuple(turns),
        answer_id=hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:22],
        tstamp=time.time(),
    )
