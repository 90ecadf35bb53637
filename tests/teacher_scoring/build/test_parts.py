"""A dataset made in parts."""

import pytest

from data.errors import ConfigurationError, ShardError
from teacher_scoring.build.merge import merge_parts
from teacher_scoring.options import ScoreOptions
from teacher_scoring.score import score_teacher


@pytest.fixture
def options(tiny_world, tmp_path):
    def make(out="out", **changed):
        given = {
            "teacher": str(tiny_world.teacher),
            "reference": str(tiny_world.reference),
            "data": str(tiny_world.pairs),
            "out": str(tmp_path / out),
            "pass_cache": str(tmp_path / f"passes-{out}"),
            "engine": "transformers",
            "top_k": 8,
            "shard_pairs": 2,
        }
        return ScoreOptions(**{**given, **changed})

    return make


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_parts_in_any_order_merge_to_the_bytes_of_one_run(options):
    whole = score_teacher(options("whole"))
    out = whole.path.with_name("parts")
    parts = [score_teacher(options("parts", shard_range=part)) for part in ("3/3", "1/3")]
    with pytest.raises(ShardError, match="parts 2/3 are not finished"):
        merge_parts(out)
    assert not (out / "manifest.json").exists()
    parts.append(score_teacher(options("parts", shard_range="2/3")))
    merged = merge_parts(out)
    assert merged.num_pairs == 10
    assert contents(out) == contents(whole.path)
    assert merge_parts(out).manifest == merged.manifest
    assert contents(out) == contents(whole.path)
    # Each shard was scored once: the parts' counts add up to the whole.
    assert [part.part for part in parts] == ["3/3", "1/3", "2/3"]
    assert sum(part.teacher.scored for part in parts) == whole.positions
    assert sum(part.positions for part in parts) == whole.positions
    assert sum(part.pairs for part in parts) == whole.pairs


def test_a_part_of_a_finished_dataset_is_there_already(options):
    whole = score_teacher(options())
    part = score_teacher(options(shard_range="1/2"))
    assert part.reused
    assert (part.part, part.positions) == (None, whole.positions)


def test_parts_of_different_data_are_not_merged(options, tiny_world, tmp_path):
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(tiny_world.pairs.read_text().splitlines(keepends=True)[:8]))
    score_teacher(options(shard_range="1/2"))
    score_teacher(options(shard_range="2/2", data=str(fewer)))
    with pytest.raises(ShardError, match="part 2-of-2 differs from part 1-of-2 in data"):
        merge_parts(tmp_path / "out")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_range_that_is_none_is_refused(options, text):
    with pytest.raises(ConfigurationError, match="--shard-range"):
        options(shard_range=text)
