"""Families of tokenizers, and texts that some of them change."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data.checks.verify import verify_dataset
from data.errors import DataError
from data.signals.dataset import SignalDataset
from data.translation.alignment import align
from data.translation.dataset import translate_dataset
from data.translation.token_bytes import TokenBytes
from tests.data.translation.test_dataset import CHATML, OTHER, TEXTS, save_source, train_tokenizer
from tests.data.translation.test_projection import SINGLE, byte_level

CORPUS = [" ".join(text) for text in TEXTS] * 3
LLAMA = (
    "{% for m in messages %}<s>[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>[assistant] {% endif %}"
)
SPECIALS = ["<unk>", "<s>", "</s>"]


def sentencepiece(*, byte_fallback=True, added=(), prefix=False):
    """Llama 2's and Gemma's form: spaces as `▁`, bytes that are no piece as `<0x0A>`."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=[*SPECIALS, *pieces], show_progress=False)
    trained.train_from_iterator([*CORPUS, "def f():\n    return 1"] * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    core = Tokenizer(
        models.BPE(vocab=model["vocab"], merges=merges, unk_token="<unk>", byte_fallback=byte_fallback)
    )
    before = [normalizers.Prepend("▁")] if prefix else []
    core.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(SPECIALS)
    core.add_tokens([AddedToken(token, normalized=False, special=False) for token in added])
    return around(core)


def unigram(mark="▁"):
    """T5's and XLM-R's form: no bytes; NFKC, and spaces that follow each other become one."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")],
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(mark)
    core.decoder = decoders.Metaspace(mark)
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    return around(core)


def around(core):
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = LLAMA
    return made


@pytest.fixture(scope="module")
def teacher():
    return train_tokenizer(330, "<|im_end|>", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML)


def translated(tmp_path, teacher, student, texts, **settings):
    """(the source, the result) of a translation of a few pairs."""
    source = save_source(tmp_path / "source", teacher, texts=texts, **settings)
    (tmp_path / "student").mkdir()
    tokenizers = {source.tokenizer_folder: teacher, tmp_path / "student": student}
    out = str(tmp_path / "out")
    return source, translate_dataset(
        source, tmp_path / "student", load_tokenizer=tokenizers.__getitem__, out=out
    )


ODD = [
    ("line ends", "Hello\r\nthere", "a\r\n\r\nb"),
    ("NUL", "a\x00b c", "x\x00"),
    ("emoji", "Hi 👩‍👩‍👧 there 😀", "flags 🇩🇪🇫🇷"),
    ("right to left", "שלום עולם", "مرحبا بالعالم"),
    ("accents by themselves", "cafe\u0301", "na\u0308h"),
    ("a long word", "a" * 400, "=" * 300),
    ("blanks", "   ", "\n\n"),
    ("typed bytes", "<0x0A> literally", "\\x41 \\n"),
    ("another family's special tokens", "say <s> and </s>", "<|im_start|>user"),
]


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        # `<s>` and `</s>` typed by a user are special here, `<|im_start|>` is in the teacher's tokens.
        (sentencepiece, {"p8"}),
        (lambda: sentencepiece(prefix=True), {"p8"}),
        (lambda: train_tokenizer(270, "<end>", ["<end>"], OTHER), {"p8"}),
    ],
)
def test_translation_keeps_odd_texts_whose_bytes_both_tokenizers_spell(tmp_path, teacher, make, lost):
    source, result = translated(tmp_path, teacher, make(), ODD, precision="rounded")
    rows = {(row.pair_id, row.role): row for row in SignalDataset.open(result.path).iterate()}
    assert {f"p{i}" for i in range(len(ODD))} - {pair_id for pair_id, _ in rows} == lost
    assert list(verify_dataset(result.path)) == []
    for old in source.iterate():
        if old.pair_id not in lost:
            new = rows[old.pair_id, old.role]
            sums = [row.teacher_token_logprobs.astype(np.float64).sum() for row in (old, new)]
            # float32 sums of some hundred numbers.
            assert sums[1] == pytest.approx(sums[0], rel=1e-6)


def test_translation_onto_a_vocabulary_without_bytes_drops_what_it_cannot_spell(tmp_path, teacher):
    source, result = translated(tmp_path, teacher, unigram(), [*TEXTS, *ODD], precision="rounded")
    kept = set(SignalDataset.open(result.path).pair_ids)
    # Line ends, two spaces, and letters that it never saw are lost.
    assert kept == {"p0", "p1", "p3", "p4"}
    assert result.first_dropped["the two renderings do not spell the same bytes"] == "p2"
    # Much of the mass has no place. Rounded for storage it is no exact sum, and still within what is checked.
    assert result.placed_mass < 0.9
    assert list(verify_dataset(result.path)) == []
    assert source.num_pairs == len(TEXTS) + len(ODD)


def test_token_bytes_of_runs_of_blanks_that_are_added_tokens_are_blanks(tmp_path, teacher):
    student = sentencepiece(added=("▁▁▁▁", "▁▁", "\n\n"))
    pieces = student.backend_tokenizer.get_vocab(with_added_tokens=False)
    assert "▁▁" in pieces
    tokens = TokenBytes(student, name="gemma")
    assert tokens[student.convert_tokens_to_ids("▁▁")] == b"  "
    assert tokens[student.convert_tokens_to_ids("\n\n")] == b"\n\n"
    texts = [("Print one", "def f():\n    return 1", "x\n\n  y")]
    _, result = translated(tmp_path, teacher, student, texts)
    assert result.rows == 2


def test_token_bytes_read_the_mark_that_a_vocabulary_has_for_a_space():
    tokens = TokenBytes(unigram(mark="␣"), name="t5")
    assert b" the" in {tokens[token] for token in range(tokens.vocab_size)}


def test_token_bytes_of_a_tokenizer_without_a_file_are_refused():
    with pytest.raises(DataError, match=r"cannot be told \(object has no tokenizer.json\)"):
        TokenBytes(object(), name="ByT5")


def test_first_piece_of_text_that_the_tokenizer_changes_has_no_place():
    core = byte_level([*SINGLE, b"pa"], merges=[(b"p", b"a")])
    core.normalizer = normalizers.Lowercase()
    student = TokenBytes(core, name="lower")
    assert student[student.first_piece(b"par")] == b"pa"
    assert student.first_piece(b"Par") is None
    # A character that is not whole does not go through the tokenizer.
    assert student[student.first_piece(b"pa\xf0\x9f")] == b"pa"


@pytest.fixture(scope="module")
def special():
    """Single bytes, and a special token inside a text beside the end of turn."""
    return TokenBytes(byte_level(SINGLE, specials=("<end>", "<tool>")), name="t")


def test_alignment_puts_special_tokens_of_one_place_together(special):
    found = align([97, 257, 98, 256], [97, 257, 98, 256], special, special, terminated=True)
    assert found.aligned.tolist() == [0, 1, 2, 3]
    assert found.spans.tolist() == [0, 1, 2, 3]


def test_alignment_refuses_special_tokens_that_one_side_lacks(special):
    assert align([97, 257, 98], [97, 98], special, special, terminated=False) is None
    assert align([97, 98], [97, 98, 257], special, special, terminated=False) is None
    assert align([257, 97, 98], [97, 257, 98], special, special, terminated=False) is None


def test_alignment_forgives_every_blank_that_templates_trim(special):
    ideographic, no_break = list("\u3000".encode()), list("\u00a0".encode())
    found = align([*ideographic, 97, *no_break], [97], special, special, terminated=False)
    assert found.aligned.tolist() == [3]
    assert found.spans.tolist() == [0] * 6
