"""What the recipes cost, by the arithmetic of --dry-run: operations, hours on three cards, memory, bytes.

    python -m benchmarks.recipe_costs                      # prints the tables
    python -m benchmarks.recipe_costs --write              # puts them into docs/recipes.md
    python -m benchmarks.recipe_costs --price h100-sxm=3   # and what they cost at your price an hour

Nothing is downloaded: shapes of the models are those of their config.json, lengths of the data are assumed (below).
"""

import argparse
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from data.hardware import CARDS, PRICED_CARDS, UTILISATION, describe_hours
from data.model_size import ModelSize
from student_training.model.layout import lay_out
from student_training.model.lora import add_lora
from student_training.monitoring.cost import Work, estimate_cost
from student_training.monitoring.throughput import student_size
from teacher_scoring.dry_run import SHARD_BYTES, position_bytes

_ROOT = Path(__file__).parent.parent
_PAGE = _ROOT / "docs" / "recipes.md"
_START, _END = "<!-- costs: python -m benchmarks.recipe_costs --write -->\n", "<!-- end of costs -->"
_PAIRS = ("danube3", "danube2", "llama2", "qwen3", "llama3", "smollm2")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of a dataset's rows, as the recipes read it: counts by its card, mean tokens assumed."""

    rows: int
    prompt: int
    answer: int
    held_out: int


#: 6,128 bytes a row of two conversations (dpo-mix-7k), 3,815 a pair (HelpSteer2, in the binarised copy of it), four
#: bytes and a little a token. Deita's conversations are longer than the 2,048 tokens that they are cut to.
DATA = {
    "argilla/dpo-mix-7k": Lengths(6750, 400, 300, 750),
    "HuggingFaceH4/deita-10k-v0-sft": Lengths(9500, 1600, 400, 500),
    "HuggingFaceH4/ultrafeedback_binarized": Lengths(20_000, 150, 300, 500),
    "nvidia/HelpSteer2": Lengths(7200, 170, 360, 360),
}


def _shape(
    model_type: str, width: int, layers: int, inner: int, heads: int, groups: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
        **more,
    }


_TIED = {"tie_word_embeddings": True}
#: By the last part of their names on the hub.
SHAPES = {
    "h2o-danube3-4b-base": _shape("llama", 3840, 24, 10240, 32, 8, 32000),
    "h2o-danube3-500m-base": _shape("llama", 1536, 16, 4096, 16, 8, 32000),
    "Mistral-7B-v0.1": _shape("mistral", 4096, 32, 14336, 32, 8, 32000),
    "h2o-danube2-1.8b-base": _shape("mistral", 2560, 24, 6912, 32, 8, 32000),
    "Llama-2-13b-hf": _shape("llama", 5120, 40, 13824, 40, 40, 32000),
    "Llama-2-7b-hf": _shape("llama", 4096, 32, 11008, 32, 32, 32000),
    "Qwen3-8B": _shape("qwen3", 4096, 36, 12288, 32, 8, 151936, head_dim=128),
    "Qwen3-0.6B": _shape("qwen3", 1024, 28, 3072, 16, 8, 151936, head_dim=128, **_TIED),
    "Llama-3.1-8B-Instruct": _shape("llama", 4096, 32, 14336, 32, 8, 128256),
    "Llama-3.2-1B-Instruct": _shape("llama", 2048, 16, 8192, 32, 8, 128256, head_dim=64, **_TIED),
    "SmolLM2-1.7B-Instruct": _shape("llama", 2048, 24, 8192, 32, 32, 49152, **_TIED),
    "SmolLM2-360M-Instruct": _shape("llama", 960, 32, 2560, 15, 5, 49152, **_TIED),
}
#: Share of a card that weights and states may take in training, and weights in scoring, as the two --dry-run have it.
_USABLE, _SCORING_SHARE = 0.92, 0.8

#: Both reward models are classifiers on a Llama 3 of 8 billion parameters.
_JUDGE = "Llama-3.1-8B-Instruct"


