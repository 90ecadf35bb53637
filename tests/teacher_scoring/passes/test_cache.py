"""Finished passes are found again: what a later run of another request still has to score."""

import json
import shutil

import numpy as np
import pytest

from data.checks.verify import verify_dataset
from data.errors import ScoringError, ShardError
from teacher_scoring.passes.cache import PassFile, read_teacher, write_teacher
from teacher_scoring.passes.tasks import EncodedShard, Task
from teacher_scoring.sample import SampleOptions, sample_student
from teacher_scoring.score import ScoreOptions, score_teacher

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tiny_world, tmp_path):
    """Scores into a fresh folder; returns the dataset and, per model, (positions in all, found in the cache)."""
    cache = tmp_path / "passes"
    number = iter(range(100))

    def start(**changed):
        given = {
            "teacher": str(tiny_world.teacher),
            "reference": str(tiny_world.reference),
            "data": str(tiny_world.pairs),
            "out": str(tmp_path / f"out-{next(number)}"),
            "pass_cache": str(cache),
            "engine": "transformers",
            "top_k": 8,
            "shard_pairs": 4,
        }
        result = score_teacher(ScoreOptions(**{**given, **changed}))
        counts = {"teacher": result.teacher, "reference": result.reference}
        found = {name: (count.positions, count.found) for name, count in counts.items() if count is not None}
        return result.open(), found

    start.cache = cache
    return start


def positions(dataset, *roles):
    return sum(len(row.response_ids) for row in dataset.iterate() if row.role in roles)


def same_bytes(one, other):
    return [
        (one.path / shard.file).read_bytes() for shard in one.manifest.shards
    ] == [(other.path / shard.file).read_bytes() for shard in other.manifest.shards]  # fmt: skip


def test_a_second_reference_scores_no_teacher(run, tiny_world):
    dataset, first = run()
    total = dataset.num_positions
    assert first == {"teacher": (total, 0), "reference": (total, 0)}
    _, second = run(reference=str(tiny_world.student))
    assert second == {"teacher": (total, total), "reference": (total, 0)}


def test_adding_rejected_scores_rejected_alone(run):
    run(score=("chosen",))
    dataset, counts = run()
    chosen, total = positions(dataset, "chosen"), dataset.num_positions
    assert counts == {"teacher": (total, chosen), "reference": (total, chosen)}


def test_adding_rollouts_scores_rollouts_alone(run, tiny_world, tmp_path):
    run()
    sample_student(
        SampleOptions(
            student=str(tiny_world.student), data=str(tiny_world.pairs), engine="transformers", max_new_tokens=5,
            out=str(tmp_path / "rollouts"),
        )
    )  # fmt: skip
    dataset, counts = run(rollouts=str(tmp_path / "rollouts"))
    known, total = positions(dataset, "chosen", "rejected"), dataset.num_positions
    assert total > known
    assert counts == {"teacher": (total, known), "reference": (total, known)}


@pytest.mark.parametrize(("first_rows", "found_pairs"), [(8, 8), (9, 8), (3, 0)])
def test_appended_rows_are_scored_with_the_shard_that_they_change(
    run, tiny_world, tmp_path, first_rows, found_pairs
):
    """With 4 pairs a shard, 9 rows end within a shard: that one is scored anew, the full ones before it are found."""
    lines = tiny_world.pairs.read_text().splitlines(keepends=True)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(lines[:first_rows]))
    before, _ = run(data=str(fewer))
    after, counts = run()
    assert after.num_pairs == 10
    total = after.num_positions
    found = sum(len(row.response_ids) for row in list(after.iterate())[: 2 * found_pairs])
    assert counts == {"teacher": (total, found), "reference": (total, found)}
    for old, new in zip(before.iterate(), after.iterate(), strict=False):
        np.testing.assert_array_equal(old.topk_ids, new.topk_ids)
        # Another batch shape is another order of float32 additions; both are rounded for storage.
        np.testing.assert_allclose(old.teacher_logprobs, new.teacher_logprobs, atol=0.05)


