"""What translated signals are worth: a student of another family beside one of the teacher's own, of equal size.

    python -m benchmarks.cross_tokenizer.training --weights runs/weights --out runs/cross-training

SmolLM2-135M-Instruct answers questions of daily life; pairs of its answers that are finished and of about equal length
are ranked by the friendly world's reward; DPO on them makes the teacher. Two students of equal size, some layers of
Gemma 3 270M (base) and some of SmolLM2's own, learn to speak again from the same answers. Then both are trained in the
same ways: without a teacher from the pairs' texts, and from the teacher's signals, which are translated for Gemma.
Every model is measured on pairs of other prompts. What is finished is not made again.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cross_tokenizer.making import Making
from benchmarks.cross_tokenizer.measures import Measured, differences, measure, table
from benchmarks.cross_tokenizer.plan import COMPARED, STUDENTS, Plan
from benchmarks.folders import folder_with


def main() -> None:
    """Make what is missing, measure all models, print and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--weights", type=Path, required=True, help="folder for models that several runs share"
    )
    parser.add_argument(
        "--gemma",
        type=folder_with("config.json"),
        help="checkpoint of Gemma 3 270M; without it, out of its package",
    )
    parser.add_argument(
        "--only", action="append", help="a student by its name in the table; repeat for several"
    )
    parser.add_argument(
        "--pairs", choices=("held-out", "tuning"), default="held-out", help="pairs to measure on"
    )
    Plan.add_flags(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    making = Making(options.out, Plan.of(options), weights=options.weights, gemma=options.gemma)
    write_tables(making, options.pairs, options.only)


def write_tables(making: Making, pairs: str, only: list[str] | None = None) -> str:
    """Make and measure the models, and write the tables beside them.

    Args:
        making: makes the models.
        pairs: name of the pairs to measure on.
        only: the students to train, by their names; None for all.
    Returns:
        The tables as Markdown.
    """
    measured: dict[str, list[Measured]] = {}
    starts: dict[str, str] = {}
    for name, start, folders in models(making, pairs, only):
        kept = making.out / "measured" / pairs
        rows = making.pairs(pairs)
        measured[name] = [measure(folder, rows, kept / f"{folder.name}.json") for folder in folders]
        if start:
            starts[name] = start
    compared = [
        (f"{family}: {one}", f"{family}: {other}")
        for family in ("Gemma", "SmolLM2")
        for one, other in COMPARED
        if {f"{family}: {one}", f"{family}: {other}"} <= set(measured)
    ]
    text = f"{table(measured, starts)}\n\n{differences(measured, compared, starts)}\n"
    (making.out / f"table-{pairs}.md").write_text(text)
    print(text)
    return text


def models(
    making: Making, pairs: str, only: list[str] | None = None
) -> Iterator[tuple[str, str | None, list[Path]]]:
    """All models: name in the table, name of the one it was trained from, a folder for each order of the rows."""
    if pairs == "tuning":
        # The teacher is only judged where it was chosen: as large a model costs as much as all students together.
        yield "SmolLM2-135M", None, [making.reference]
        yield "teacher", "SmolLM2-135M", [making.teacher()]
    for family in making.families():
        start = f"{family.name}: untouched"
        yield start, None, [making.student(family)]
        for trained in STUDENTS:
            if only is None or trained.name in only:
                folders = [making.trained(family, trained, order) for order in range(making.plan.orders)]
                yield f"{family.name}: {trained.name}", start, folders


if __name__ == "__main__":
    main()
