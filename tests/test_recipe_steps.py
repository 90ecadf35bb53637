"""The steps in recipes/ are commands that run: their keys, their order, and all of them on small models."""

import gzip
import json
import re
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification

from cli import commands
from data.options.config_file import read_config
from evaluation.options import WinRateOptions
from student_training.options import TrainOptions
from teacher_scoring.options import SampleOptions, ScoreOptions
from tests.data.tokens import chat_tokenizers
from tests.data.tokens.template_families import FAMILIES

RECIPES = Path(__file__).parent.parent / "recipes"
PAIRS = ("danube2", "danube3", "llama2", "llama3", "qwen3", "smollm2")
STEPS = {pair: sorted((RECIPES / pair).glob("*.toml")) for pair in PAIRS}
ALL_STEPS = [step for pair in PAIRS for step in STEPS[pair]]
OPTIONS = {
    "train-student": TrainOptions,
    "score-teacher": ScoreOptions,
    "sample-student": SampleOptions,
    "evaluate win-rate": WinRateOptions,
}
#: What one step reads and another one writes.
INPUTS = ("student", "teacher", "reference", "signals", "rollouts", "model", "baseline")
HUB = re.compile(r"[\w.-]+/[\w.-]+")


def command_of(step):
    """The command that a recipe's first line names, as words."""
    match = re.match(r"# adpa ([\w -]+) --config (\S+)\n", step.read_text())
    assert match is not None, step
    assert RECIPES.parent / match[2] == step
    return match[1].split()


def names(step, key):
    value = tomllib.loads(step.read_text()).get(key, [])
    return [value] if isinstance(value, str) else value


def test_every_folder_of_recipes_is_known_here():
    assert {path.name for path in RECIPES.iterdir() if path.is_dir()} == set(PAIRS)


@pytest.mark.parametrize("step", ALL_STEPS, ids=lambda step: f"{step.parent.name}/{step.stem}")
def test_a_recipe_holds_options_of_its_command_with_values_that_it_takes(step):
    options = OPTIONS[" ".join(command_of(step))]
    options(**read_config(str(step), options))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_recipe_reads_only_what_an_earlier_step_wrote_or_the_hub_has(pair):
    written = set()
    for step in STEPS[pair]:
        for name in (name for key in INPUTS for name in names(step, key)):
            made_by_hand = name.startswith("models/")
            assert (
                name in written or made_by_hand or (HUB.fullmatch(name) and not name.startswith("runs/"))
            ), step
        written.update(names(step, "out"))
    last = command_of(STEPS[pair][-1])
    assert last == ["evaluate", "win-rate"]


#: Keys that say what is run on what. A batch's size is a part of the step's, which the line below it explains.
NO_SETTINGS = {*INPUTS, "data", "split", "score", "method", "out", "batch-size"}


@pytest.mark.parametrize("step", ALL_STEPS, ids=lambda step: f"{step.parent.name}/{step.stem}")
def test_a_recipe_says_of_every_setting_whether_it_is_published_or_ours(step):
    text = step.read_text()
    unmarked = [
        line
        for line in text.splitlines()
        if not line.startswith("#")
        and line.partition(" = ")[0] not in NO_SETTINGS
        and not re.search(r"# .*\b(published|ours)\b", line)
    ]
    assert "All settings are ours." in text or not unmarked


# Small files of the columns that the datasets have on the hub, read July 2026 from their cards.


def turns(*texts):
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def dpo_mix(number):
    question = turns(f"question {number}", "an answer", "and then?")
    if number == 0:
        question = [{"role": "system", "content": "you are a system"}, *question]
    return {
        "dataset": "argilla/distilabel-capybara-dpo-7k-binarized",
        "chosen": [*question, {"role": "assistant", "content": "I am fine."}],
        "rejected": [*question, {"role": "assistant", "content": "the dog"}],
        "chosen_rating": 5.0,
        "rejected_rating": 2.0,
    }


def deita(number):
    long = "the lazy dog jumps " * 150  # longer than what a row may hold, so that it is cut
    messages = turns(f"question {number}", long if number == 0 else "hello", "and then?", "I am fine.")
    return {"prompt": messages[0]["content"], "prompt_id": f"{number:064x}", "messages": messages}


def ultrafeedback(number):
    chosen, rejected = (turns(f"question {number}", answer) for answer in ("I am fine.", "the dog"))
    return {
        "prompt": f"question {number}",
        "prompt_id": f"{number:064x}",
        "chosen": chosen,
        "rejected": rejected,
        "messages": chosen,
        "score_chosen": 8.5,
        "score_rejected": 4.0,
    }


