"""Which students the map consists of, and in which order they are made."""

from collections.abc import Callable, Iterable, Iterator

from benchmarks.map.plan.methods import (
    BRIEF,
    CORE,
    METHODS,
    NO_TEACHER,
    RELATIVES,
    SWEEPS,
    TUNED,
    VARIANTS,
    Job,
    at_rate,
    rates_of,
)
from benchmarks.map.plan.sizes import CHOSEN

_CORNERS = tuple((teacher, chosen) for teacher in ("weak", "strong") for chosen in ("poor", "excellent"))

_SAME_PAIRS = tuple(("same pairs", chosen) for chosen in CHOSEN)

TUNING_CELLS = (("weak", "excellent"), ("strong", "poor"))

"""Opposite corners, in which rates and settings are varied: where adpa is the method to take, and where abd is."""

_INNER = (*(("middle", chosen) for chosen in CHOSEN), ("weak", "good"), ("strong", "good"))

"""With the corners the whole grid of three teachers and three qualities."""

_OVERTRAINED = (("overtrained", "poor"), ("overtrained", "excellent"))

_MAIN = ("sft", "dckd", "abd", "abd, NLL", "adpa, gamma 1")

_WORLDS = ("topics", "menus")


def jobs_in_order(*, fast: bool, best_rate: Callable[[str, str], float]) -> Iterator[Job]:
    """Every student once, what matters most first: corners, settings, rates, the rest of the grid, more seeds.

    Args:
        fast: one cell of the second world with its core methods only.
        best_rate: of a world and a method, the best of `rates_of` it by what was measured up to then on seed 0.
    """
    if fast:
        yield from _cells(0, (("weak", "excellent"),), CORE, worlds=("menus",))
        return
    seen: set[Job] = set()
    for job in _all_jobs(best_rate):
        if job not in seen:
            seen.add(job)
            yield job


def _all_jobs(best_rate: Callable[[str, str], float]) -> Iterator[Job]:
    for seed in range(4):
        yield from _cells(seed, _CORNERS, CORE)
    yield from _cells(0, TUNING_CELLS, VARIANTS)
    yield from _cells(4, _CORNERS, _MAIN)
    yield from _cells(4, _CORNERS, CORE)
    yield from _cells(0, _OVERTRAINED, CORE)
    yield from _cells(0, TUNING_CELLS, RELATIVES)
    for seed in range(1, 5):
        yield from _cells(seed, TUNING_CELLS, ("abd, constant", "adpa, constant"))
    # Each method's settings where it is the one to take.
    yield from _cells(0, TUNING_CELLS[1:], (name for name in SWEEPS if not name.startswith("adpa")))
    yield from _cells(0, TUNING_CELLS[:1], (name for name in SWEEPS if name.startswith("adpa")))
    yield from _cells(0, TUNING_CELLS, (at_rate(name, rate) for name in TUNED for rate in rates_of(name)))
    for world in _WORLDS:
        tuned = [at_rate(name, best_rate(world, name)) for name in TUNED]
        yield from _cells(1, TUNING_CELLS, tuned, worlds=(world,))
        yield from _cells(2, TUNING_CELLS, tuned, worlds=(world,))
    for seed in range(5):
        yield from _cells(seed, _INNER, CORE)
    yield from _cells(1, TUNING_CELLS, VARIANTS)
    yield from _cells(1, _OVERTRAINED, CORE)
    yield from _cells(0, _SAME_PAIRS, BRIEF)
    yield from _cells(0, TUNING_CELLS, SWEEPS)
    yield from _cells(0, _OVERTRAINED, ("adpa, gamma 3", "adpa+"))
    yield from _cells(0, _CORNERS, ("adpa, gamma 3", "adpa+"))
    yield from _cells(1, _CORNERS, ("adpa, gamma 3",))
    for seed in range(1, 3):
        yield from _cells(seed, TUNING_CELLS, (*RELATIVES, *SWEEPS))
        yield from _cells(seed, _SAME_PAIRS, BRIEF)
    for seed in range(2, 5):
        yield from _cells(seed, _OVERTRAINED, CORE)
    yield from _cells(2, TUNING_CELLS, VARIANTS)


def _cells(
    seed: int,
    cells: tuple[tuple[str, str], ...],
    methods: Iterable[str],
    *,
    worlds: tuple[str, ...] = _WORLDS,
) -> Iterator[Job]:
    names = tuple(methods)
    for world in worlds:
        for teacher, chosen in cells:
            for method in names:
                given = teacher if METHODS[method].needs_teacher else NO_TEACHER
                yield Job(world, seed, given, chosen, method)
