"""Whole datasets on another tokenizer's ids."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data.checks.verify import verify_dataset
from data.errors import DataError, ShardError
from data.preferences.messages import PreferenceRow
from data.report.html import write_report
from data.report.summary import summarize_dataset
from data.report.terminal import inspect_lines
from data.signals.dataset import TOKENIZER_FOLDER, SignalDataset
from data.signals.manifest import Manifest, describe_files, write_manifest
from data.signals.shards import write_signal_shard
from data.signals.support import tail_logprobs
from data.tokens.encoder import PairEncoder
from data.translation import shard as translation
from data.translation.dataset import translate_dataset

TEXTS = [
    ("What is the capital of France?", "Paris is the capital of France.", "I do not know — sorry!"),
    ("Wie heißt der Fluss?", "Der Fluss heißt Donau, glaube ich.", "Wasser fließt überall."),
    ("Print one", "print(1)\n  # done\n", "return 0;  // nothing"),
    ("Say hi", "Hi 🎉 there, 你好!", "hello hello hello"),
    ("Count", "1, 2, 3, 4, 5", "one two"),
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OTHER = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def train_tokenizer(vocab_size, end, specials, template):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=sorted(alphabet), show_progress=False
    )
    core.train_from_iterator([" ".join(text) for text in TEXTS] * 3, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end)
    made.chat_template = template
    return made


def score(row, tokenizer, rng, top_k=20):
    """The row with random distributions over the tokenizer's whole vocabulary."""
    size = len(tokenizer)
    logits = rng.normal(scale=3.0, size=(2, row.num_scored, size))
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ids = np.argsort(-logprobs[0], axis=1, kind="stable")[:, :top_k].astype(np.int32)
    kept = np.take_along_axis(logprobs, ids[None], 2).astype(np.float32).reshape(2, -1)
    sizes = np.full(len(ids), top_k, np.uint16)
    tails = [tail_logprobs(values, sizes, vocab_size=size) for values in kept]
    tokens = [model[np.arange(len(ids)), row.scored_ids].astype(np.float32) for model in logprobs]
    return row.with_signals(
        support_sizes=sizes,
        topk_ids=ids.ravel(),
        teacher_logprobs=kept[0],
        advantages=kept[0] - kept[1],
        teacher_tail_logprobs=tails[0],
        reference_tail_logprobs=tails[1],
        teacher_token_logprobs=tokens[0],
        reference_token_logprobs=tokens[1],
    )


def save_source(
    folder,
    tokenizer,
    *,
    conversations=True,
    precision="exact",
    pairs_per_shard=2,
    texts=TEXTS,
    template_args=None,
):
    """A signal dataset with random distributions; `texts` are (prompt, chosen, rejected), each text or messages."""
    encoder = PairEncoder(tokenizer, store_conversations=conversations, template_args=template_args)
    rng = np.random.default_rng(0)
    given = [PreferenceRow(f"p{i}", *three, f"row {i}") for i, three in enumerate(texts)]
    rows = [[score(row, tokenizer, rng) for row in encoder.encode(one).rows()] for one in given]
    request = {"teacher": {"source": "t", "vocab_size": len(tokenizer)}, "precision": precision}
    request |= {"tokenizer": encoder.tokenizer_hash, "chat_template": encoder.template_hash}
    folder.mkdir()
    tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    manifest = Manifest(kind="signals", request=request, shards=(), format_version=2)
    entries = []
    for number, start in enumerate(range(0, len(rows), pairs_per_shard)):
        part = [row for pair in rows[start : start + pairs_per_shard] for row in pair]
        path = folder / f"shard-{number:05d}.parquet"
        entry = write_signal_shard(
            path, part, fingerprint=manifest.fingerprint, precision=precision, format_version=2
        )
        entries.append(entry)
    files = describe_files(folder, TOKENIZER_FOLDER)
    write_manifest(folder, dataclasses.replace(manifest, shards=tuple(entries), files=files))
    return SignalDataset.open(folder)


