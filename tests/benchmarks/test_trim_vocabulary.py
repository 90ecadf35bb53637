"""Cutting a vocabulary down to what texts use: the same tokens, the same rows, the same predictions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from benchmarks.real_text.models.vocabulary import trim_vocabulary

_CORPUS = [
    "the lower house is newer than the lowest one, and the widest of them all",
    "we show the whole answer to the newest of our neighbours on the show",
    "a wide river flows slowly through the old town below the hill",
]
_TEXTS = ["<s>the lowest river</s>", "our answer is the newest"]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<pad>", "<never>", "<s>", "</s>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """As SentencePiece has it: words keep their space, and unknown characters fall apart into bytes."""
    learned = json.loads(_sentence_piece_like().to_str())["model"]
    vocabulary: dict[str, int] = {}
    for token in ["<pad>", "<never>", "<s>", "</s>", "<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]:
        vocabulary[token] = len(vocabulary)
    for token in learned["vocab"]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[tuple(merge) for merge in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<pad>", "<never>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return tokenizer


def _sentence_piece_like() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"]))
    return tokenizer


@pytest.fixture(params=["bytes", "byte fallback"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small checkpoint: Llama with a byte-level tokenizer, or Gemma with byte fallback."""
    tokenizer = _byte_level() if request.param == "bytes" else _byte_fallback()
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "bos_token_id": tokenizer.token_to_id("<s>"),
        "eos_token_id": tokenizer.token_to_id("</s>"),
        "pad_token_id": tokenizer.token_to_id("<pad>"),
    }
    if request.param == "bytes":
        # The head has separate rows, which have to be cut as those of the embedding are.
        model: Any = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    else:
        model = Gemma3ForCausalLM(Gemma3TextConfig(**shape, tie_word_embeddings=True))
    folder = tmp_path / "source"
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def test_trimmed_tokenizer_cuts_the_texts_into_the_same_tokens(source: Path, tmp_path: Path) -> None:
    before = AutoTokenizer.from_pretrained(source)
    after = AutoTokenizer.from_pretrained(trim_vocabulary(source, tmp_path / "out", _TEXTS))
    for text in _TEXTS:
        assert after.tokenize(text) == before.tokenize(text)
        assert after.decode(after(text).input_ids) == before.decode(before(text).input_ids)
    assert len(after) < len(before)
    assert "<never>" not in after.get_vocab()
    assert "▁whole" not in after.get_vocab()


def test_trimmed_tokenizer_still_encodes_any_text(source: Path, tmp_path: Path) -> None:
    after = AutoTokenizer.from_pretrained(trim_vocabulary(source, tmp_path / "out", _TEXTS))
    text = "neighbours show Übermut, 你好"
    assert after.decode(after(text, add_special_tokens=False).input_ids) == text


def test_trimmed_model_predicts_as_before_among_the_kept_tokens(source: Path, tmp_path: Path) -> None:
    out = trim_vocabulary(source, tmp_path / "out", _TEXTS)
    kept = torch.tensor(json.loads((out / "kept_ids.json").read_text()))
    old, new = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (source, out))
    ids = torch.tensor([AutoTokenizer.from_pretrained(out)(_TEXTS[0]).input_ids])
    with torch.no_grad():
        assert torch.equal(new(ids).logits, old(kept[ids]).logits[..., kept])


def test_trimmed_checkpoint_names_its_special_tokens_by_the_new_ids(source: Path, tmp_path: Path) -> None:
    out = trim_vocabulary(source, tmp_path / "out", _TEXTS)
    config, tokenizer = AutoModelForCausalLM.from_pretrained(out).config, AutoTokenizer.from_pretrained(out)
    assert config.vocab_size == len(tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(config, name) == getattr(tokenizer, name)
    assert tokenizer.convert_ids_to_tokens(config.eos_token_id) == "</s>"


def test_trim_vocabulary_keeps_the_most_frequent_tokens_that_are_asked_for(
    source: Path, tmp_path: Path
) -> None:
    few = AutoTokenizer.from_pretrained(trim_vocabulary(source, tmp_path / "few", _TEXTS))
    more = AutoTokenizer.from_pretrained(trim_vocabulary(source, tmp_path / "more", _TEXTS, common=60))
    merges = json.loads((source / "tokenizer.json").read_text())["model"]["merges"]
    first = {"".join(merge) for merge in merges[:60]}
    assert first <= set(more.get_vocab())
    assert not first <= set(few.get_vocab())


def test_trim_vocabulary_refuses_a_tokenizer_that_is_not_bpe(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(SystemExit, match="its tokenizer is WordLevel, only BPE can be trimmed"):
        trim_vocabulary(tmp_path, tmp_path / "out", ["a"])
