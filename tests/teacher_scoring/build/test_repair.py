"""A finished dataset that was damaged: the same command, or the lines of `verify --repair`, make it whole again."""

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from data.checks.verify import Finding, repair_plan, verify_dataset
from data.errors import ShardError
from teacher_scoring.sample import SampleOptions, sample_student
from teacher_scoring.score import ScoreOptions, score_teacher


@pytest.fixture
def options(tiny_world, tmp_path):
    return ScoreOptions(
        teacher=str(tiny_world.teacher),
        reference=str(tiny_world.reference),
        data=str(tiny_world.pairs),
        out=str(tmp_path / "out"),
        engine="transformers",
        top_k=8,
        shard_pairs=4,
    )


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lose(folder):
    """Two of three shards: one is gone, one cut short."""
    (folder / "shard-00000.parquet").unlink()
    os.truncate(folder / "shard-00001.parquet", 1000)


def test_the_same_command_makes_lost_shards_again_and_keeps_the_intact_ones(options, caplog):
    made = score_teacher(options).path
    before = contents(made)
    lose(made)
    kept = (made / "shard-00002.parquet").stat().st_ino
    with caplog.at_level("INFO", logger="teacher_scoring"):
        again = score_teacher(options)
    assert f"{made}: 1 of 3 shards are intact; making again what is missing or damaged" in caplog.messages
    assert not again.reused
    assert again.teacher.scored == 0
    assert contents(made) == before
    assert (made / "shard-00002.parquet").stat().st_ino == kept


@pytest.mark.parametrize(
    "moment",
    [
        "teacher_scoring.build.dataset_build.DatasetBuild._note",  # before the first record of an intact shard
        "teacher_scoring.build.dataset_build.DatasetBuild._claim",  # without a manifest
        "teacher_scoring.build.dataset_build.DatasetBuild.complete",  # before there is one again
    ],
)
def test_a_repair_that_was_stopped_is_taken_up_again(options, moment, monkeypatch):
    made = score_teacher(options).path
    before = contents(made)

    class Stopped(BaseException):
        pass

    def stop(*_):
        raise Stopped

    lose(made)
    with monkeypatch.context() as patch:
        patch.setattr(moment, stop)
        with pytest.raises(Stopped):
            score_teacher(options)
    score_teacher(options)
    assert contents(made) == before


def test_lost_rollouts_are_sampled_again(tiny_world, tmp_path):
    options = SampleOptions(
        student=str(tiny_world.student), data=str(tiny_world.pairs), engine="transformers", max_new_tokens=4,
        shard_pairs=4, out=str(tmp_path / "rollouts"),
    )  # fmt: skip
    made = sample_student(options).path
    before = contents(made)
    lose(made)
    sample_student(options)
    assert contents(made) == before


def test_the_lines_of_the_repair_plan_repair_a_dataset_typed_as_they_stand(options):
    made = score_teacher(options).path
    before = contents(made)
    content = bytearray(before[Path("shard-00001.parquet")])
    content[500] ^= 1
    (made / "shard-00001.parquet").write_bytes(content)
    (made / "shard-00002.parquet").unlink()
    (made / "shard-00003.parquet").write_bytes(content)
    (made / "tokenizer" / "tokenizer.json").write_text("{}")
    plan = repair_plan(made, verify_dataset(made))
    typed = [line for line in plan if line.startswith("  ") and "pull" not in line]
    assert [line.split()[0] for line in typed] == ["rm", "rm", "adpa"]
    for line in typed[:2]:
        subprocess.run(line, shell=True, check=True)
    CliRunner().invoke(cli.commands, shlex.split(typed[2])[1:], catch_exceptions=False)
    assert verify_dataset(made) == []
    assert contents(made) == before


def test_a_damaged_manifest_in_the_store_is_said_and_not_written_over(options):
    made = score_teacher(replace(options, out=None)).path
    (made / "manifest.json").write_text("{}")
    with pytest.raises(ShardError, match=r"its manifest is damaged; run adpa signals verify .* --repair"):
        score_teacher(replace(options, out=None))
    assert (made / "manifest.json").read_text() == "{}"


def test_the_repair_plan_names_the_engine_before_anything_is_deleted(options, monkeypatch):
    made = score_teacher(options).path
    (made / "shard-00002.parquet").unlink()
    manifest = json.loads((made / "manifest.json").read_text())
    # As an earlier version wrote it, which was told nothing of the engine.
    manifest["created"]["command"] = manifest["created"]["command"].replace(" --engine transformers", "")
    (made / "manifest.json").write_text(json.dumps(manifest))
    findings = [Finding("shard-00002.parquet", "missing")]
    assert repair_plan(made, findings)[-1].endswith(f" --engine transformers --out {made}")
    assert not any("first install" in line for line in repair_plan(made, findings))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plan = repair_plan(made, findings)
    installed = next(number for number, line in enumerate(plan) if "first install transformers" in line)
    assert installed < next(number for number, line in enumerate(plan) if line.startswith("  rm -f"))