@dataclass(slots=True, kw_only=True)
class Price:
    """What one step takes.

    Attributes:
        name: of the step's file.
        tokens: prompt and response tokens that go through its models.
        flops: of all of them.
        needed_gib: what a card has to hold: weights, and in training gradients and AdamW's states.
        size_bytes: what it writes.
    """

    name: str
    tokens: float
    flops: float
    needed_gib: float
    size_bytes: float = 0.0

    def hours(self, card: str) -> float:
        """On one card, at the assumed utilisation."""
        return self.flops / (CARDS[card].peak_tflops * 1e12 * UTILISATION) / 3600


@dataclass(slots=True)
class Models:
    """Shapes by the names that recipes use; what a step trains has the shape of what it started from."""

    started_from: dict[str, str] = field(default_factory=dict)
    laid_out: dict[str, Any] = field(default_factory=dict)

    def configuration(self, name: str) -> Any:
        """Of a model on the hub, in models/, or made by an earlier step."""
        while name in self.started_from:
            name = self.started_from[name]
        shape = dict(SHAPES[name.split("/")[-1]])
        return AutoConfig.for_model(shape.pop("model_type"), **shape)

    def size(self, name: str) -> ModelSize:
        """Of its weights."""
        return student_size(self.student(name))

    def student(self, name: str) -> Any:
        """Built without weights."""
        key = repr(self.configuration(name).to_dict())
        if key not in self.laid_out:
            self.laid_out[key] = lay_out(self.configuration(name))
        return self.laid_out[key]

    def gib(self, name: str) -> float:
        """Of its weights in bfloat16."""
        return sum(2 * value.numel() for value in self.student(name).parameters()) / 2**30


def price_pair(pair: str) -> Iterator[Price]:
    """All steps of one folder of recipes."""
    models = Models()
    for path in sorted((_ROOT / "recipes" / pair).glob("*.toml")):
        text = path.read_text()
        step = tomllib.loads(text)
        match = re.match(r"# adpa (\S+)", text)
        assert match is not None
        pricing = {
            "train-student": _training,
            "score-teacher": _scoring,
            "sample-student": _sampling,
            "evaluate": _evaluation,
        }
        yield pricing[match[1]](path.stem, step, models, _lengths(pair, step))
        if "student" in step:
            models.started_from[step["out"]] = step["student"]


def _lengths(pair: str, step: Mapping[str, Any]) -> Lengths:
    """Of the step's data; signals are of the data that the pair's teacher was trained on."""
    if "data" in step:
        return DATA[step["data"]]
    teacher = next((_ROOT / "recipes" / pair).glob("*-teacher.toml"))
    return DATA[tomllib.loads(teacher.read_text())["data"]]


def _training(name: str, step: Mapping[str, Any], models: Models, lengths: Lengths) -> Price:
    student = lay_out(models.configuration(step["student"]))
    if "lora-rank" in step:
        student = add_lora(student, step["lora-rank"])
    rows_of_a_pair = 1 if step["method"] == "sft" else 2
    length = lengths.prompt + lengths.answer
    rows = lengths.rows * rows_of_a_pair
    epoch = Work(tokens=rows * length, attended=rows * length**2 / 2, positions=rows * lengths.answer)
    epochs = step.get("epochs", 1)
    pairs_of_a_step = step["batch-size"] * step["gradient-accumulation"]
    cost = estimate_cost(
        student_size(student),
        epoch.times(epochs),
        steps=math.ceil(lengths.rows / pairs_of_a_step) * epochs,
        first_pass=epoch if step["method"] == "dpo" else None,
        checkpointing=step["gradient-checkpointing"],
        dtype="bfloat16",
    )
    # What activations take on top is for --dry-run to say, which has the batches.
    held = sum((16 if value.requires_grad else 4) * value.numel() for value in student.parameters())
    saved = sum(4 * value.numel() for value in models.student(step["student"]).parameters())
    return Price(
        name=name,
        tokens=cost.tokens,
        flops=cost.flops,
        needed_gib=held / 2**30 / _USABLE,
        size_bytes=saved,
    )


