"""Opening the HTML report in Chromium, beside opening the same page with one conversation, and an empty page.

    python -m benchmarks.report [--conversations 200] [--positions 300] [--repeats 7]

Needs chromium and chromedriver (Debian: chromium, chromium-driver). The time is what the page itself measures: from the
start of the navigation to the end of its load event, by which the first conversation is drawn.
"""

import argparse
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from selenium import webdriver
from tokenizers import Tokenizer, decoders, models

from data.report.html import write_report
from data.signals.dataset import SignalDataset
from data.signals.manifest import Manifest, describe_files, write_manifest
from data.signals.schema import ResponseSignals
from data.signals.shards import write_signal_shard
from data.signals.support import tail_logprobs

VOCAB_SIZE, TOP_K, PROMPT_LENGTH = 32_000, 50, 120
SWITCHES = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking " \
           "disable-component-update disable-sync disable-dev-shm-usage"  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--positions", type=int, default=300, help="tokens of each response")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = made_up_dataset(folder / "signals", arguments.conversations, arguments.positions)
        pages = {"empty page": folder / "empty.html"}
        pages["empty page"].write_text("<!doctype html><title>x</title>")
        for number in (1, arguments.conversations):
            page = folder / f"{number}.html"
            write_report(dataset, page, num_conversations=number)
            pages[f"{number} conversation{'s' if number > 1 else ''}"] = page
        sizes = [page.stat().st_size for page in pages.values()]
        times = opening_times(list(pages.values()), folder / "profile", arguments.repeats)
    one_conversation = times[1]
    for what, size, taken in zip(pages, sizes, times, strict=True):
        ratio = f"{taken / one_conversation:.2f} times one conversation"
        print(f"{what:>18}: {size / 1e6:5.1f} MB, {taken:5.0f} ms to the end of loading, {ratio}")


def opening_times(pages: list[Path], profile: Path, repeats: int) -> list[float]:
    """Median milliseconds from navigation to the end of the load event, page by page, taken in turns."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for switch in (*SWITCHES.split(), f"user-data-dir={profile}"):
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    times: list[list[float]] = [[] for _ in pages]
    script = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    try:
        for _ in range(repeats + 1):
            for page, taken in zip(pages, times, strict=True):
                driver.get(page.as_uri())
                taken.append(float(driver.execute_script(script)))
    finally:
        driver.quit()
    # The first round warms the browser up.
    return [statistics.median(taken[1:]) for taken in times]


def made_up_dataset(folder: Path, num_pairs: int, length: int) -> SignalDataset:
    """Signals of random distributions over a vocabulary of made-up words."""
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({f"Ġword{i}": i for i in range(VOCAB_SIZE)}, unk_token="Ġword0"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    rng = np.random.default_rng(0)
    rows = [
        made_up_row(rng, f"pair-{pair}", role, length)
        for pair in range(num_pairs)
        for role in ("chosen", "rejected")
    ]
    manifest = Manifest(kind="signals", request={"teacher": {"source": "made-up"}, "top_k": TOP_K}, shards=())
    shard = write_signal_shard(folder / "shard-00000.parquet", rows, fingerprint=manifest.fingerprint)
    files = describe_files(folder, "tokenizer")
    write_manifest(folder, replace(manifest, shards=(shard,), files=files))
    return SignalDataset.open(folder)


def made_up_row(rng: np.random.Generator, pair_id: str, role: str, length: int) -> ResponseSignals:
    """One response whose tokens are the teacher's second choices."""
    scores = -np.sort(-rng.normal(scale=2.0, size=(length, TOP_K + 1)), axis=1)
    logprobs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    kept = logprobs[:, :TOP_K].astype(np.float32).reshape(-1)
    advantages = rng.normal(scale=0.5, size=kept.shape).astype(np.float32)
    # Ids without repetition within a position: a random start and a stride that is prime to the vocabulary.
    ids = (rng.integers(VOCAB_SIZE, size=(length, 1)) + 7919 * np.arange(TOP_K)) % VOCAB_SIZE
    support_sizes = np.full(length, TOP_K, np.uint16)
    tails = tail_logprobs(kept, support_sizes, vocab_size=VOCAB_SIZE)
    second = np.arange(length) * TOP_K + 1
    return ResponseSignals(
        pair_id,
        role,
        0,
        rng.integers(VOCAB_SIZE, size=PROMPT_LENGTH).astype(np.int32),
        ids[:, 1].astype(np.int32),
        support_sizes=support_sizes,
        topk_ids=ids.astype(np.int32).reshape(-1),
        teacher_logprobs=kept,
        advantages=advantages,
        teacher_tail_logprobs=tails,
        reference_tail_logprobs=tails,
        teacher_token_logprobs=kept[second],
        reference_token_logprobs=(kept - advantages)[second],
    )


if __name__ == "__main__":
    main()
