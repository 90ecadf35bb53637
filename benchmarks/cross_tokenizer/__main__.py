"""What translating signals onto another tokenizer keeps, by kind of text, and how fast it is.

    python -m benchmarks.cross_tokenizer --teacher smollm2-135m --student gemma-3-270m --out runs/cross

Scores a few answers of each kind with the teacher (transformers engine), translates each dataset for every student, and
prints the share of aligned positions and of placed mass. Students are the named folders with tokenizers, and with
`--packaged` GPT-2's tokenizer and one of Llama 2's form. Then many copies of all answers are translated for the first
student on one core, for the speed. Beside each translation is a drawing of one answer in both tokenizations.
"""

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

from transformers import AutoTokenizer

from adpa import ScoreOptions, SignalDataset, score_teacher
from benchmarks.cross_tokenizer.packaged import gpt2_tokenizer, llama_form_tokenizer
from benchmarks.folders import folder_with
from data.report.translated import tokenizations_svg
from data.signals.manifest import write_manifest
from data.signals.shards import write_signal_shard
from data.translation.dataset import translate_dataset

#: Question, a better and a worse answer, for each kind of text; all of it our own.
TEXTS: dict[str, list[tuple[str, str, str]]] = {
    "English": [
        (
            "Why do leaves turn red in autumn?",
            "In autumn trees stop making chlorophyll, so the green fades. Other pigments, which were there all along "
            "or are made from sugar on cool, bright days, become visible: yellows, oranges and reds.",
            "They just do, I don't know. It's cold and they're old, so they change and then they fall off the tree.",
        ),
        (
            "How can I keep bread fresh?",
            "Keep it in a paper bag or a bread box at room temperature and slice only what you need. What you will not "
            "eat within two days should be frozen; it thaws in a toaster.",
            "Put the bread in the fridge, on the top shelf, unwrapped. It will be fine for at least three weeks.",
        ),
    ],
    "code": [
        (
            "Write a function that counts words.",
            "def count_words(text: str) -> dict[str, int]:\n    counts = {}\n    for word in text.lower().split():\n"
            "        counts[word] = counts.get(word, 0) + 1\n    return counts\n",
            "words = len(text)  # 42?\nprint(words)\nreturn words[0:10] if words > 1024 else None\n",
        ),
    ],
    "German": [
        (
            "Warum ist der Himmel blau?",
            "Das Sonnenlicht wird an den Molekülen der Luft gestreut, und zwar umso stärker, je kürzer seine "
            "Wellenlänge ist. Deshalb erreicht uns aus allen Richtungen überwiegend blaues Licht.",
            "Weil er das Meer widerspiegelt, heißt es; außerdem wäre grün für Vögel äußerst verwirrend.",
        ),
    ],
    "Chinese": [
        (
            "为什么天空是蓝色的?",
            "太阳光穿过大气层时,空气分子对波长较短的蓝光散射得更强,所以从各个方向进入我们眼睛的主要是蓝光。",
            "因为天空喜欢蓝色,没有别的原因,我也不太清楚。",
        ),
    ],
    "emoji": [
        (
            "Congratulate me!",
            "Congratulations 🎉🎉 You did it! 🚀 Time for cake 🍰 and a long walk 🏞️ with friends 👩‍👩‍👧‍👦 😊",
            "ok 👍 whatever 🤷‍♀️ happens to everyone 🙃",
        ),
    ],
}


def main() -> None:
    """Print the table and the speed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=folder_with("config.json"), required=True)
    parser.add_argument(
        "--student",
        type=folder_with("tokenizer_config.json"),
        nargs="*",
        default=[],
        help="folders with tokenizers",
    )
    parser.add_argument("--packaged", action="store_true", help="also tokenizers out of packages")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument(
        "--copies", type=int, default=400, help="copies of every answer for the speed; 0: none"
    )
    options = parser.parse_args()
    students = {folder.name: folder for folder in options.student}
    if options.packaged:
        students["gpt2"] = gpt2_tokenizer(options.out / "gpt2")
        students["mistral-7b"] = llama_form_tokenizer(options.out / "mistral-7b")
    kinds = [*TEXTS.items(), ("all", [text for part in TEXTS.values() for text in part])]
    signals = {kind: _scored(kind, texts, options) for kind, texts in kinds}
    print("| student | text | positions | its positions | aligned | placed mass | exact | without a place |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, folder in students.items():
        for kind, source in signals.items():
            out = str(options.out / f"{kind}-{name}")
            result = translate_dataset(source, folder, load_tokenizer=AutoTokenizer.from_pretrained, out=out)
            there = SignalDataset.open(result.path)
            if example := there.manifest.created["translation"]["example"]:
                Path(f"{out}.svg").write_text(tokenizations_svg(example, is_file=True) + "\n")
            unplaced = " ".join(repr(text) for text, _ in result.unplaced_tokens[:4])
            print(
                f"| {name} | {kind} | {source.num_positions:,} | {there.num_positions:,} |"
                f" {result.aligned_share:.1%} | {result.placed_mass:.2%} | {result.exact_mass:.1%} | {unplaced} |",
                flush=True,
            )
    if options.copies:
        rate = _positions_per_second(signals["all"], next(iter(students.values())), options)
        print(f"\n{rate:,.0f} positions a second of one core, without the start")


def _scored(kind: str, texts: list[tuple[str, str, str]], options: argparse.Namespace) -> SignalDataset:
    """The teacher's signals on some answers."""
    data = options.out / f"{kind}.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    names = ("prompt", "chosen", "rejected")
    lines = [
        json.dumps({"id": str(n), **dict(zip(names, text, strict=True))}) for n, text in enumerate(texts)
    ]
    data.write_text("\n".join(lines) + "\n")
    return score_teacher(
        ScoreOptions(
            teacher=str(options.teacher),
            data=str(data),
            top_k=options.top_k,
            engine="transformers",
            store_conversations=True,
            out=str(options.out / f"{kind}-signals"),
            pass_cache=str(options.out / "passes"),
        )
    ).open()


def _positions_per_second(source: SignalDataset, student: Path, options: argparse.Namespace) -> float:
    """From two datasets of different size, so that loading the tokenizers does not count."""
    measured = []
    for copies in (options.copies // 5, options.copies):
        dataset = _copied(source, options.out / f"copies-{copies}", copies)
        out = options.out / f"copies-{copies}-translated"
        shutil.rmtree(out, ignore_errors=True)
        begun = time.process_time()
        translate_dataset(dataset, student, load_tokenizer=AutoTokenizer.from_pretrained, out=str(out))
        measured.append((dataset.num_positions, time.process_time() - begun))
    (few, short), (many, long) = measured
    return (many - few) / (long - short)


def _copied(source: SignalDataset, folder: Path, copies: int) -> SignalDataset:
    """A dataset of many copies of another's rows, in one shard."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source.tokenizer_folder, folder / "tokenizer")
    rows = list(source.iterate())
    many = (
        dataclasses.replace(row, pair_id=f"{copy}-{row.pair_id}") for copy in range(copies) for row in rows
    )
    request = {**source.manifest.request, "copies": copies}
    manifest = dataclasses.replace(source.manifest, request=request, files=(), format_version=2)
    entry = write_signal_shard(
        folder / "shard-00000.parquet", many, fingerprint=manifest.fingerprint, format_version=2
    )
    write_manifest(folder, dataclasses.replace(manifest, shards=(entry,)))
    return SignalDataset.open(folder)


if __name__ == "__main__":
    main()