def _scoring(name: str, step: Mapping[str, Any], models: Models, lengths: Lengths) -> Price:
    rows = lengths.rows * (1 if step.get("score") == ["student"] else 2)
    length, positions = lengths.prompt + lengths.answer, rows * lengths.answer
    flops = sum(
        models.size(step[model]).forward_flops(
            tokens=rows * length, attended=rows * length**2 / 2, positions=positions
        )
        for model in ("teacher", "reference")
    )
    size = positions * position_bytes(SHARD_BYTES["rounded"], step.get("top-k", 50))
    needed = models.gib(step["teacher"]) / _SCORING_SHARE
    return Price(name=name, tokens=2 * rows * length, flops=flops, needed_gib=needed, size_bytes=size)


def _sampling(name: str, step: Mapping[str, Any], models: Models, lengths: Lengths) -> Price:
    length = lengths.prompt + lengths.answer
    flops = models.size(step["student"]).forward_flops(
        tokens=lengths.rows * length,
        attended=lengths.rows * length**2 / 2,
        positions=lengths.rows * lengths.answer,
    )
    return Price(
        name=name,
        tokens=lengths.rows * length,
        flops=flops,
        needed_gib=models.gib(step["student"]) / _SCORING_SHARE,
    )


def _evaluation(name: str, step: Mapping[str, Any], models: Models, lengths: Lengths) -> Price:
    answering = [*step["model"], step["baseline"]]
    length, rows = lengths.prompt + lengths.answer, min(lengths.held_out, step.get("limit", lengths.held_out))
    asked = [models.size(model) for model in answering] + [models.size(_JUDGE)] * len(answering)
    flops = sum(each.forward_flops(tokens=rows * length, attended=rows * length**2 / 2) for each in asked)
    needed = max(models.gib(model) for model in (*answering, _JUDGE)) / _SCORING_SHARE
    return Price(name=name, tokens=len(asked) * rows * length, flops=flops, needed_gib=needed)


def table(pair: str, prices: Mapping[str, float]) -> list[str]:
    """One pair's table in Markdown."""
    steps = list(price_pair(pair))
    lines = [
        f"`recipes/{pair}`",
        "",
        "| step | million tokens | FLOPs | " + " | ".join(PRICED_CARDS) + " | memory | writes |",
        "| --- " * (5 + len(PRICED_CARDS)) + "|",
    ]
    for step in steps:
        hours = (_on_card(step, card) for card in PRICED_CARDS)
        writes = f"{step.size_bytes / 1e9:.2f} GB" if step.size_bytes else ""
        lines.append(
            f"| {step.name} | {step.tokens / 1e6:.1f} | {step.flops:.2g} | {' | '.join(hours)} | "
            f"{step.needed_gib:.0f} GiB | {writes} |"
        )
    total = [describe_hours(sum(step.hours(card) for step in steps)) for card in PRICED_CARDS]
    written = sum(step.size_bytes for step in steps) / 1e9
    flops = sum(step.flops for step in steps)
    lines.append(f"| all | | {flops:.2g} | {' | '.join(total)} | | {written:.1f} GB |")
    for card, price in prices.items():
        spent = price * sum(step.hours(card) for step in steps)
        lines.append(f"\nat ${price:g} an hour of {card}: ${spent:,.2f}")
    return lines


def _on_card(step: Price, card: str) -> str:
    cards = math.ceil(step.needed_gib / CARDS[card].memory_gib)
    several = f" (on {cards})" if cards > 1 else ""
    return f"{describe_hours(step.hours(card))}{several}"


def main() -> None:
    """Print the tables, or put them into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/recipes.md")
    parser.add_argument(
        "--price", action="append", default=[], metavar="CARD=DOLLARS", help="an hour of a card"
    )
    options = parser.parse_args()
    prices = {card: float(price) for card, price in (text.split("=") for text in options.price)}
    text = "\n".join(line for pair in _PAIRS for line in ("", *table(pair, prices))) + "\n\n"
    if not options.write:
        print(text)
        return
    head, rest = _PAGE.read_text().split(_START)
    _PAGE.write_text(head + _START + text + _END + rest.split(_END)[1])


if __name__ == "__main__":
    main()
