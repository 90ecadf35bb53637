import contextlib
import random

import pytest

from data.id_index import IdIndex


def test_id_index_finds_what_an_id_stood_for_first():
    draw = random.Random(0)
    first: dict[str, str] = {}
    with contextlib.closing(IdIndex()) as index:
        for number in range(400):
            name = f"pair {draw.randrange(150)}"
            assert (name in index) == (name in first)
            assert index.get(name) == first.get(name)
            assert index.add(name, f"row {number}") == first.get(name)
            first.setdefault(name, f"row {number}")
    assert 100 < len(first) < 150


@pytest.mark.slow
def test_id_index_stays_small_when_ids_are_many():
    """Python objects for as many ids would be 20 MB; the map spills what exceeds its cache of 16 MiB."""
    import tracemalloc

    tracemalloc.start()
    with contextlib.closing(IdIndex()) as index:
        assert all(
            index.add(f"pair {number}", "a text that is of some length") is None for number in range(100_000)
        )
        assert index.get("pair 99999") == "a text that is of some length"
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
