"""`adpa evaluate mt-bench`: answers and judgments in FastChat's forms, and the tables that follow from judgments.

A folder has `model_answer/MODEL.jsonl`, `model_judgment/JUDGE_single.jsonl` or `JUDGE_pair.jsonl`, `result.json` and
`table.md`.
"""

import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from data.errors import ConfigurationError, EvaluationError
from data.files import make_folder, sha256_file
from evaluation.judges.open import open_chat_model
from evaluation.language_model import ModelOpener, model_labels
from evaluation.mt_bench.answering import answer_questions
from evaluation.mt_bench.files import (
    ModelAnswer,
    PairJudgment,
    Question,
    SingleJudgment,
    read_answers,
    read_judgments,
    read_questions,
    write_answers,
    write_judgments,
)
from evaluation.mt_bench.judging import judge_pairs, judge_single
from evaluation.mt_bench.options import MtBenchOptions
from evaluation.mt_bench.scores import ModelScores, PairTable, pair_tables, score_models
from evaluation.result_files import stored_path, write_result
from evaluation.tables import markdown_table, with_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class MtBench:
    """What was found.

    Attributes:
        out: the folder.
        answers: files of answers that were written, by model.
        scores: of every judge and model with single judgments.
        pairs: of every judge with pairwise judgments.
        table: the figures as Markdown, or which files were written where nothing was judged.
    """

    out: Path
    answers: Mapping[str, Path]
    scores: Mapping[str, Sequence[ModelScores]]
    pairs: Mapping[str, Sequence[PairTable]]
    table: str


def evaluate_mt_bench(options: MtBenchOptions, open_model: ModelOpener) -> MtBench:
    """Answer, judge and count, as far as the options say; the same call continues where one stopped.

    Args:
        options: the command's.
        open_model: finds checkpoints and holds them in an engine.
    Raises:
        AdpaError: for files, models or a judge that cannot be used.
    """
    out = Path(options.out)
    make_folder(out)
    questions = None if options.questions is None else read_questions(Path(options.questions))
    request: dict[str, Any] = {"models": {}, "judge": None}
    written: dict[str, Path] = {}
    for name, label in model_labels(list(options.model)).items():
        assert questions is not None, "the options were checked"
        path = out / "model_answer" / f"{_file_name(label)}.jsonl"
        make_folder(path.parent)
        earlier = {answer.question_id: answer for answer in read_answers(path)} if path.exists() else {}
        with contextlib.closing(open_model(name, option="--model")) as model:
            answers, settings = answer_questions(
                model,
                questions,
                label=label,
                max_new_tokens=options.max_new_tokens,
                seed=options.seed,
                thinking=options.thinking,
                earlier=earlier,
            )
        write_answers(path, answers)
        request["models"][label] = settings
        written[label] = path
    files = [Path(path) for path in options.judgments]
    if options.has_judge:
        assert questions is not None, "the options were checked"
        answers = [read_answers(path) for path in (*written.values(), *map(Path, options.answers))]
        identity, path = _judge(options, questions, [found for found in answers if found], open_model, out)
        request["judge"] = identity
        files.append(path)
    if not files:
        lines = [f"{path}: {len(read_answers(path)):,} questions answered" for path in written.values()]
        hint = "judge them with --judge-model, or with FastChat; then count with --judgments"
        return MtBench(out=out, answers=written, scores={}, pairs={}, table="\n".join([*lines, hint]))
    inputs = {
        "judgments": [stored_path(path, out) for path in files],
        "questions": None if options.questions is None else str(Path(options.questions).resolve()),
        "duplicates": options.duplicates,
        "seed": options.seed,
    }
    scores, pairs, table = count_judgments(out, {**request, "inputs": inputs})
    return MtBench(out=out, answers=written, scores=scores, pairs=pairs, table=table)


def _judge(
    options: MtBenchOptions,
    questions: Sequence[Question],
    answers: Sequence[Sequence[ModelAnswer]],
    open_model: ModelOpener,
    out: Path,
) -> tuple[dict[str, Any], Path]:
    references: dict[int, ModelAnswer] = {}
    if options.reference_answers is not None:
        references = {answer.question_id: answer for answer in read_answers(Path(options.reference_answers))}
    if not answers:
        raise EvaluationError("no answers to judge: give --model with --questions, or --answers")
    with contextlib.closing(open_chat_model(options, open_model)) as judge:
        kind = "pair" if options.pairwise else "single"
        path = out / "model_judgment" / f"{_file_name(judge.identity.name)}_{kind}.jsonl"
        make_folder(path.parent)
        earlier = read_judgments(path) if path.exists() else []
        if options.pairwise:
            found: Sequence[SingleJudgment | PairJudgment] = judge_pairs(
                judge,
                questions,
                _pairs(answers, options.baseline),
                references,
                earlier=cast(list[PairJudgment], earlier),
            )
        else:
            flat = list(itertools.chain.from_iterable(answers))
            found = judge_single(
                judge, questions, flat, references, earlier=cast(list[SingleJudgment], earlier)
            )
        if not found:
            raise EvaluationError(
                "no answer belongs to a question of --questions; are both of one question set?"
            )
        # What earlier runs have judged of other models stays.
        judged = {judgment.key for judgment in found}
        write_judgments(path, [*(judgment for judgment in earlier if judgment.key not in judged), *found])
        return judge.identity.as_dict(), path


