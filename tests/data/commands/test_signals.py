import dataclasses
import json
import os
import shutil
import time

import pytest

from data.checks.verify import verify_dataset
from data.commands import options as commands
from data.commands import signals
from data.errors import ConfigurationError, ShardError


def test_verify_returns_the_findings_and_fails_only_on_them(tmp_path, make_dataset):
    make_dataset(tmp_path)
    result = signals.verify_signals(commands.SignalsVerifyOptions(signals=str(tmp_path)))
    assert str(result) == f"{tmp_path}: valid"
    assert result.failure is None
    assert result.to_json()["valid"] is True
    (tmp_path / "shard-00001.parquet").unlink()
    options = commands.SignalsVerifyOptions(signals=str(tmp_path), repair=True)
    result = signals.verify_signals(options)
    assert [finding.file for finding in result.findings] == ["shard-00001.parquet"]
    assert isinstance(result.failure, ShardError)
    assert str(result.failure) == f"{tmp_path}: 1 finding"
    lines = str(result).splitlines()
    assert lines[0] == "shard-00001.parquet: missing; re-run score-teacher to rebuild it"
    assert lines[-2] == f"  rm -f {tmp_path}/shard-00001.parquet"
    assert json.loads(json.dumps(result.to_json()))["findings"][0]["file"] == "shard-00001.parquet"
    unrepaired = signals.verify_signals(dataclasses.replace(options, repair=False))
    assert str(unrepaired.failure).endswith("--repair prints what to run")


def test_push_pull_list_and_prune(tmp_path, make_dataset):
    make_dataset(tmp_path / "made")
    address = f"file://{tmp_path}/shared"
    signals.push_signals(commands.SignalsPushOptions(signals=str(tmp_path / "made"), address=address))
    store = tmp_path / "store"
    pulled = signals.pull_signals(commands.SignalsPullOptions(address=address, out=str(store / "copy")))
    assert str(pulled) == f"{store / 'copy'}: 30 responses, complete"
    assert pulled.to_json()["copied"] == [f"shard-0000{index}.parquet" for index in range(3)]
    assert verify_dataset(store / "copy") == []
    size = sum(path.stat().st_size for path in store.rglob("shard-*"))
    noon = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
    os.utime(store / "copy" / "manifest.json", (noon, noon))
    list_options = commands.SignalsListOptions(store=str(store))
    listed = signals.list_signals(list_options)
    assert str(listed).splitlines() == [
        f"{store}: 1 dataset, {size / 1e6:.1f} MB",
        "name  kind     models  responses  positions   MB  made        used",
        f"copy  signals  tiny           30        121  {size / 1e6:.1f}  2026-03-01  2026-03-01",
    ]
    (entry,) = json.loads(json.dumps(listed.to_json()))["datasets"]
    assert (entry["name"], entry["responses"], entry["size_bytes"]) == ("copy", 30, size)
    options = commands.SignalsPruneOptions(store=str(store), max_gb=0, what=("datasets",), dry_run=True)
    result = signals.prune_signals(options)
    assert str(result) == f"would delete {store / 'copy'}: {size / 1e6:.1f} MB"
    assert result.freed_bytes == size
    result = signals.prune_signals(dataclasses.replace(options, dry_run=False))
    assert str(result) == f"deleted {store / 'copy'}: {size / 1e6:.1f} MB"
    result = signals.prune_signals(dataclasses.replace(options, unused_days=1))
    assert str(result) == f"{store}: nothing to delete"
    assert str(signals.list_signals(list_options)) == f"{store}: no datasets"
    (store / "0123-45").mkdir()
    listed = signals.list_signals(list_options)
    assert listed.unfinished == [store / "0123-45"]
    assert str(listed).endswith("unfinished, or read from an address and not all here yet: 0123-45")
    (store / "0123-45" / "manifest.json").write_text("{")
    lines = str(signals.list_signals(list_options)).splitlines()
    assert lines[-2] == f"{store}: no datasets"
    assert lines[-1].startswith(f"not usable: {store / '0123-45' / 'manifest.json'}: not JSON")


def test_prune_deletes_old_passes_and_says_how_many_of_how_much(tmp_path, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path))
    (tmp_path / "passes").mkdir()
    month_ago = time.time() - 30 * 86_400
    for index in range(3):
        path = tmp_path / "passes" / f"{index:064x}.parquet"
        path.write_bytes(b"x" * 1_000_000)
        if index:
            os.utime(path, (month_ago, month_ago))
    line = str(signals.list_signals(commands.SignalsListOptions())).splitlines()[-1]
    assert line == f"{tmp_path}/passes: 3 files, 3.0 MB, last used {time.strftime('%Y-%m-%d')}"
    options = commands.SignalsPruneOptions(unused_days=7, what=("passes",), dry_run=True)
    assert str(signals.prune_signals(options)) == f"would delete 2 files of {tmp_path}/passes: 2.0 MB"
    result = signals.prune_signals(dataclasses.replace(options, dry_run=False))
    assert result.to_json()["caches"] == [
        {"path": f"{tmp_path}/passes", "files": 2, "size_bytes": 2_000_000, "files_in_use": 0}
    ]
    assert [path.name for path in (tmp_path / "passes").iterdir()] == [f"{0:064x}.parquet"]
    options = commands.SignalsPruneOptions(max_cache_gb=0, what=("passes",))
    assert str(signals.prune_signals(options)) == f"deleted 1 file of {tmp_path}/passes: 1.0 MB"
    assert str(signals.prune_signals(options)) == f"{tmp_path}/passes: nothing to delete"


