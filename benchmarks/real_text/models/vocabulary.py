"""A model with fewer tokens: what a benchmark's texts never use is cut out of embedding and tokenizer.

A tenth or less of the vocabulary does for narrow texts, and the embedding of a small model is most of its cost. What is
kept is closed under the tokenizer's merges, so that a text of kept tokens is cut into the same tokens as before.
"""

import itertools
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig

#: Ids of the original tokens, in the order of the new ids.
KEPT_FILE = "kept_ids.json"

_CHECKPOINT_FILES = ("tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def trim_vocabulary(source: Path, out: Path, texts: Iterable[str], *, common: int = 0) -> Path:
    """Write a checkpoint that knows only the tokens that some texts use.

    Kept are the tokens of the texts, single bytes and ASCII characters, the special tokens that the checkpoint names,
    the most frequent tokens, and whatever the tokenizer's merges make of these on the way. Kept tokens keep their
    order and their rows of the embedding; the distribution of the model is the old one, restricted to them. All text
    can still be encoded: what was cut falls apart into smaller tokens.

    Args:
        source: a checkpoint with a BPE tokenizer in tokenizer.json, of bytes or with byte fallback.
        out: the folder; left alone where it holds a checkpoint.
        texts: what must be cut into the same tokens as before, special tokens and templates written out.
        common: how many further tokens to keep, those that merges made first.
    Raises:
        SystemExit: for a tokenizer of another kind, or one whose kept tokens cut a text differently.
    """
    if (out / "config.json").exists():
        return out
    texts = list(texts)
    described = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    if described["model"]["type"] != "BPE":
        raise SystemExit(f"{source}: its tokenizer is {described['model']['type']}, only BPE can be trimmed")
    before = Tokenizer.from_file(str(source / "tokenizer.json"))
    used = {token for text in texts for token in before.encode(text, add_special_tokens=False).tokens}
    kept = _kept_ids(described, used | _named_specials(source), common)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "tokenizer.json").write_text(
        json.dumps(_trimmed_tokenizer(described, kept), ensure_ascii=False), encoding="utf-8"
    )
    after = Tokenizer.from_file(str(partial / "tokenizer.json"))
    for text in texts:
        if (
            before.encode(text, add_special_tokens=False).tokens
            != after.encode(text, add_special_tokens=False).tokens
        ):
            raise SystemExit(f"{source}: {text[:60]!r} is cut differently with {len(kept)} of its tokens")
    _save_model(source, partial, kept)
    for name in _CHECKPOINT_FILES:
        if (source / name).exists():
            shutil.copy(source / name, partial / name)
    _forget_ids(partial / "tokenizer_config.json")
    (partial / KEPT_FILE).write_text(json.dumps(kept))
    partial.rename(out)
    return out


def _named_specials(source: Path) -> set[str]:
    """Tokens that the tokenizer's configuration or the chat template names."""
    file = source / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    values = [value for key, value in config.items() if key.endswith("_token") and value]
    found = {value["content"] if isinstance(value, dict) else value for value in values}
    template = source / "chat_template.jinja"
    text = (
        template.read_text(encoding="utf-8") if template.exists() else str(config.get("chat_template") or "")
    )
    described = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    return found | {token["content"] for token in described["added_tokens"] if token["content"] in text}


def _kept_ids(described: Mapping[str, Any], wanted: set[str], common: int) -> list[int]:
    """Ids to keep, ascending."""
    vocabulary: dict[str, int] = described["model"]["vocab"]
    added = {token["content"]: token["id"] for token in described["added_tokens"]}
    merges = [_parts(merge) for merge in described["model"]["merges"]]
    ranks = {parts: rank for rank, parts in reversed(list(enumerate(merges)))}
    first: dict[str, None] = {}
    for left, right in merges:
        if len(first) >= common:
            break
        first[left + right] = None
    # Characters of a byte-level vocabulary stand for one byte each; <0x0A> is a byte of one with fallback.
    is_byte_level = not described["model"].get("byte_fallback")
    single = {
        token
        for token in vocabulary
        if (len(token) == 1 and (is_byte_level or ord(token) < 128))
        or (len(token) == 6 and token.startswith("<0x"))
    }
    kept: set[str] = set()
    for token in wanted | set(first) | single:
        kept.add(token)
        if token not in added and token in vocabulary:
            kept |= _pieces(token, ranks)
    ids = {vocabulary[token] for token in kept if token in vocabulary}
    return sorted(ids | {added[token] for token in kept if token in added})


def _pieces(token: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """All that BPE makes on its way from single characters to a token."""
    parts, made = list(token), set(token)
    while True:
        found = [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]
        if not found:
            return made
        _, at = min(found)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        made.add(parts[at])


def _parts(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _trimmed_tokenizer(described: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    new = {old: index for index, old in enumerate(kept)}
    vocabulary = {token: new[old] for token, old in described["model"]["vocab"].items() if old in new}
    merges = [
        merge
        for merge in described["model"]["merges"]
        if all(part in vocabulary for part in (*_parts(merge), "".join(_parts(merge))))
    ]
    trimmed = {**described, "model": {**described["model"], "vocab": vocabulary, "merges": merges}}
    trimmed["added_tokens"] = [
        {**token, "id": new[token["id"]]} for token in described["added_tokens"] if token["id"] in new
    ]
    trimmed["post_processor"] = _with_new_ids(described.get("post_processor"), new)
    return trimmed


def _with_new_ids(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor whose special tokens have their new ids."""
    if isinstance(processor, list):
        return [_with_new_ids(part, new) for part in processor]
    if not isinstance(processor, dict):
        return processor
    return {
        key: [new[old] for old in value] if key == "ids" else _with_new_ids(value, new)
        for key, value in processor.items()
    }


def _save_model(source: Path, out: Path, kept: list[int]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    new = {old: index for index, old in enumerate(kept)}
    rows = torch.tensor(kept)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = outputs.weight is inputs.weight
    inputs.weight = torch.nn.Parameter(inputs.weight.detach()[rows].clone())
    inputs.num_embeddings = len(kept)
    if inputs.padding_idx is not None:
        inputs.padding_idx = new.get(inputs.padding_idx)
    outputs.weight = inputs.weight if is_tied else torch.nn.Parameter(outputs.weight.detach()[rows].clone())
    outputs.out_features = len(kept)
    model.config.vocab_size = len(kept)
    for settings in (model.config, model.generation_config or GenerationConfig()):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
            old = getattr(settings, name, None)
            if isinstance(old, list):
                setattr(settings, name, [new[token] for token in old if token in new])
            elif old is not None:
                setattr(settings, name, new.get(old))
    model.save_pretrained(out)


def _forget_ids(config: Path) -> None:
    """Take the old ids out of the tokenizer's configuration; tokenizer.json has the new ones."""
    if config.exists():
        described = json.loads(config.read_text(encoding="utf-8"))
        described.pop("added_tokens_decoder", None)
        config.write_text(json.dumps(described, indent=2, ensure_ascii=False), encoding="utf-8")
