"""The data that the world writes are what the commands read."""

import json
from pathlib import Path

import numpy as np

from data.preferences.reader import read_preferences
from small_world.pairs import draw_conversations, draw_pairs, write_conversations, write_pairs, write_prompts
from small_world.world import World


def test_pairs_are_read_as_they_were_written(tmp_path: Path) -> None:
    pairs = draw_pairs(World(0), np.random.default_rng(0), 30)
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    rows = list(read_preferences(str(tmp_path / "pairs.jsonl")))
    assert [row.pair_id for row in rows] == [f"pair-{number}" for number in range(30)]
    assert [(row.chosen, row.rejected) for row in rows] == [(pair.chosen, pair.rejected) for pair in pairs]
    for row, pair in zip(rows, pairs, strict=True):
        assert [(turn.role, turn.content) for turn in row.prompt] == [("user", pair.prompt)]


def test_conversations_are_read_as_prompt_and_answer(tmp_path: Path) -> None:
    conversations = draw_conversations(World(0), np.random.default_rng(0), 30)
    write_conversations(tmp_path / "conversations.jsonl", conversations)
    rows = list(read_preferences(str(tmp_path / "conversations.jsonl"), need="chosen"))
    assert [(row.prompt[0].content, row.chosen) for row in rows] == conversations
    assert all(row.rejected is None for row in rows)


def test_prompts_alone_are_read(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", ["about rain with snow and ice"])
    (row,) = read_preferences(str(tmp_path / "prompts.jsonl"), need="prompt")
    assert row.prompt[0].content == "about rain with snow and ice"
    assert row.chosen is None


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_pairs(tmp_path / name, draw_pairs(World(4), np.random.default_rng(9), 20))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert all(json.loads(line) for line in (tmp_path / "one").read_text().splitlines())


def test_both_answers_of_a_pair_are_written_to_its_prompt_and_differ() -> None:
    pairs = draw_pairs(World(0), np.random.default_rng(0), 500)
    assert all(pair.chosen != pair.rejected for pair in pairs)
    assert len({pair.prompt for pair in pairs}) > 400
