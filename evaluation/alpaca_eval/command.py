"""`adpa evaluate alpaca-eval`: answers in the public form, annotations in the public form, the leaderboard's figures.

A folder has `MODEL/model_outputs.json` for every model that answered here, `MODEL/annotations.json` for every one that
was judged here, and `leaderboard.csv`, `result.json` and `table.md`, which follow from the annotations.
"""

import contextlib
import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError, EvaluationError
from data.files import make_folder, sha256_file, write_atomic
from data.preferences.messages import PreferenceRow
from evaluation.alpaca_eval.files import (
    Output,
    read_annotations,
    read_difficulty,
    read_gamed_rows,
    read_outputs,
    write_annotations,
    write_outputs,
)
from evaluation.alpaca_eval.judging import judge_outputs
from evaluation.alpaca_eval.leaderboard import LeaderboardRow, leaderboard_row
from evaluation.alpaca_eval.options import AlpacaEvalOptions
from evaluation.answers import generate_answers
from evaluation.judges.open import open_chat_model
from evaluation.language_model import ModelOpener, model_labels
from evaluation.result_files import stored_path, write_result
from evaluation.tables import markdown_table

logger = logging.getLogger(__name__)

OUTPUTS_FILE = "model_outputs.json"
ANNOTATIONS_FILE = "annotations.json"
LEADERBOARD_FILE = "leaderboard.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class AlpacaEval:
    """What was found.

    Attributes:
        out: the folder.
        outputs: files of answers that were written, by model.
        rows: the leaderboard; empty where nothing was judged.
        table: the rows as Markdown, or which files were written where there are none.
    """

    out: Path
    outputs: Mapping[str, Path]
    rows: Sequence[LeaderboardRow]
    table: str


def evaluate_alpaca_eval(options: AlpacaEvalOptions, open_model: ModelOpener) -> AlpacaEval:
    """Answer, judge and count, as far as the options say; the same call continues where one stopped.

    Args:
        options: the command's.
        open_model: finds checkpoints and holds them in an engine.
    Raises:
        AdpaError: for files, models or a judge that cannot be used.
    """
    out = Path(options.out)
    make_folder(out)
    request: dict[str, Any] = {"models": {}, "judge": None}
    written: dict[str, Path] = {}
    labels = model_labels(list(options.model))
    for name, label in labels.items():
        settings, outputs = _answer(name, label, options, open_model)
        request["models"][label] = settings
        written[label] = out / _folder_name(label) / OUTPUTS_FILE
        make_folder(written[label].parent)
        write_outputs(written[label], outputs)
    annotated = [Path(path) for path in options.annotations]
    if options.has_judge:
        baseline = _baseline(options)
        with contextlib.closing(open_chat_model(options, open_model)) as judge:
            request["judge"] = judge.identity.as_dict()
            for path in (*written.values(), *map(Path, options.outputs)):
                answers = read_outputs(path)
                target = out / _generator(answers, path) / ANNOTATIONS_FILE
                annotations = judge_outputs(judge, answers, baseline)
                make_folder(target.parent)
                write_annotations(target, annotations)
                annotated.append(target)
    if not annotated:
        lines = [f"{path}: {len(read_outputs(path)):,} answers" for path in written.values()]
        hint = "judge them with --judge-model, or with AlpacaEval; then count with --annotations"
        return AlpacaEval(out=out, outputs=written, rows=(), table="\n".join([*lines, hint]))
    inputs = {
        "annotations": [stored_path(path, out) for path in annotated],
        "questions": _absolute(options.questions),
        "outputs": [stored_path(path, out) for path in (*written.values(), *options.outputs)],
        "difficulty": _absolute(options.difficulty),
        "gamed": _absolute(options.gamed),
        "join": options.join,
        "inverse_regularization": options.inverse_regularization,
        "resamples": options.resamples,
        "seed": options.seed,
    }
    request = {**request, "inputs": inputs}
    rows, table = count_annotations(out, request)
    return AlpacaEval(out=out, outputs=written, rows=rows, table=table)


def count_annotations(out: Path, request: Mapping[str, Any]) -> tuple[list[LeaderboardRow], str]:
    """Compute the leaderboard from annotation files and write it; nothing is judged.

    Args:
        out: the folder.
        request: what determined the annotations, and under `inputs` the files and settings of the count.
    Returns:
        The rows, in the order of the files, and the table.
    Raises:
        EvaluationError: for files that cannot be used.
    """
    inputs = request["inputs"]
    questions = None
    if inputs["questions"] is not None:
        questions = [output.instruction for output in read_outputs(Path(inputs["questions"]))]
    difficulty = None
    if inputs["difficulty"] is not None:
        difficulty = read_difficulty(Path(inputs["difficulty"]), questions)
    gamed = None
    if inputs["gamed"] is not None:
        by_number = list(difficulty.values()) if isinstance(difficulty, Mapping) else difficulty
        gamed = read_gamed_rows(Path(inputs["gamed"]), by_number)
    outputs: dict[str, list[Output]] = {}
    for path in inputs["outputs"]:
        answers = read_outputs(out / path)
        outputs[answers[0].generator] = answers
    rows, hashes = [], {}
    for name in inputs["annotations"]:
        annotations = read_annotations(out / name)
        hashes[name] = sha256_file(out / name)
        rows.append(
            leaderboard_row(
                annotations,
                outputs=outputs.get(annotations[0].generator_2),
                difficulty=difficulty,
                gamed=gamed,
                question_numbers=None
                if questions is None
                else {question: number for number, question in enumerate(questions)},
                join=inputs["join"],
                c=inputs["inverse_regularization"],
                resamples=inputs["resamples"],
                seed=inputs["seed"],
            )
        )
    table = leaderboard_table(rows)
    write_result(
        out, kind="alpaca-eval", request={**request, "annotation_hashes": hashes}, figures=rows, table=table
    )
    write_atomic(out / LEADERBOARD_FILE, _leaderboard_csv(rows))
    return rows, table


