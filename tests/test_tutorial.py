"""docs/tutorial.md typed by hand from top to bottom, in an empty folder, on a tiny model with random weights."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def files() -> dict[str, str]:
    """The files that the page asks for: a line `NAME`: above a block."""
    return dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    """What is typed, in order: the lines that begin with `$ `, and those that a backslash goes on to."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    typed = re.findall(r"^\$ ((?:.*\\\n)*.*)$", "\n".join(blocks), re.MULTILINE)
    return [line.replace("\\\n", " ") for line in typed]


def outputs() -> list[list[str]]:
    """By command, in the order of `commands`, the printed lines that say what was made, up to where they are cut."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    typed = re.findall(r"^\$ (?:.*\\\n)*.*\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.MULTILINE)
    made = re.compile(r"(runs/\w+|signals/[\w-]+|teacher|reference|pairs\.jsonl|report\.html): ")
    return [[line.split("…")[0].rstrip() for line in text.splitlines() if made.match(line)] for text in typed]


def without_numbers(line: str) -> str:
    return re.sub(r"[-+]?\d[\d,.]*", "#", line)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """As many layers as the page keeps and two more, and a tokenizer of single bytes."""
    folder = tmp_path_factory.mktemp("tutorial") / "model"
    special = ["<|im_start|>", "<|im_end|>", "<pad>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + letters)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run(line: str, *, model: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """One typed line: with `adpa` and `python` of this checkout, and in the working folder."""
    programs = {
        "adpa": f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'cli.py'))}",
        "python": shlex.quote(sys.executable),
    }
    for name, program in programs.items():
        line = re.sub(rf"(^|\| ){name} ", lambda found, program=program: f"{found[1]}{program} ", line)
    environment = {**os.environ, "MODEL": str(model), "PYTHONPATH": os.pathsep.join([str(ROOT), "."])}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_tutorial_names_every_file_and_command_that_it_uses():
    assert {"make_pairs.py", "make_student.py", "judge.py"} <= set(files())
    stages = [line.split(" --")[0].removeprefix("adpa ") for line in commands() if line.startswith("adpa ")]
    for stage in ("score-teacher", "train-student", "evaluate win-rate", "evaluate signals"):
        assert stage in stages
    assert len(outputs()) == len(commands())
    with_output = sum(map(bool, outputs()))
    assert with_output >= 7


@pytest.mark.slow
def test_tutorial_works_from_an_empty_folder_to_an_evaluated_student(tiny_model, tmp_path):
    for name, content in files().items():
        (tmp_path / name).write_text(content)
    for line, shown in zip(commands(), outputs(), strict=True):
        if line.startswith("export "):
            continue
        finished = run(line, model=tiny_model, folder=tmp_path)
        assert finished.returncode == 0, (line, finished.stderr[-2000:])
        printed = [without_numbers(text) for text in (finished.stdout + finished.stderr).splitlines()]
        for text in map(without_numbers, shown):
            assert any(said.startswith(text) for said in printed), (line, text, printed)
    assert (tmp_path / "runs" / "dckd" / "model.safetensors").exists()
    metrics = [json.loads(text) for text in (tmp_path / "runs" / "dckd" / "metrics.jsonl").open()]
    assert metrics[-1]["step"] == 24
    assert "<html" in (tmp_path / "report.html").read_text()
    assert list((tmp_path / "runs" / "wins").glob("*.json*"))
