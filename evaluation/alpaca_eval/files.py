"""AlpacaEval's files: questions, model_outputs.json, annotations.json, instruction difficulties and gamed rows."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import EvaluationError
from data.files import write_atomic
from evaluation.metrics.length_control import GamedRows

#: Columns that every annotation has.
_ANNOTATED = ("instruction", "output_1", "output_2", "generator_1", "generator_2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One row of a question file or of model_outputs.json.

    Attributes:
        instruction: the question.
        output: the answer; empty in a question file without reference answers.
        generator: name of the model that answered.
        dataset: which part of the question set.
    """

    instruction: str
    output: str = ""
    generator: str = ""
    dataset: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One row of annotations.json.

    Attributes:
        instruction: the question.
        output_1: the baseline's answer.
        output_2: the model's answer.
        generator_1: name of the baseline.
        generator_2: name of the model.
        dataset: which part of the question set.
        annotator: name of the judge.
        preference: 1 for the baseline's answer to 2 for the model's; None where the judge gave no valid verdict.
        raw_completion: what the judge said, as it was stored.
    """

    instruction: str
    output_1: str
    output_2: str
    generator_1: str
    generator_2: str
    dataset: str = ""
    annotator: str = ""
    preference: float | None = None
    raw_completion: Any = None


def read_outputs(path: Path) -> list[Output]:
    """Read a question file (`alpaca_eval.json`) or a `model_outputs.json`.

    Raises:
        EvaluationError: for a file that cannot be read, or a row without a question.
    """
    outputs = []
    for number, row in enumerate(_rows(path)):
        texts = {name: row.get(name) or "" for name in ("output", "generator", "dataset")}
        instruction = row.get("instruction")
        if not isinstance(instruction, str) or not all(isinstance(text, str) for text in texts.values()):
            raise EvaluationError(
                f"{path}: row {number}: instruction, output, generator and dataset must be texts; is this a "
                "model_outputs.json or a question file of AlpacaEval?"
            )
        outputs.append(Output(instruction=instruction, **texts))
    return outputs


def write_outputs(path: Path, outputs: Iterable[Output]) -> None:
    """Write a `model_outputs.json` as AlpacaEval reads it."""
    _write_rows(path, map(asdict, outputs))


def read_annotations(path: Path) -> list[Annotation]:
    """Read an `annotations.json`. Rows without a valid preference are kept, with None.

    A preference of 0 is AlpacaEval's old way to write a draw, 1.5.

    Raises:
        EvaluationError: for a file that cannot be read, or a row of another form.
    """
    annotations = []
    for number, row in enumerate(_rows(path)):
        missing = [name for name in _ANNOTATED if not isinstance(row.get(name), str)]
        if missing:
            raise EvaluationError(
                f"{path}: row {number} has no text under {', '.join(missing)}; "
                "is this an annotations.json of AlpacaEval?"
            )
        texts = {name: row.get(name) or "" for name in (*_ANNOTATED, "dataset", "annotator")}
        preference = _preference(row.get("preference"), path, number)
        annotations.append(
            Annotation(**texts, preference=preference, raw_completion=row.get("raw_completion"))
        )
    return annotations


def write_annotations(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write an `annotations.json` as AlpacaEval reads it."""
    unknown = {"price_per_example": None, "time_per_example": None}
    _write_rows(path, ({**asdict(row), **unknown} for row in annotations))


def read_difficulty(path: Path, questions: Sequence[str] | None) -> dict[str, float] | list[float]:
    """Read `instruction_difficulty.csv`: a difficulty for each question.

    Args:
        path: a CSV with a column `instruction_difficulty`, and the question under `instruction` or its number, from 0,
            under `index` or in the first column.
        questions: the questions in the order of their numbers; None where they are not known.
    Returns:
        Difficulties by question; by number where the file has numbers only and `questions` is None.
    Raises:
        EvaluationError: for a file of another form, or one that has another number of questions.
    """
    rows = _csv_rows(path, "instruction_difficulty")
    values = [_number(row["instruction_difficulty"], path, line) for line, row in enumerate(rows, start=2)]
    if "instruction" in rows[0]:
        return _by_question([row["instruction"] for row in rows], values, path)
    first_column = next(iter(rows[0]))
    column = "index" if "index" in rows[0] else first_column
    numbered = list(range(len(rows)))
    if column != "instruction_difficulty":
        numbered = [int(_number(row[column], path, line)) for line, row in enumerate(rows, start=2)]
    if sorted(numbered) != list(range(len(rows))):
        raise EvaluationError(
            f"{path}: column {column!r} does not number the questions from 0 to {len(rows) - 1}"
        )
    by_number = [value for _, value in sorted(zip(numbered, values, strict=True))]
    if questions is None:
        return by_number
    if len(questions) != len(by_number):
        raise EvaluationError(
            f"{path}: {len(by_number)} difficulties for {len(questions)} questions; "
            "give the question file that it was made for"
        )
    return _by_question(questions, by_number, path)


def read_gamed_rows(path: Path, difficulty_by_number: Sequence[float] | None = None) -> GamedRows:
    """Read `df_gamed.csv`: judged answers of the baseline told to be verbose or concise.

    Args:
        path: a CSV with `preference` (0 to 1, or 1 to 2), `std_delta_len`, the question's number under `index`, and
            `instruction_difficulty` unless the next argument has it.
        difficulty_by_number: of the questions.
    Raises:
        EvaluationError: for a file of another form.
    """
    rows = [row for row in _csv_rows(path, "preference") if row["preference"]]
    missing = {"std_delta_len", "index"} - rows[0].keys()
    if missing:
        raise EvaluationError(
            f"{path}: no column {', '.join(sorted(missing))}; is this AlpacaEval's df_gamed.csv?"
        )

    def column(name: str) -> np.ndarray:
        return np.array([_number(row[name], path, line) for line, row in enumerate(rows, start=2)])

    preferences, numbers = column("preference"), column("index").astype(int)
    if preferences.max() > 1:
        preferences = preferences - 1
    if "instruction_difficulty" in rows[0]:
        difficulty = column("instruction_difficulty")
    elif difficulty_by_number is not None and numbers.max() < len(difficulty_by_number):
        difficulty = np.array([difficulty_by_number[number] for number in numbers])
    else:
        raise EvaluationError(
            f"{path}: no column instruction_difficulty; give AlpacaEval's instruction_difficulty.csv, too"
        )
    return GamedRows(preferences, np.tanh(column("std_delta_len")), difficulty, numbers)


def _by_question(questions: Sequence[str], values: Sequence[float], path: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for question, value in zip(questions, values, strict=True):
        if found.setdefault(question, value) != value:
            raise EvaluationError(
                f"{path}: the question {question[:60]!r} has two difficulties, {found[question]} and {value}"
            )
    return found


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_atomic(path, json.dumps(list(rows), indent=2, ensure_ascii=False) + "\n")


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON ({error})") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise EvaluationError(f"{path} is not a JSON list of objects with at least one of them")
    return rows


def _preference(value: Any, path: Path, number: int) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not (value == 0 or 1 <= value <= 2):
        raise EvaluationError(
            f"{path}: row {number}: preference {value!r} is neither null nor between 1 and 2"
        )
    return 1.5 if value == 0 else float(value)


def _csv_rows(path: Path, needed: str) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path} is not a CSV file ({error})") from error
    if not rows or needed not in rows[0]:
        raise EvaluationError(f"{path}: no rows with a column {needed!r}")
    return rows


def _number(text: str | None, path: Path, line: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise EvaluationError(f"{path}: line {line}: {text!r} is not a number")
    return value
