"""FastChat's files of MT-Bench: questions, answers, single and pairwise judgments; all of them JSON lines."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import EvaluationError
from data.files import write_atomic

# The public question file has ten questions of each category, in this order from number 81 on.
_CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
_FIRST_QUESTION = 81
_QUESTIONS_PER_CATEGORY = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of two turns.

    Attributes:
        question_id: its number.
        category: one of eight in the public file.
        turns: what the user says, first and then.
    """

    question_id: int
    category: str
    turns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelAnswer:
    """A model's answers to both turns of a question.

    Attributes:
        question_id: its number.
        model: who answered.
        turns: the answers.
        answer_id: any text that names this answer.
        tstamp: when it was written, seconds.
    """

    question_id: int
    model: str
    turns: tuple[str, ...]
    answer_id: str = ""
    tstamp: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleJudgment:
    """A score of one turn of one answer.

    Attributes, by the names and in the order of FastChat's lines:
        question_id: its number.
        model: who answered.
        judge: the judge and its prompt.
        user_prompt: what the judge was asked.
        judgment: what it wrote.
        score: 1 to 10; -1 for a verdict without one.
        turn: 1 or 2.
        tstamp: when, seconds.
    """

    question_id: int
    model: str
    judge: tuple[str, str] = ("", "")
    user_prompt: str = ""
    judgment: str = ""
    score: float
    turn: int
    tstamp: float = 0.0

    @property
    def is_malformed(self) -> bool:
        """Whether there is no score."""
        return self.score == -1

    @property
    def key(self) -> tuple[Any, ...]:
        """What two judgments of the same thing share."""
        return (self.model, self.question_id, self.turn)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairJudgment:
    """Which of two answers is better, asked in both orders.

    Attributes, by the names and in the order of FastChat's lines:
        question_id: its number.
        model_1: shown first in the first order.
        model_2: shown second in the first order.
        g1_winner: of the first order: `model_1`, `model_2`, `tie` or `error`.
        g2_winner: of the order changed, by the same names.
        judge: the judge and its prompt.
        g1_user_prompt: what the judge was asked.
        g1_judgment: what it wrote.
        g2_user_prompt: likewise, order changed.
        g2_judgment: likewise.
        turn: 1 or 2.
        tstamp: when, seconds.
    """

    question_id: int
    model_1: str
    model_2: str
    g1_winner: str
    g2_winner: str
    judge: tuple[str, str] = ("", "")
    g1_user_prompt: str = ""
    g1_judgment: str = ""
    g2_user_prompt: str = ""
    g2_judgment: str = ""
    turn: int
    tstamp: float = 0.0

    @property
    def is_malformed(self) -> bool:
        """Whether one of the two verdicts has no winner."""
        return "error" in (self.g1_winner, self.g2_winner)

    @property
    def key(self) -> tuple[Any, ...]:
        """What two judgments of the same thing share."""
        return (self.model_1, self.model_2, self.question_id, self.turn)


def category_of(question_id: int, questions: Sequence[Question] | None) -> str | None:
    """The category of a question: from the question file, or by the public file's numbering; None for others."""
    if questions is not None:
        return next((item.category for item in questions if item.question_id == question_id), None)
    place = (question_id - _FIRST_QUESTION) // _QUESTIONS_PER_CATEGORY
    return _CATEGORIES[place] if 0 <= place < len(_CATEGORIES) else None


def read_questions(path: Path) -> list[Question]:
    """Read `question.jsonl`.

    Raises:
        EvaluationError: for a file that cannot be read, a line of another form, a number twice.
    """
    questions = []
    for number, row in _lines(path):
        turns = row.get("turns")
        if (
            not isinstance(row.get("question_id"), int)
            or not isinstance(turns, list)
            or not turns
            or not all(isinstance(turn, str) for turn in turns)
        ):
            raise EvaluationError(
                f"{path}: line {number} has no question_id with turns; is this MT-Bench's question.jsonl?"
            )
        questions.append(
            Question(
                question_id=row["question_id"], category=str(row.get("category", "")), turns=tuple(turns)
            )
        )
    numbers = [question.question_id for question in questions]
    if len(set(numbers)) < len(numbers):
        repeated = next(number for number in numbers if numbers.count(number) > 1)
        raise EvaluationError(f"{path}: question {repeated} is there twice; leave one of them")
    return questions