def helpsteer(number):
    scores = {
        "helpfulness": 4 - 3 * (number % 2),
        "correctness": 4,
        "coherence": 4,
        "complexity": 2,
        "verbosity": 2,
    }
    return {"prompt": f"question {number // 2}", "response": ("I am fine.", "the dog")[number % 2], **scores}


def write_parquet(folder, splits, row):
    folder.mkdir(parents=True)
    for split in splits:
        path = folder / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist([row(number) for number in range(6)]), path)


def make_datasets():
    """In folders of the working folder, which come before the hub where they are there."""
    write_parquet(Path("argilla/dpo-mix-7k"), ("train", "test"), dpo_mix)
    write_parquet(
        Path("HuggingFaceH4/ultrafeedback_binarized"),
        ("train_prefs", "test_prefs", "train_sft"),
        ultrafeedback,
    )
    write_parquet(Path("HuggingFaceH4/deita-10k-v0-sft"), ("train_sft", "test_sft", "train_gen"), deita)
    folder = Path("nvidia/HelpSteer2")
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        lines = "".join(json.dumps(helpsteer(number)) + "\n" for number in range(6))
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
}
#: Architecture, tied embeddings, tokenizer of each pair.
MODELS = {
    "danube2": ("mistral", False, chat_tokenizers.plain_metaspace),
    "danube3": ("llama", False, chat_tokenizers.plain_metaspace),
    "llama2": ("llama", False, chat_tokenizers.plain_metaspace),
    "llama3": ("llama", True, chat_tokenizers.llama_3),
    "qwen3": ("qwen3", True, FAMILIES["qwen3"].tokenizer),
    "smollm2": ("llama", True, chat_tokenizers.chatml),
}


def save_model(folder, pair, seed):
    model_type, tied, make_tokenizer = MODELS[pair]
    tokenizer = make_tokenizer()
    config = AutoConfig.for_model(model_type, **SHAPE, vocab_size=len(tokenizer), tie_word_embeddings=tied)
    config.eos_token_id, config.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if folder.parts[0] == "models":
        # As docs/recipes.md has it for models without a template.
        (folder / "chat_template.jinja").write_text((RECIPES / "turns.jinja").read_text())


def save_judge(folder):
    tokenizer = chat_tokenizers.llama_3()
    config = LlamaConfig(**SHAPE, vocab_size=len(tokenizer), num_labels=1, pad_token_id=0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_models(pair):
    written = {name for step in STEPS[pair] for name in names(step, "out")}
    wanted = {name for step in STEPS[pair] for key in INPUTS for name in names(step, key)} - written
    for seed, name in enumerate(sorted(wanted)):
        save_model(Path(name), pair, seed)
    save_judge(Path(names(STEPS[pair][-1], "judge-reward-model")[0]))


#: What makes a step small. Batches first: how many pairs there are is not the recipe's.
SMALL = {
    "train-student": (
        "--max-steps",
        "1",
        "--batch-size",
        "2",
        "--gradient-accumulation",
        "1",
        "--logging-steps",
        "1",
    ),
    "score-teacher": ("--engine", "transformers", "--dtype", "float32"),
    "sample-student": ("--engine", "transformers", "--dtype", "float32", "--max-new-tokens", "4"),
    "evaluate": ("--engine", "transformers", "--dtype", "float32", "--max-new-tokens", "4", "--limit", "2"),
}


#: What --dry-run says of a step besides, the first of its command: a price on each of three cards.
PRICES = {
    "train-student": ((), r"on one card: h100-sxm \S+ \w+, rtx-4090 \S+ \w+, l4 \S+ \w+ "),
    "score-teacher": (
        ("--card", "h100-sxm", "--engine", "transformers"),
        r" on one h100-sxm .*\non one card of another kind: rtx-4090 \S+ \w+, l4 \S+ \w+\n",
    ),
}


def run(words, *arguments):
    result = CliRunner().invoke(commands, [*words, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_all_steps_of_a_recipe_run_on_small_models_of_its_architecture(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADPA_HOME", str(tmp_path / "home"))
    make_datasets()
    make_models(pair)
    priced = set()
    for step in STEPS[pair]:
        words = command_of(step)
        if words[0] in PRICES and words[0] not in priced:
            priced.add(words[0])
            arguments, said = PRICES[words[0]]
            assert re.search(said, run(words, "--config", str(step), "--dry-run", *arguments))
        run(words, "--config", str(step), *SMALL[words[0]], "--quiet")
        assert (tmp_path / names(step, "out")[0]).is_dir()
    assert priced == PRICES.keys()