@pytest.fixture(scope="module")
def teacher_tokenizer():
    return train_tokenizer(330, "<|im_end|>", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML)


@pytest.fixture(scope="module")
def student_tokenizer():
    return train_tokenizer(290, "<end>", ["<end>"], OTHER)


@pytest.fixture
def source(tmp_path, teacher_tokenizer):
    return save_source(tmp_path / "source", teacher_tokenizer)


@pytest.fixture
def student_folder(tmp_path, student_tokenizer):
    student_tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


load = AutoTokenizer.from_pretrained


def test_translation_renders_the_conversation_as_the_student_would(source, student_folder, tmp_path):
    result = translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "out"))
    translated = SignalDataset.open(result.path)
    tokenizer = load(student_folder)
    assert translated.num_pairs == len(TEXTS)
    for index, (prompt, chosen, rejected) in enumerate(TEXTS):
        rows = translated.pair(index)
        assert [row.role for row in rows] == ["chosen", "rejected"]
        for row, answer in zip(rows, (chosen, rejected), strict=True):
            assert tokenizer.decode(row.prompt_ids) == f"<user> {prompt}<end><assistant> "
            assert tokenizer.decode(row.response_ids) == f"{answer}<end>"
    assert list(verify_dataset(result.path)) == []


def test_translation_keeps_the_log_probability_of_every_response(source, student_folder, tmp_path):
    result = translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "out"))
    translated = SignalDataset.open(result.path)
    for old, new in zip(source.iterate(), translated.iterate(), strict=True):
        for name in ("teacher_token_logprobs", "reference_token_logprobs"):
            before, after = (getattr(row, name).astype(np.float64).sum() for row in (old, new))
            # float32 sums of some ten numbers of size 10.
            assert after == pytest.approx(before, rel=1e-6)


def test_translation_gives_positions_that_do_not_align_no_distribution(source, student_folder, tmp_path):
    result = translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "out"))
    rows = list(SignalDataset.open(result.path).iterate())
    empty = np.concatenate([row.support_sizes == 0 for row in rows])
    assert 0 < empty.mean() == pytest.approx(1 - result.aligned_share)
    for row in rows:
        without = row.support_sizes == 0
        assert (row.teacher_tail_logprobs[without] == 0).all()
        assert (row.reference_tail_logprobs[without] == 0).all()


def test_translation_onto_the_same_pieces_under_other_ids_changes_ids_alone(
    source, teacher_tokenizer, tmp_path
):
    state = json.loads(teacher_tokenizer.backend_tokenizer.to_str())
    order = np.random.default_rng(5).permutation(len(teacher_tokenizer))
    state["model"]["vocab"] = {piece: int(order[i]) for piece, i in state["model"]["vocab"].items()}
    for entry in state["added_tokens"]:
        entry["id"] = int(order[entry["id"]])
    core = Tokenizer.from_str(json.dumps(state))
    disguised = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
    disguised.chat_template = CHATML
    disguised.save_pretrained(tmp_path / "disguised")
    result = translate_dataset(source, tmp_path / "disguised", load_tokenizer=load, out=str(tmp_path / "out"))
    assert result.aligned_share == 1.0
    # Only special tokens without a role in both tokenizers (the start of a turn) have no counterpart.
    assert {text for text, _ in result.unplaced_tokens} <= {"<|endoftext|>", "<|im_start|>"}
    lost = {0, 1}
    for old, new in zip(source.iterate(), SignalDataset.open(result.path).iterate(), strict=True):
        assert new.response_ids.tolist() == order[old.response_ids].tolist()
        keep = ~np.isin(old.topk_ids, list(lost))
        assert new.topk_ids.tolist() == order[old.topk_ids[keep]].tolist()
        for name in ("teacher_logprobs", "advantages"):
            assert getattr(new, name).tobytes() == getattr(old, name)[keep].tobytes()
        whole = np.add.reduceat(~keep, np.arange(0, len(keep), 20)) == 0
        for name in ("teacher_tail_logprobs", "reference_tail_logprobs"):
            assert getattr(new, name)[whole].tobytes() == getattr(old, name)[whole].tobytes()
        for name in ("teacher_token_logprobs", "reference_token_logprobs"):
            assert getattr(new, name).tobytes() == getattr(old, name).tobytes()