def test_prune_takes_a_cache_of_passes_elsewhere(tmp_path):
    (tmp_path / f"{0:064x}.parquet").write_bytes(b"x")
    options = commands.SignalsPruneOptions(max_cache_gb=0, what=("passes",), pass_cache=str(tmp_path))
    assert len(signals.prune_signals(options).caches[0].deleted) == 1


def test_pruning_by_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="give --unused-days, --max-gb or --max-cache-gb"):
        commands.SignalsPruneOptions()


def test_a_name_of_the_store_stands_for_its_folder(tmp_path, make_dataset, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path))
    make_dataset(tmp_path / "signals" / "0123456789")
    result = signals.verify_signals(commands.SignalsVerifyOptions(signals="012345"))
    assert str(result) == "012345: valid"
    inspected = signals.inspect_signals(commands.SignalsInspectOptions(signals="012345"))
    assert str(inspected).startswith(str(tmp_path / "signals" / "0123456789"))


def test_inspect_and_report_read_an_address(tmp_path, make_dataset, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "home"))
    make_dataset(tmp_path / "made")
    address = f"file://{tmp_path}/made"
    inspected = signals.inspect_signals(commands.SignalsInspectOptions(signals=address))
    assert "\nchosen: 15 responses" in str(inspected)
    shutil.rmtree(tmp_path / "home")
    out = tmp_path / "report.html"
    result = signals.report_signals(commands.SignalsReportOptions(signals=address, out=str(out)))
    assert (result.out, result.size_bytes) == (out, out.stat().st_size)
    assert str(result) == f"{out}: {out.stat().st_size / 1e6:.1f} MB"


def test_report_replaces_an_existing_file_only_when_told_to(tmp_path, make_dataset):
    make_dataset(tmp_path / "made")
    out = tmp_path / "report.html"
    out.write_text("mine")
    options = commands.SignalsReportOptions(signals=str(tmp_path / "made"), out=str(out))
    with pytest.raises(ConfigurationError, match=f"--out: {out} exists; give another name, or --force"):
        signals.report_signals(options)
    assert out.read_text() == "mine"
    signals.report_signals(dataclasses.replace(options, force=True))
    assert out.read_text().startswith("<!doctype html>")


def test_inspect_and_report_take_rollouts_in_a_folder_and_at_an_address(tmp_path, make_rollouts, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "home"))
    make_rollouts(tmp_path / "made")
    # At an address they are fetched first, and are then in the store.
    for place in (tmp_path / "made", f"file://{tmp_path}/made", f"file://{tmp_path}/made"):
        inspected = signals.inspect_signals(commands.SignalsInspectOptions(signals=str(place)))
        assert "12 answers to 6 prompts" in str(inspected)
        found = json.loads(json.dumps(inspected.to_json(), allow_nan=False))
        assert (found["kind"], found["read"]["cut"]) == ("rollouts", 6)
    (stored,) = signals.list_signals(commands.SignalsListOptions()).datasets
    assert stored.manifest.kind == "rollouts"
    out = tmp_path / "report.html"
    signals.report_signals(commands.SignalsReportOptions(signals=str(tmp_path / "made"), out=str(out)))
    assert "How many answers were cut" in out.read_text()


def test_inspect_gives_numbers_that_json_can_hold(tmp_path, make_dataset):
    make_dataset(tmp_path)
    inspected = signals.inspect_signals(commands.SignalsInspectOptions(signals=str(tmp_path)))
    found = json.loads(json.dumps(inspected.to_json(), allow_nan=False))
    assert (found["pairs"], found["responses"]) == (15, 30)
    assert [role["role"] for role in found["roles"]] == ["chosen", "rejected"]
    assert 0 < found["roles"][0]["covered"] < 1


def test_rollouts_are_verified_but_not_scored_again(tmp_path, make_rollouts):
    make_rollouts(tmp_path)
    assert signals.verify_signals(commands.SignalsVerifyOptions(signals=str(tmp_path))).findings == []
    options = commands.SignalsVerifyOptions(signals=str(tmp_path), deep=3)
    with pytest.raises(
        ConfigurationError, match="holds rollouts, which no teacher has scored; leave the option out"
    ):
        signals.verify_signals(options)


def test_verify_asks_the_models_only_about_a_dataset_without_findings(tmp_path, make_dataset):
    make_dataset(tmp_path)
    options = commands.SignalsVerifyOptions(signals=str(tmp_path), deep=3)
    result = signals.verify_signals(options, rescore=lambda folder, options: f"{options.deep} of {folder}")
    assert str(result).splitlines() == [f"3 of {tmp_path}", f"{tmp_path}: valid"]
    (tmp_path / "shard-00001.parquet").unlink()
    result = signals.verify_signals(options, rescore=lambda *_: pytest.fail("scores again"))
    assert result.deep is None


def test_verifying_an_address_says_to_pull_it():
    with pytest.raises(ConfigurationError, match="s3://a/b is an address; pull it into a folder first"):
        signals.verify_signals(commands.SignalsVerifyOptions(signals="s3://a/b"))


def test_options_are_checked():
    with pytest.raises(ConfigurationError, match="--max-gb"):
        commands.SignalsPruneOptions(max_gb=-1.0)
