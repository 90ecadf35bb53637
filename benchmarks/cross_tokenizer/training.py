"""What translated signals are worth: a student of another family beside one of the teacher's own, of about equal size.

    python -m benchmarks.cross_tokenizer.training --run runs/real-text/friendly-0-fast --gemma GEMMA --out runs/cross

The run is one of `benchmarks.real_text`: its teacher (SmolLM2-135M-Instruct after DPO), pairs, signals, held-out pairs
and students of the teacher's own family. Gemma 3 270M (base) is cut to a few layers and a small vocabulary, taught the
reference's answers by SFT, and trained on the same pairs: on their chosen texts alone, and on the translated signals
with the settings that the run's students have. Every model is then measured on the held-out pairs. What is finished is
not made again.
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adpa import SignalDataset, TrainOptions, read_preferences, train_student
from benchmarks.real_text.models.gemma import small_gemma
from benchmarks.real_text.models.weights import cut_student
from data.tokens.encoder import PairEncoder
from data.translation.dataset import translate_dataset
from evaluation.metrics.statistics import PromptBootstrap, mean_estimate

#: What is trained from the healed student: the method, and whether it reads signals.
METHODS = {"sft": False, "dckd": True, "abd": True}

#: What was measured: `abd` as it was before NLL became its default.
_SETTINGS = {"abd": {"nll_weight": 0.0}}

#: The students of the teacher's own family, by their folder in the run.
OWN_FAMILY = ("student", "sft-on-chosen", "dckd", "abd")

_BATCH = 16

#: What each family's models are compared with.
_BEGINNINGS = {
    "Gemma": "Gemma, untouched",
    "SmolLM2": "SmolLM2, student",
    "reference": "reference",
    "teacher": "reference",
}

_COLUMNS = ("chosen", "rejected", "chosen_bytes")


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model on the held-out pairs, one array element for a pair.

    Attributes:
        parameters: how many the model has.
        chosen: log-probability of the chosen answer with its end, nats.
        rejected: the same of the rejected one.
        chosen_bytes: UTF-8 bytes of the chosen answer.
    """

    parameters: int
    chosen: np.ndarray
    rejected: np.ndarray
    chosen_bytes: np.ndarray


def main() -> None:
    """Make the students, measure all models, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run of benchmarks.real_text")
    parser.add_argument("--gemma", type=Path, required=True, help="checkpoint of Gemma 3 270M")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 17], help="layers to keep")
    parser.add_argument("--heal-steps", type=int, default=80)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    healed = heal(options)
    translated = translate(options, healed)
    students = {"untouched": healed}
    for method, reads_signals in METHODS.items():
        source = {"signals": (str(translated),)} if reads_signals else {"data": str(data(options, "data"))}
        students[method] = train(options, method, healed, source, options.steps, 2e-4, 8)
    models = {f"Gemma, {name}": folder for name, folder in students.items()}
    own = {f"SmolLM2, {name}": options.run / "models" / name for name in OWN_FAMILY}
    models |= {name: folder for name, folder in own.items() if (folder / "config.json").exists()}
    models |= {name: options.run / "models" / name for name in ("reference", "teacher")}
    pairs = data(options, "held-out-pairs")
    kept = options.out / "measured"
    print_table({name: measure(folder, pairs, kept / f"{name}.json") for name, folder in models.items()})


def data(options: argparse.Namespace, name: str) -> Path:
    """A file of the run's preference rows."""
    return options.run / "data" / f"{name}.jsonl"


def heal(options: argparse.Namespace) -> Path:
    """The student: some layers and tokens of Gemma, taught the reference's answers to the training prompts."""
    files = ("answers", "data", "held-out")
    rows = [json.loads(line) for name in files for line in data(options, name).read_text().splitlines()]
    texts = {turn["content"] for row in rows for turn in row["prompt"]}
    texts |= {row[name] for row in rows for name in ("chosen", "rejected") if name in row}
    small = small_gemma(options.gemma, options.out, texts, common=8000)
    cut = cut_student(small, options.out / "gemma-cut", tuple(options.layers))
    source = {"data": str(data(options, "answers"))}
    return train(options, "sft", cut, source, options.heal_steps, 1e-3, 8, name="untouched")


def translate(options: argparse.Namespace, student: Path) -> Path:
    """The run's signals of its pairs on the student's ids."""
    source = SignalDataset.open(options.run / "signals" / "pairs")
    load = AutoTokenizer.from_pretrained
    result = translate_dataset(
        source, student, load_tokenizer=load, out=str(options.out / "signals"), max_length=512
    )
    print(result, flush=True)
    return result.path