def test_translation_continues_after_an_interruption_with_the_same_bytes(
    source, student_folder, tmp_path, monkeypatch
):
    whole = translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "whole"))
    write, calls = translation.write_signal_shard, []

    def broken(path, rows, **settings):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(path, rows, **settings)

    translate = functools.partial(
        translate_dataset, source, student_folder, load_tokenizer=load, out=str(tmp_path / "out")
    )
    monkeypatch.setattr(translation, "write_signal_shard", broken)
    with pytest.raises(KeyboardInterrupt):
        translate()
    assert not (tmp_path / "out" / "manifest.json").exists()
    translate()
    assert calls == [
        "shard-00000.parquet",
        "shard-00001.parquet",
        "shard-00001.parquet",
        "shard-00002.parquet",
    ]
    for file in sorted(whole.path.rglob("*.parquet")):
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()
    assert (whole.path / "manifest.json").read_bytes() == (tmp_path / "out" / "manifest.json").read_bytes()
    assert translate().reused


@pytest.mark.slow
def test_translation_by_workers_gives_the_same_bytes(source, student_folder, tmp_path):
    one = translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "one"))
    two = translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "two"), workers=2)
    for file in sorted(one.path.rglob("*.parquet")):
        assert file.read_bytes() == (two.path / file.name).read_bytes()


def test_translation_refuses_a_dataset_without_conversations(tmp_path, teacher_tokenizer, student_folder):
    source = save_source(tmp_path / "plain", teacher_tokenizer, conversations=False)
    with pytest.raises(DataError, match="stored without its conversation"):
        translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "out"))


def test_translation_refuses_a_folder_with_something_else(source, student_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ShardError, match="is not empty and holds no translation"):
        translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "out"))


def test_translation_drops_a_pair_whose_renderings_differ(source, student_tokenizer, tmp_path):
    # The template shouts: the bytes of no answer with a letter agree.
    student_tokenizer = AutoTokenizer.from_pretrained(_saved(student_tokenizer, tmp_path / "plain"))
    student_tokenizer.chat_template = OTHER.replace("m.content", "(m.content | replace('Paris', 'PARIS'))")
    student_tokenizer.save_pretrained(tmp_path / "shouting")
    result = translate_dataset(source, tmp_path / "shouting", load_tokenizer=load, out=str(tmp_path / "out"))
    translated = SignalDataset.open(result.path)
    assert translated.num_pairs == len(TEXTS) - 1
    assert "p0" not in translated.pair_ids
    assert sum(result.dropped.values()) == 2


def _saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return folder


def test_the_report_draws_a_response_in_both_tokenizations(
    source, teacher_tokenizer, student_folder, tmp_path
):
    result = translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "out"))
    dataset = SignalDataset.open(result.path)
    example = dataset.manifest.created["translation"]["example"]
    old, new = next(source.iterate()), next(dataset.iterate())
    shown = [len(example["teacher"]), len(example["student"])]
    assert "".join(text for text, _ in example["teacher"]) == teacher_tokenizer.decode(
        old.response_ids[: shown[0]]
    )
    assert example["aligned"] == (new.support_sizes[: shown[1]] > 0).tolist()
    write_report(dataset, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "One response in both tokenizations" in page
    assert f"{result.aligned_share:.1%}" in page


def test_inspect_says_what_a_translation_kept(source, student_folder, tmp_path):
    result = translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "out"))
    lines = "\n".join(inspect_lines(summarize_dataset(SignalDataset.open(result.path))))
    assert f"aligned positions  {result.aligned_share:.1%}" in lines
    assert f"placed mass        {result.placed_mass:.2%}" in lines