def read_answers(path: Path) -> list[ModelAnswer]:
    """Read a `model_answer/MODEL.jsonl` or a file of reference answers; the first choice counts.

    A question that is there twice, from a rerun that appended, counts with its last line.

    Raises:
        EvaluationError: for a file that cannot be read, or a line of another form.
    """
    answers: dict[int, ModelAnswer] = {}
    for number, row in _lines(path):
        try:
            turns = tuple(str(turn) for turn in row["choices"][0]["turns"])
            answer = ModelAnswer(
                question_id=int(row["question_id"]),
                model=str(row["model_id"]),
                turns=turns,
                answer_id=str(row.get("answer_id", "")),
                tstamp=float(row.get("tstamp") or 0.0),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"{path}: line {number} is no answer with question_id, model_id and choices[0].turns ({error!r})"
            ) from error
        answers[answer.question_id] = answer
    return list(answers.values())


def write_answers(path: Path, answers: Iterable[ModelAnswer]) -> None:
    """Write `model_answer/MODEL.jsonl`, sorted by question, as FastChat does."""
    rows = [
        {
            "question_id": answer.question_id,
            "answer_id": answer.answer_id,
            "model_id": answer.model,
            "choices": [{"index": 0, "turns": list(answer.turns)}],
            "tstamp": answer.tstamp,
        }
        for answer in sorted(answers, key=lambda answer: answer.question_id)
    ]
    _write_lines(path, rows)


def read_judgments(path: Path) -> list[SingleJudgment] | list[PairJudgment]:
    """Read a file of judgments, single or pairwise; which of the two is seen in its first line.

    Every line is kept, also those of reruns that appended.

    Raises:
        EvaluationError: for a file that cannot be read or has no line, or a line of another form.
    """
    rows = list(_lines(path))
    if not rows:
        raise EvaluationError(f"{path} has no line; is it a file of judgments?")
    is_pairwise = "g1_winner" in rows[0][1]
    try:
        if is_pairwise:
            return [_pair(row, path, number) for number, row in rows]
        return [_single(row, path, number) for number, row in rows]
    except (KeyError, TypeError, ValueError) as error:
        form = "pairwise" if is_pairwise else "single"
        raise EvaluationError(f"{path}: a line is no {form} judgment of MT-Bench ({error!r})") from error


def _judge(row: Mapping[str, Any]) -> tuple[str, str]:
    judge = row.get("judge") or ("", "")
    name, *prompt = [judge] if isinstance(judge, str) else judge
    return str(name), str(prompt[0]) if prompt else ""


def _single(row: Mapping[str, Any], path: Path, number: int) -> SingleJudgment:
    score = row["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not (score == -1 or 0 <= score <= 10):
        raise EvaluationError(f"{path}: line {number}: score {score!r} is neither -1 nor between 0 and 10")
    return SingleJudgment(
        question_id=int(row["question_id"]),
        model=str(row["model"]),
        turn=int(row["turn"]),
        score=float(score),
        judge=_judge(row),
        user_prompt=str(row.get("user_prompt", "")),
        judgment=str(row.get("judgment", "")),
        tstamp=float(row.get("tstamp") or 0.0),
    )


def _pair(row: Mapping[str, Any], path: Path, number: int) -> PairJudgment:
    for name in ("g1_winner", "g2_winner"):
        if row[name] not in ("model_1", "model_2", "tie", "error"):
            raise EvaluationError(
                f"{path}: line {number}: {name} {row[name]!r} is not model_1, model_2, tie or error"
            )
    texts = ("g1_user_prompt", "g1_judgment", "g2_user_prompt", "g2_judgment")
    return PairJudgment(
        question_id=int(row["question_id"]),
        model_1=str(row["model_1"]),
        model_2=str(row["model_2"]),
        turn=int(row["turn"]),
        g1_winner=row["g1_winner"],
        g2_winner=row["g2_winner"],
        judge=_judge(row),
        tstamp=float(row.get("tstamp") or 0.0),
        **{name: str(row.get(name, "")) for name in texts},
    )


def write_judgments(path: Path, judgments: Iterable[SingleJudgment | PairJudgment]) -> None:
    """Write judgments as FastChat does: `judge: [model, prompt]`, `score` or `g1_winner` and `g2_winner`."""
    _write_lines(path, map(asdict, judgments))


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        # Not splitlines: that would break answers at U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8 text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}: line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise EvaluationError(f"{path}: line {number} is not a JSON object")
        yield number, row