def _pairs(
    answers: Sequence[Sequence[ModelAnswer]], baseline: str | None
) -> list[tuple[Sequence[ModelAnswer], Sequence[ModelAnswer]]]:
    if baseline is None:
        if len(answers) < 2:
            raise ConfigurationError(
                "--pairwise needs the answers of two models: name two under --model or --answers"
            )
        return list(itertools.combinations(answers, 2))
    base = [found for found in answers if found[0].model == baseline]
    if not base:
        known = ", ".join(found[0].model for found in answers)
        raise ConfigurationError(
            f"--baseline: no answers of a model {baseline!r}; answers are there of {known}"
        )
    return [(found, base[0]) for found in answers if found is not base[0]]


def count_judgments(
    out: Path, request: Mapping[str, Any]
) -> tuple[dict[str, list[ModelScores]], dict[str, list[PairTable]], str]:
    """Compute the tables from judgment files and write them; nothing is judged.

    Args:
        out: the folder.
        request: what determined the judgments, and under `inputs` the files and settings of the count.
    Returns:
        Scores by judge, comparisons by judge, and the table.
    Raises:
        EvaluationError: for files that cannot be used.
    """
    inputs = request["inputs"]
    questions = None if inputs["questions"] is None else read_questions(Path(inputs["questions"]))
    singles: dict[str, list[SingleJudgment]] = {}
    comparisons: dict[str, list[PairJudgment]] = {}
    hashes = {}
    for name in inputs["judgments"]:
        hashes[name] = sha256_file(out / name)
        for judgment in read_judgments(out / name):
            # Judges must not be mixed; a judge's several prompts belong together.
            judge = judgment.judge[0]
            if isinstance(judgment, SingleJudgment):
                singles.setdefault(judge, []).append(judgment)
            else:
                comparisons.setdefault(judge, []).append(judgment)
    scores = {
        judge: score_models(found, questions=questions, duplicates=inputs["duplicates"], seed=inputs["seed"])
        for judge, found in singles.items()
    }
    pairs = {
        judge: pair_tables(found, duplicates=inputs["duplicates"]) for judge, found in comparisons.items()
    }
    table = mt_bench_table(scores, pairs)
    write_result(
        out,
        kind="mt-bench",
        request={**request, "judgment_hashes": hashes},
        figures={"scores": scores, "pairs": pairs},
        table=table,
    )
    return scores, pairs, table


def mt_bench_table(
    scores: Mapping[str, Sequence[ModelScores]], pairs: Mapping[str, Sequence[PairTable]]
) -> str:
    """The figures of every judge as Markdown."""
    sections = []
    for judge, rows in scores.items():
        sections.append(f"Scores by {judge or 'an unnamed judge'}, 1 to 10:")
        sections.append(_score_table(rows))
        if findings := [f"- {row.model}: {finding}" for row in rows for finding in row.findings]:
            sections.append("\n".join(findings))
    for judge, tables in pairs.items():
        sections.append(
            f"Comparisons by {judge or 'an unnamed judge'}; a verdict counts where both orders agree:"
        )
        sections.append(_pair_table(tables))
    return "\n\n".join(sections)


def _score_table(rows: Sequence[ModelScores]) -> str:
    categories = list(dict.fromkeys(itertools.chain.from_iterable(row.categories for row in rows)))
    header = ("model", "turn 1", "turn 2", "average (95% interval)", *categories, "malformed")
    cells = []
    for row in sorted(rows, key=lambda row: -(row.average.value if row.average else 0)):
        cells.append(
            (
                row.model,
                _score(row.turn_1),
                _score(row.turn_2),
                "" if row.average is None else with_interval(row.average, digits=2),
                *(_score(row.categories.get(category)) for category in categories),
                f"{row.num_malformed} of {row.num_judgments}",
            )
        )
    return markdown_table(header, cells)


def _pair_table(tables: Sequence[PairTable]) -> str:
    header = (
        "model",
        "against",
        "wins",
        "ties",
        "losses",
        "win rate, %",
        "with half of the ties, %",
        "same in both orders",
        "malformed",
    )
    cells = [
        (
            table.model,
            table.other or "all",
            f"{table.wins}",
            f"{table.ties}",
            f"{table.losses}",
            f"{table.win_rate:.1f}",
            f"{table.adjusted_win_rate:.1f}",
            f"{table.consistency:.1%}",
            f"{table.num_malformed}",
        )
        for table in tables
    ]
    return markdown_table(header, cells)


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _file_name(model: str) -> str:
    return re.sub(r"[^\w.+-]+", "--", model).strip("-.") or "model"
