import sys

import pytest

from data.errors import ConfigurationError
from data.options.addresses import check_address, load_address


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of a user, who has a module there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_check_address_does_not_run_the_module(folder):
    (folder / "raises_when_run.py").write_text("raise RuntimeError\n\ndef judge(): ...\n")
    check_address("raises_when_run:judge", "--judge-function")


def test_check_address_accepts_names_that_come_from_elsewhere(folder):
    (folder / "passes_on.py").write_text("from json import *\n")
    check_address("passes_on:loads", "--judge-function")
    assert load_address("passes_on:loads", "--judge-function")("1") == 1


@pytest.mark.parametrize("address", ["judge", "judge:", ":judge", ".judge:f"])
def test_check_address_refuses_what_has_another_form(address):
    with pytest.raises(ConfigurationError, match=r"--method: .* is not MODULE:NAME"):
        check_address(address, "--method")


def test_load_address_names_an_object_that_is_not_there():
    with pytest.raises(
        ConfigurationError, match=r"json:nothing cannot be imported: .*no attribute 'nothing'"
    ):
        load_address("json:nothing", "--method")