def train(
    options: argparse.Namespace,
    method: str,
    start: Path,
    source: dict[str, Any],
    steps: int,
    rate: float,
    batch_size: int,
    *,
    name: str | None = None,
) -> Path:
    """A student trained by one method, from where it stopped."""
    out = options.out / "models" / (name or method)
    if not (out / "config.json").exists():
        train_student(
            TrainOptions(
                method=method,
                student=str(start),
                out=str(out),
                max_steps=steps,
                learning_rate=rate,
                batch_size=batch_size,
                warmup_steps=max(steps // 10, 1),
                logging_steps=10,
                **_SETTINGS.get(method, {}),
                **source,
            )
        )
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return out


@torch.no_grad()
def measure(folder: Path, pairs: Path, kept: Path) -> Measured:
    """Log-probabilities of both answers of every held-out pair under a model, kept in a file."""
    if kept.exists():
        found = json.loads(kept.read_text())
        return Measured(found["parameters"], *(np.array(found[name]) for name in _COLUMNS))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = PairEncoder(AutoTokenizer.from_pretrained(folder))
    rows = list(read_preferences(str(pairs)))
    encoded = [encoder.encode(row) for row in rows]
    if any(pair is None for pair in encoded):
        raise SystemExit(f"{folder}: {encoder.describe()}; the models must be measured on the same pairs")
    responses = [one for pair in encoded if pair for one in (*pair.chosen, *pair.rejected)]
    found = np.array(_logprobs(model, [(one.prompt_ids, one.ids) for one in responses]))
    sizes = np.array([len(str(row.chosen).encode()) for row in rows])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    measured = Measured(parameters, found[::2], found[1::2], sizes)
    kept.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: getattr(measured, name).tolist() for name in _COLUMNS}
    kept.write_text(json.dumps({"parameters": parameters, **columns}))
    return measured


def _logprobs(model: Any, sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    totals: list[float] = []
    for first in range(0, len(sequences), _BATCH):
        part = sequences[first : first + _BATCH]
        whole = [torch.from_numpy(np.concatenate(ids)).long() for ids in part]
        # Padded on the right: what follows a token does not change what is predicted at it.
        logits = model(torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)).logits
        for (prompt, response), ids, row in zip(part, whole, logits, strict=True):
            logprobs = row[len(prompt) - 1 : len(ids) - 1].double().log_softmax(-1)
            totals.append(float(logprobs.gather(1, ids[-len(response) :, None]).sum()))
    return totals


def print_table(measured: dict[str, Measured]) -> None:
    """Every model's figures with 95% intervals; differences are paired over the pairs."""
    first = next(iter(measured.values()))
    bootstrap = PromptBootstrap(len(first.chosen))
    print(f"\n{len(first.chosen)} held-out pairs, {first.chosen_bytes.sum():,} bytes of chosen answers\n")
    print(
        "| model | parameters | NLL, nats a byte | against its beginning | prefers chosen | reward prefers chosen |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    size = first.chosen_bytes / first.chosen_bytes.mean()
    for name, one in measured.items():
        start = measured.get(_BEGINNINGS[name.partition(",")[0]], one)
        nll = -one.chosen / first.chosen_bytes.mean()
        before = -start.chosen / first.chosen_bytes.mean()
        cells = [name, f"{one.parameters / 1e6:.1f} M", _ratio(nll, size, bootstrap)]
        is_start = one is start
        cells.append("" if is_start else _ratio(nll - before, size, bootstrap, sign="+"))
        cells.append(_share(one.chosen > one.rejected))
        # What DPO would call its implicit reward: the margin gained since the student began.
        gained = (one.chosen - one.rejected) - (start.chosen - start.rejected)
        cells.append("" if is_start else _share(gained > 0))
        print(f"| {' | '.join(cells)} |", flush=True)


def _ratio(values: np.ndarray, sizes: np.ndarray, bootstrap: PromptBootstrap, *, sign: str = "") -> str:
    """A ratio of two means with its interval: long answers count as much as they are long."""
    drawn = bootstrap.means(np.stack([values, sizes], 1))
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], (2.5, 97.5))
    return f"{values.mean() / sizes.mean():{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _share(hits: np.ndarray) -> str:
    found = mean_estimate(hits.astype(np.float64), bounds=(0, 1))
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"


if __name__ == "__main__":
    main()
