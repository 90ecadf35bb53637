"""The published AlpacaEval and MT-Bench tables again, from published judgments: what differs, by how much.

AlpacaEval: a folder with `published.json` (leaderboard values by model, with the `C` of each), `models/MODEL.csv`
(index of the question, lengths of both answers, preference), `instruction_difficulty.csv` and a CSV of gamed rows.
MT-Bench: a folder with `expected.json` (tables by judgment file), the judgment files, and `question.jsonl`.
"""

import argparse
import csv
import gzip
import json
import tempfile
from pathlib import Path

from evaluation.alpaca_eval.files import Annotation, read_difficulty, read_gamed_rows
from evaluation.alpaca_eval.leaderboard import Join, leaderboard_row
from evaluation.mt_bench.files import SingleJudgment, read_judgments, read_questions
from evaluation.mt_bench.scores import score_models
from evaluation.tables import markdown_table

NUM_QUESTIONS = 805


def annotations_of(path: Path) -> list[Annotation]:
    """Annotations with answers of the stored lengths."""
    with path.open(newline="") as file:
        return [
            Annotation(
                instruction=row["index"],
                output_1="b" * int(row["len_1"]),
                output_2="m" * int(row["len_2"]),
                generator_1="baseline",
                generator_2=path.stem,
                preference=float(row["preference"]) if row["preference"] else None,
            )
            for row in csv.DictReader(file)
        ]


def alpaca_table(folder: Path, gamed_file: str) -> str:
    """Published and recomputed figures of every model."""
    questions = [str(number) for number in range(NUM_QUESTIONS)]
    numbers = {question: number for number, question in enumerate(questions)}
    difficulty = read_difficulty(folder / "instruction_difficulty.csv", questions)
    gamed = read_gamed_rows(folder / gamed_file)
    rows = []
    for model, published in sorted(json.loads((folder / "published.json").read_text())["models"].items()):
        annotations = annotations_of(folder / "models" / f"{model}.csv")
        cells = [model, f"{len(annotations)}"]
        found = leaderboard_row(annotations)
        raw = (
            "win_rate",
            "standard_error",
            "n_wins",
            "n_wins_base",
            "n_draws",
            "n_total",
            "discrete_win_rate",
        )
        worst = max(abs(getattr(found, name) - published[name]) for name in raw)
        cells += [f"{found.win_rate:.4f}", f"{worst:.0e}", f"{published['length_controlled_winrate']:.4f}"]
        settings: tuple[tuple[Join, float | None], ...] = (
            ("position", published["C"]),
            ("position", None),
            ("instruction", None),
        )
        for join, c in settings:
            controlled = leaderboard_row(
                annotations, difficulty=difficulty, gamed=gamed, question_numbers=numbers, join=join, c=c
            ).length_controlled
            assert controlled is not None
            gap = controlled.win_rate.value - published["length_controlled_winrate"]
            cells.append(f"{controlled.win_rate.value:.4f} ({gap:+.4f})")
        rows.append([*cells, "yes" if published["robust"] else "no"])
    header = (
        "model",
        "rows",
        "win rate, %",
        "largest difference of the raw figures",
        "published LC, %",
        "LC at the published C",
        "LC, own cross-validation",
        "the same, joined by question",
        "choice of C is stable",
    )
    return markdown_table(header, rows)


def mt_bench_table(folder: Path) -> str:
    """Published and recomputed figures of every model; `=` where all digits agree."""
    rows = []
    questions = read_questions(folder / "question.jsonl")
    for file, content in json.loads((folder / "expected.json").read_text()).items():
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as unpacked:
            unpacked.write(gzip.decompress((folder / file).read_bytes()))
            unpacked.flush()
            judgments = [
                row for row in read_judgments(Path(unpacked.name)) if isinstance(row, SingleJudgment)
            ]
        every = {row.model: row for row in score_models(judgments, questions=questions, duplicates="all")}
        once = {row.model: row for row in score_models(judgments, questions=questions)}
        for model, published in content["models"].items():
            found = every[model]
            assert found.average is not None
            pairs = (
                (published["turn1"], found.turn_1),
                (published["turn2"], found.turn_2),
                (published["average"], found.average.value),
            )
            cells = [f"{value} ({'=' if value == own else own})" for value, own in pairs]
            same = sum(
                found.categories.get(name) == value for name, value in published["per_category"].items()
            )
            average = once[model].average
            rows.append(
                [
                    model,
                    *cells,
                    f"{same} of {len(published['per_category'])}",
                    f"{found.num_malformed} of {found.num_judgments}",
                    f"{found.num_duplicates}",
                    "" if average is None else f"{average.value}",
                ]
            )
    header = (
        "model",
        "turn 1",
        "turn 2",
        "average",
        "categories equal",
        "malformed",
        "repeated rows",
        "average, each once",
    )
    return markdown_table(header, rows)


def main() -> None:
    """Print the tables of the folders that are given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alpaca", type=Path, help="folder of AlpacaEval's annotations")
    parser.add_argument("--gamed", default="df_gamed.csv", help="name of the file of gamed rows in it")
    parser.add_argument("--mt-bench", type=Path, help="folder of MT-Bench judgments")
    arguments = parser.parse_args()
    if arguments.alpaca is not None:
        print(alpaca_table(arguments.alpaca, arguments.gamed))
    if arguments.mt_bench is not None:
        print(mt_bench_table(arguments.mt_bench))


if __name__ == "__main__":
    main()
