import dataclasses
import os
import shutil
import time

import pytest

from data import commands
from data.checks.verify import verify_dataset
from data.errors import ConfigurationError, ShardError


@pytest.fixture
def lines():
    return []


def test_verify_reports_and_fails_only_on_findings(tmp_path, make_dataset, lines):
    make_dataset(tmp_path)
    commands.verify_signals(commands.SignalsVerifyOptions(signals=str(tmp_path)), report=lines.append)
    assert lines == [f"{tmp_path}: sound"]
    (tmp_path / "shard-00001.parquet").unlink()
    lines.clear()
    options = commands.SignalsVerifyOptions(signals=str(tmp_path), repair=True)
    with pytest.raises(ShardError, match=r": 1 finding$"):
        commands.verify_signals(options, report=lines.append)
    assert lines[0] == "shard-00001.parquet: missing; re-run score-teacher to rebuild it"
    assert lines[-2] == f"  rm -f {tmp_path}/shard-00001.parquet"


def test_push_pull_list_and_prune(tmp_path, make_dataset, lines):
    make_dataset(tmp_path / "made")
    address = f"file://{tmp_path}/shared"
    commands.push_signals(
        commands.SignalsPushOptions(signals=str(tmp_path / "made"), address=address), report=lines.append
    )
    store = tmp_path / "store"
    commands.pull_signals(
        commands.SignalsPullOptions(address=address, out=str(store / "copy")), report=lines.append
    )
    assert lines[-1] == f"{store / 'copy'}: 30 responses, complete"
    assert verify_dataset(store / "copy") == []
    size = sum(path.stat().st_size for path in store.rglob("shard-*"))
    noon = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
    os.utime(store / "copy" / "manifest.json", (noon, noon))
    lines.clear()
    commands.list_signals(commands.SignalsListOptions(store=str(store)), report=lines.append)
    assert lines == [
        f"{store}: 1 dataset, {size / 1e6:.1f} MB",
        "name  kind     models  responses  positions   MB  made        used",
        f"copy  signals  tiny           30        121  {size / 1e6:.1f}  2026-03-01  2026-03-01",
    ]
    options = commands.SignalsPruneOptions(store=str(store), max_gb=0, dry_run=True)
    commands.prune_signals(options, report=lines.append)
    assert lines.pop() == f"would delete {store / 'copy'}: {size / 1e6:.1f} MB"
    commands.prune_signals(dataclasses.replace(options, dry_run=False), report=lines.append)
    assert lines.pop() == f"deleted {store / 'copy'}: {size / 1e6:.1f} MB"
    commands.prune_signals(dataclasses.replace(options, unused_days=1), report=lines.append)
    assert lines.pop() == f"{store}: nothing to delete"
    commands.list_signals(commands.SignalsListOptions(store=str(store)), report=lines.append)
    assert lines.pop() == f"{store}: no datasets"
    (store / "0123-45").mkdir()
    commands.list_signals(commands.SignalsListOptions(store=str(store)), report=lines.append)
    assert lines.pop() == "unfinished, or read from an address and not all here yet: 0123-45"
    (store / "0123-45" / "manifest.json").write_text("{")
    commands.list_signals(commands.SignalsListOptions(store=str(store)), report=lines.append)
    assert lines[-2] == f"{store}: no datasets"
    assert lines.pop().startswith(f"not usable: {store / '0123-45' / 'manifest.json'}: not JSON")


def test_pruning_by_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="give --unused-days, --max-gb or both"):
        commands.prune_signals(commands.SignalsPruneOptions())


def test_a_name_of_the_store_stands_for_its_folder(tmp_path, make_dataset, lines, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path))
    make_dataset(tmp_path / "signals" / "0123456789")
    commands.verify_signals(commands.SignalsVerifyOptions(signals="012345"), report=lines.append)
    commands.inspect_signals(commands.SignalsInspectOptions(signals="012345"), report=lines.append)
    assert lines[:2] == ["012345: sound", str(tmp_path / "signals" / "0123456789")]


def test_inspect_and_report_read_an_address(tmp_path, make_dataset, lines, monkeypatch):
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "home"))
    make_dataset(tmp_path / "made")
    address = f"file://{tmp_path}/made"
    commands.inspect_signals(commands.SignalsInspectOptions(signals=address), report=lines.append)
    assert any(line.startswith("chosen: 15 responses") for line in lines)
    shutil.rmtree(tmp_path / "home")
    out = tmp_path / "report.html"
    commands.report_signals(commands.SignalsReportOptions(signals=address, out=str(out)), report=lines.append)
    assert lines[-1] == f"{out}: {out.stat().st_size / 1e6:.1f} MB"


def test_rollouts_are_verified_but_not_scored_again(tmp_path, make_rollouts, lines):
    make_rollouts(tmp_path)
    commands.verify_signals(commands.SignalsVerifyOptions(signals=str(tmp_path)), report=lines.append)
    assert lines == [f"{tmp_path}: sound"]
    options = commands.SignalsVerifyOptions(signals=str(tmp_path), deep=3)
    with pytest.raises(
        ConfigurationError, match="holds rollouts, which no teacher has scored; leave the option out"
    ):
        commands.verify_signals(options, report=lines.append)


def test_verifying_an_address_says_to_pull_it():
    with pytest.raises(ConfigurationError, match="s3://a/b is an address; pull it into a folder first"):
        commands.verify_signals(commands.SignalsVerifyOptions(signals="s3://a/b"))


def test_options_are_checked():
    with pytest.raises(ConfigurationError, match="--max-gb"):
        commands.SignalsPruneOptions(max_gb=-1.0)
