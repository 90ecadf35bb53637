"""Make the map, or as much of it as there is time for, and draw its tables from what there is.

    python -m benchmarks.map --fast --out runs/map-fast
    python -m benchmarks.map --full --out runs/map [--minutes 60]
    python -m benchmarks.map --tables --out runs/map

The same line again continues. Results are in OUT/results.jsonl, tables and plots in OUT/tables.
"""

import argparse
import dataclasses
import functools
import logging
import time
from pathlib import Path

import torch

from benchmarks.map.before_training import describe_signals
from benchmarks.map.making import Workshop
from benchmarks.map.measures import Measurer
from benchmarks.map.plan.methods import CORE, NO_TEACHER, Job
from benchmarks.map.plan.order import jobs_in_order
from benchmarks.map.plan.sizes import FAST, FULL, TEACHERS, Plan
from benchmarks.map.results import Results
from benchmarks.map.tuning import best_rate

logger = logging.getLogger("benchmarks.map")


class MapMaker:
    """Makes and measures what jobs ask for, one after the other.

    Attributes:
        results: everything measured so far.
    """

    def __init__(self, out: Path, plan: Plan) -> None:
        self.results = Results(out / "results.jsonl")
        self._out = out
        self._plan = plan
        self._open: dict[tuple[str, int], tuple[Workshop, Measurer]] = {}

    def do(self, job: Job) -> None:
        """Train and measure one student, and whatever it needs that is not measured yet."""
        about = {"kind": "model", **dataclasses.asdict(job)}
        if about in self.results:
            return
        workshop, measurer = self._workshop(job.world, job.seed)
        started = time.monotonic()
        student = workshop.student()
        self._measure_base(job, workshop, measurer)
        folder = workshop.trained(job)
        trained = time.monotonic()
        teacher = workshop.teacher(job.teacher, job.chosen) if job.teacher != NO_TEACHER else None
        found = measurer.measure(folder, initial=student, teacher=teacher)
        self.results.add(about, found)
        logger.info(
            "%s: %.0f s to make, %.0f s to measure", job, trained - started, time.monotonic() - trained
        )

    def take_best_of_four(self, job: Job) -> None:
        """Measure the best of four answers of a core method's student that is there."""
        about = {"kind": "best of four", **dataclasses.asdict(job)}
        made = {**about, "kind": "model"} in self.results
        if made and job.method in CORE and about not in self.results:
            workshop, measurer = self._workshop(job.world, job.seed)
            self.results.add(about, {"rewards": measurer.best_of(workshop.student_of(job), 4)})

    def _workshop(self, world: str, seed: int) -> tuple[Workshop, Measurer]:
        if (world, seed) not in self._open:
            workshop = Workshop(self._out / f"{world}-{seed}", world=world, seed=seed, plan=self._plan)
            pairs = workshop.held_out_pairs()
            measurer = Measurer(workshop.world, num_prompts=self._plan.num_prompts, pairs=pairs, seed=seed)
            self._open = {(world, seed): (workshop, measurer)}  # one at a time: distributions take memory
        return self._open[world, seed]

    def _measure_base(self, job: Job, workshop: Workshop, measurer: Measurer) -> None:
        """Measure the models that a job starts from, and describe the signals that it reads."""
        base = {"kind": "model", "world": job.world, "seed": job.seed, "chosen": NO_TEACHER}
        about = {**base, "teacher": NO_TEACHER, "method": "initial"}
        if about not in self.results:
            self.results.add(about, measurer.measure(workshop.student()))
        about = {**base, "teacher": NO_TEACHER, "method": "reference"}
        if about not in self.results:
            self.results.add(about, measurer.measure(workshop.reference()))
        about = {
            **base,
            "kind": "chosen",
            "teacher": NO_TEACHER,
            "chosen": job.chosen,
            "method": "true rewards",
        }
        if about not in self.results:
            chosen, rejected = workshop.true_rewards(job.chosen)
            self.results.add(about, {"chosen": chosen, "rejected": rejected})
        if job.teacher == NO_TEACHER:
            return
        about = {**base, "teacher": job.teacher, "method": "teacher"}
        if TEACHERS[job.teacher].num_pairs is None:
            about["chosen"] = job.chosen
        if about not in self.results:
            teacher = workshop.teacher(job.teacher, job.chosen)
            self.results.add(about, measurer.measure(teacher, initial=workshop.reference()))
        about = {**base, "kind": "signals", "teacher": job.teacher, "chosen": job.chosen, "method": "signals"}
        if about not in self.results:
            self.results.add(about, describe_signals(workshop.signals(job.teacher, job.chosen)))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--fast", action="store_true", help="the smallest cell alone")
    size.add_argument("--full", action="store_true", help="the whole map, what matters most first")
    parser.add_argument(
        "--best-of-four",
        action="store_true",
        help="train nothing; measure this of the students that are there",
    )
    parser.add_argument("--minutes", type=float, help="begin nothing new after this many minutes [no limit]")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logger.setLevel(logging.INFO)
    torch.set_num_threads(1)  # models this small lose by a second one
    maker = MapMaker(arguments.out, FAST if arguments.fast else FULL)
    started = time.monotonic()
    rate = functools.partial(best_rate, maker.results)
    for job in jobs_in_order(fast=arguments.fast, best_rate=rate):
        if arguments.minutes is not None and time.monotonic() - started > 60 * arguments.minutes:
            logger.info("time is up; the same command continues")
            break
        if arguments.best_of_four:
            maker.take_best_of_four(job)
        else:
            maker.do(job)


if __name__ == "__main__":
    main()
