"""What `score-teacher --dry-run` says of two well-known data sets and two well-known models.

    python -m benchmarks.dry_runs

Made here: rows in the data sets' own forms and as many as their training splits have, with lengths drawn around what
their cards say; the models' configurations, and a tokenizer of as many words. No weights, nothing downloaded.
"""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).parent.parent
VOCAB_SIZE = 32_000
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}w1 {{ m.content }} {% else %}w2 {{ m.content }} "
    "{{ eos_token }} {% endif %}{% endfor %}{% if add_generation_prompt %}w2{% endif %}"
)


def configurations() -> dict[str, PretrainedConfig]:
    """The shapes of Mistral-7B-v0.1 and Llama-2-13B."""
    return {
        "mistral-7b": MistralConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=32_768,
            architectures=["MistralForCausalLM"],
        ),
        "llama-2-13b": LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=5120,
            intermediate_size=13_824,
            num_hidden_layers=40,
            num_attention_heads=40,
            num_key_value_heads=40,
            max_position_embeddings=4096,
            architectures=["LlamaForCausalLM"],
        ),
    }


def save_model(folder: Path, config: PretrainedConfig) -> None:
    """A configuration and a tokenizer; no weights."""
    config.save_pretrained(folder)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, VOCAB_SIZE)}}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)


class Drawn:
    """Texts of random words, as long as tokens of real ones."""

    def __init__(self) -> None:
        """Always the same ones."""
        self._draw = random.Random(0)

    def text(self, mean: float) -> str:
        """Lengths are log-normal, their deviation about their mean."""
        number = max(1, round(mean * self._draw.lognormvariate(-0.32, 0.8)))
        return " ".join(f"w{self._draw.randrange(3, VOCAB_SIZE)}" for _ in range(number))

    def dpo_mix_7k(self) -> Iterator[dict[str, Any]]:
        """6,750 pairs of conversations, a quarter of them of three turns."""
        for _ in range(6750):
            turns = self._draw.choice([1, 1, 1, 3])
            before: list[dict[str, str]] = []
            for _ in range(turns - 1):
                before += [
                    {"role": "user", "content": self.text(60)},
                    {"role": "assistant", "content": self.text(250)},
                ]
            before.append({"role": "user", "content": self.text(150)})
            answers = [{"role": "assistant", "content": self.text(300)} for _ in range(2)]
            yield {
                "dataset": "drawn",
                "chosen": [*before, answers[0]],
                "rejected": [*before, answers[1]],
                "chosen_rating": 5.0,
                "rejected_rating": 4.0,
            }

    def helpsteer2(self) -> Iterator[dict[str, Any]]:
        """20,324 rated answers, two to each prompt one after the other."""
        for _ in range(20_324 // 2):
            prompt = self.text(180)
            for _ in range(2):
                ratings = {
                    name: self._draw.choices(range(5), weights=(6, 8, 18, 40, 28))[0]
                    for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
                }
                yield {"prompt": prompt, "response": self.text(370), **ratings}


def main() -> None:
    """Run the four commands and print what they print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model, config in configurations().items():
            save_model(folder / model, config)
        for data, rows in (("dpo-mix-7k", Drawn().dpo_mix_7k()), ("HelpSteer2", Drawn().helpsteer2())):
            with (folder / f"{data}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            for model in configurations():
                print(f"\n{model} on {data}", flush=True)
                options = [
                    "--teacher",
                    model,
                    "--reference",
                    model,
                    "--data",
                    f"{data}.jsonl",
                    "--out",
                    "signals",
                ]
                command = [sys.executable, str(ROOT / "cli.py"), "score-teacher", *options, "--dry-run"]
                subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main()
