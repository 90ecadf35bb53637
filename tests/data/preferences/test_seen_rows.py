"""What is remembered of the rows seen so far, whatever the filter in front of the table says."""

import contextlib
import random

import pytest

from data.preferences import seen_rows
from data.preferences.seen_rows import Seen, SeenRows


@pytest.mark.parametrize("filter_bytes", [1 << 24, 8, 1], ids=["filter", "crowded", "always full"])
def test_every_id_that_returns_is_found_with_what_it_stood_for_first_and_no_other(monkeypatch, filter_bytes):
    # A filter that lets everything pass makes every answer the table's.
    monkeypatch.setattr(seen_rows, "_FILTER_BYTES", filter_bytes)
    monkeypatch.setattr(seen_rows, "_KEPT_BACK", 5)
    draw = random.Random(0)
    first: dict[str, Seen] = {}
    with contextlib.closing(SeenRows()) as seen:
        for number in range(400):
            pair_id = f"pair {draw.randrange(150)}"
            row = Seen(f"content {number}", f"line {number}")
            assert seen.first(pair_id, *row) == first.get(pair_id)
            first.setdefault(pair_id, row)
    assert 100 < len(first) < 150


def test_ids_that_are_all_new_cost_no_index(monkeypatch):
    monkeypatch.setattr(SeenRows, "_find", lambda *_: pytest.fail("the table was asked"))
    with contextlib.closing(SeenRows()) as seen:
        assert [seen.first(str(number), "content", "line") for number in range(5000)] == [None] * 5000