def test_a_wider_support_or_another_order_of_rows_is_scored_anew(run, tiny_world, tmp_path):
    dataset, _ = run()
    total = dataset.num_positions
    assert run(top_k=9)[1] == {"teacher": (total, 0), "reference": (total, 0)}
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(tiny_world.pairs.read_text().splitlines(keepends=True))))
    assert run(data=str(turned))[1]["teacher"] == (total, 0)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[len(content) // 3] ^= 0xFF
    else:
        content = bytearray(b"not a parquet file")
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "flipped", "replaced"])
def test_a_damaged_pass_file_is_scored_again(run, how):
    dataset, _ = run()
    files = sorted(run.cache.glob("*.parquet"))
    assert len(files) == 2 * 2 * 3
    for path in files[::2]:
        damage(path, how)
    again, counts = run()
    assert same_bytes(dataset, again)
    assert {total for total, _ in counts.values()} == {dataset.num_positions}
    assert sum(reused for _, reused in counts.values()) < 2 * dataset.num_positions


def test_reference_scores_at_other_ids_than_the_teachers_are_not_used(run, tiny_world):
    """A teacher's file that was scored again may hold another choice among near-ties."""
    dataset, _ = run(reference=None)
    run()
    changed = 0
    for path in run.cache.glob("*.parquet"):
        try:
            rows = list(read_teacher(path))
        except ShardError:
            # The reference's: its columns are others.
            continue
        # As if the last token of every position had been another one.
        for row in rows:
            taken = set(row.topk_ids[0].tolist())
            ids = row.topk_ids.copy()
            ids[0, -1] = next(i for i in range(128) if i not in taken)
            object.__setattr__(row, "topk_ids", ids)
        write_teacher(PassFile(EncodedShard(0, path, ()), Task("chosen", "", 0, 0, 0), path), rows)
        changed += 1
    assert changed == 6
    again, counts = run()
    assert counts["teacher"] == (dataset.num_positions, dataset.num_positions)
    assert counts["reference"] == (dataset.num_positions, 0)
    assert verify_dataset(again.path) == []


def test_an_interrupted_run_continues_with_the_same_result(run, tiny_world, tmp_path):
    """The reference cannot be opened; after its weights are repaired, the same command finds the teacher's pass."""
    whole, _ = run()
    broken, out = tmp_path / "broken", tmp_path / "continued"
    shutil.copytree(tiny_world.reference, broken)
    weights = next(broken.glob("*.safetensors"))
    valid = weights.read_bytes()
    cache = str(tmp_path / "other-cache")
    # As long, with the same configuration: everything but the numbers looks right.
    weights.write_bytes(valid[: len(valid) // 2])
    with pytest.raises(ScoringError, match="broken"):
        run(reference=str(broken), out=str(out), pass_cache=cache)
    assert not (out / "manifest.json").exists()
    weights.write_bytes(valid)
    with pytest.raises(
        ShardError, match=r"unfinished dataset: reference\.weights_sha256 is \S+ there, \S+ here"
    ):
        run(reference=str(broken), out=str(out), pass_cache=cache)
    shutil.rmtree(out)
    finished, counts = run(reference=str(broken), out=str(out), pass_cache=cache)
    assert counts["teacher"] == (whole.num_positions, whole.num_positions)
    for one, other in zip(whole.iterate(), finished.iterate(), strict=True):
        np.testing.assert_array_equal(one.advantages, other.advantages)


def test_pass_files_name_all_that_determines_them(run, tiny_world, tmp_path):
    """Weights of the same name and size, but other numbers."""
    dataset, _ = run()
    other = tmp_path / "moved" / "teacher"
    shutil.copytree(tiny_world.teacher, other)
    _, counts = run(teacher=str(other))
    assert counts["teacher"][1] == dataset.num_positions, "a folder that was moved is the same model"
    config = json.loads((other / "config.json").read_text())
    config["rms_norm_eps"] = 0.1
    (other / "config.json").write_text(json.dumps(config))
    _, counts = run(teacher=str(other))
    assert counts["teacher"][1] == 0