def leaderboard_table(rows: Sequence[LeaderboardRow]) -> str:
    """The rows as Markdown, best first, with what a reader must know below."""
    header = (
        "model",
        "length-controlled, % (95% interval)",
        "win rate, % (95% interval)",
        "standard error",
        "win / draw / loss",
        "discrete, %",
        "mean characters",
        "questions",
    )
    cells = []
    for row in sorted(rows, key=lambda row: -_sort_value(row)):
        controlled = row.length_controlled
        cells.append(
            (
                row.model,
                "" if controlled is None else _interval(controlled.win_rate),
                _interval(row.interval),
                f"{row.standard_error:.2f}",
                f"{row.n_wins} / {row.n_draws} / {row.n_wins_base}",
                f"{row.discrete_win_rate:.2f}",
                f"{row.avg_length:,}",
                f"{row.n_total:,}",
            )
        )
    table = markdown_table(header, cells)
    findings = [f"- {row.model}: {finding}" for row in rows for finding in row.findings]
    return "\n\n".join([table, *(["\n".join(findings)] if findings else [])])


def _interval(estimate: Any) -> str:
    if estimate.low == estimate.high == estimate.value:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _sort_value(row: LeaderboardRow) -> float:
    return row.win_rate if row.length_controlled is None else row.length_controlled.win_rate.value


def _leaderboard_csv(rows: Sequence[LeaderboardRow]) -> str:
    """AlpacaEval's leaderboard form: the unnamed first column is the model's name."""
    text = io.StringIO()
    names = (
        "win_rate",
        "standard_error",
        "n_wins",
        "n_wins_base",
        "n_draws",
        "n_total",
        "discrete_win_rate",
        "mode",
        "avg_length",
        "length_controlled_winrate",
        "lc_standard_error",
    )
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("", *names))
    for row in rows:
        controlled = row.length_controlled
        values: dict[str, Any] = {
            **{name: getattr(row, name, "") for name in names},
            "mode": "community",
            "length_controlled_winrate": "" if controlled is None else controlled.win_rate.value,
            "lc_standard_error": "" if controlled is None else controlled.standard_error,
        }
        writer.writerow((row.model, *(values[name] for name in names)))
    return text.getvalue()


def _answer(
    name: str, label: str, options: AlpacaEvalOptions, open_model: ModelOpener
) -> tuple[dict[str, Any], list[Output]]:
    assert options.questions is not None, "the options were checked"
    questions = read_outputs(Path(options.questions))
    rows = [
        PreferenceRow(str(number), question.instruction, None, None, f"{options.questions} row {number}")
        for number, question in enumerate(questions)
    ]
    with contextlib.closing(open_model(name, option="--model")) as model:
        found = generate_answers(model, rows, options.generation, label=label)
    if found.unanswered:
        logger.warning("%s: %d questions have no answer and are left out", label, len(found.unanswered))
    outputs = [
        Output(
            instruction=question.instruction,
            output=found.answers[str(number)].text,
            generator=label,
            dataset=question.dataset,
        )
        for number, question in enumerate(questions)
        if str(number) in found.answers
    ]
    return {**found.settings, "sampling": asdict(options.generation)}, outputs


def _baseline(options: AlpacaEvalOptions) -> list[Output]:
    path = options.baseline_outputs or options.questions
    assert path is not None, "the options were checked"
    outputs = read_outputs(Path(path))
    if not any(output.output for output in outputs):
        raise ConfigurationError(
            f"--baseline-outputs: {path} has no answers; give the baseline's model_outputs.json"
        )
    return outputs


def _generator(answers: Sequence[Output], path: Path) -> str:
    names = {answer.generator for answer in answers}
    if len(names) != 1 or "" in names:
        raise EvaluationError(
            f"{path}: {len(names)} names under generator; a file has the answers of one named model"
        )
    return _folder_name(names.pop())


def _folder_name(model: str) -> str:
    """A hub name is two folders otherwise, and a name such as ../x leads out of the folder."""
    return model.replace("/", "--").lstrip(".") or "model"


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())
