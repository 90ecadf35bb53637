"""What the methods are worth on real text.

    python -m benchmarks.real_text --fast --world friendly --out runs/real-text
    python -m benchmarks.real_text --full --world constraints --seed 1 --out runs/real-text

The reference is SmolLM2-135M-Instruct, or Gemma 3 270M after SFT in the world of constraints; the teacher is trained
from it by DPO on pairs of its own answers, labelled by a reward that a program computes; students are layers cut out
of it, healed on its answers. Everything goes through the functions behind the public commands; a run that is
interrupted continues with the same line.
"""

import argparse
import logging
from pathlib import Path

from benchmarks.real_text.models.weights import WORLDS
from benchmarks.real_text.pipeline import Pipeline
from benchmarks.real_text.results import compare, write_results
from benchmarks.real_text.sizes import AGAIN, PLANS, at_other_rates


def main() -> None:
    """Make what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--fast", action="store_true", help="some 35 CPU minutes; a student of four layers")
    size.add_argument(
        "--full",
        action="store_true",
        help="some three CPU hours; a student of twelve layers (constraints: eight, never run)",
    )
    parser.add_argument("--world", choices=sorted(WORLDS), default="friendly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/real-text"))
    parser.add_argument(
        "--only", action="append", help="a method by its name in the table; repeat for several"
    )
    parser.add_argument("--all", action="store_true", help="the relatives of the main methods as well")
    parser.add_argument(
        "--again", action="store_true", help="train the main methods once more in another order"
    )
    parser.add_argument(
        "--tune", action="store_true", help="train the main methods at two other learning rates as well"
    )
    parser.add_argument(
        "--any-teacher", action="store_true", help="go on with a teacher that is no better than its reference"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    folder = options.out / f"{options.world}-{options.seed}-{'fast' if options.fast else 'full'}"
    fast, full, main_rows, further_rows = PLANS[options.world]
    rows = (*main_rows, *further_rows)
    known = {row.name: row for row in (*rows, *AGAIN, *at_other_rates(rows))}
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"--only {unknown[0]!r}: no such method; there are {', '.join(map(repr, known))}")
    asked = [*main_rows]
    asked += further_rows if options.all else ()
    asked += AGAIN if options.again else ()
    asked += at_other_rates(rows) if options.tune else ()
    methods = [known[name] for name in options.only] if options.only else asked
    pipeline = Pipeline(folder, WORLDS[options.world], options.seed, fast if options.fast else full)
    write_results(pipeline, compare(pipeline, methods, any_teacher=options.any_teacher))


if __name__ == "__main__":
    main()
