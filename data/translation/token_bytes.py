"""The bytes of each token of a tokenizer.

Two tokenizers have no ids in common, but their tokens spell the same text, and text is bytes. Two families write
bytes in ways that can be read exactly: byte-level BPE (GPT-2 and most of its descendants) has a letter for each
byte; SentencePiece-like vocabularies (Llama 2, Gemma) write a space as `▁` and bytes that are no piece as
`<0x0A>`. Added tokens are their own text, unless the vocabulary has them as pieces, too. Any other family (WordPiece,
word ends written as `</w>`) loses spaces or case, and is refused.
"""

import bisect
import contextlib
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data.errors import DataError

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")

# Texts that a continuation is encoded after, so that no space is put before it and none of it is cut off.
_ANCHORS = ("\n", "a", ".")


def byte_letters() -> dict[str, int]:
    """The letter that byte-level tokenizers write for each byte, and the byte.

    Source: GPT-2's table; printable Latin-1 characters are their own letters, the others follow from U+0100.
    """
    printable = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    hidden = [byte for byte in range(0x100) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


_BYTES = byte_letters()

_TRANSLATED = "signals can be translated between byte-level BPE and SentencePiece-like tokenizers"


class TokenBytes:
    """Bytes of every token of one tokenizer, and the tokens that a byte string begins with.

    Attributes:
        vocab_size: one more than the largest id.
        special_ids: ids of special tokens: they stand for a role, not for text.
        lengths: number of bytes of each token, int32, shape (vocab_size,); 0 for ids without text.
    """

    def __init__(self, tokenizer: Any, *, name: str) -> None:
        """Read a tokenizer's vocabulary.

        Args:
            tokenizer: of the `tokenizers` library, or of `transformers` around one.
            name: what to call it in messages.
        Raises:
            DataError: for a family whose tokens do not determine bytes.
        """
        tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(tokenizer, Tokenizer):
            raise DataError(
                f"{name}: the bytes of its tokens cannot be told ({type(tokenizer).__name__} has no tokenizer.json); "
                f"{_TRANSLATED}"
            )
        state = json.loads(tokenizer.to_str())
        read = _piece_reader(state, name)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        # Gemma lists runs of `▁` and line ends as added tokens, too: text comes to them as pieces, and so do bytes.
        pieces = tokenizer.get_vocab(with_added_tokens=False)
        specials = {entry["id"] for entry in state["added_tokens"] if entry["special"]}
        self._tokenizer = tokenizer
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.special_ids = frozenset(specials)
        self._bytes = [b""] * self.vocab_size
        for piece, token_id in vocabulary.items():
            if token_id in self.special_ids:
                continue
            self._bytes[token_id] = read(piece) if piece in pieces else piece.encode()
        self.lengths = np.array([len(text) for text in self._bytes], np.int32)
        # Of several tokens with the same bytes (`<0x20>` beside `▁`), the one that is no byte piece is meant.
        self._ids: dict[bytes, int] = {}
        for piece, token_id in sorted(vocabulary.items(), key=lambda item: item[1]):
            text = self._bytes[token_id]
            if text and (text not in self._ids or not _BYTE_PIECE.fullmatch(piece)):
                self._ids[text] = token_id
        self._longest = max(map(len, self._ids), default=0)

    def __getitem__(self, token_id: int) -> bytes:
        """The bytes of a token; empty for special tokens and ids that the vocabulary does not use."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""

    def lengths_of(self, token_ids: np.ndarray) -> np.ndarray:
        """Number of bytes of each token, int32, same shape; 0 for special tokens and ids that are not used."""
        inside = token_ids < self.vocab_size
        return np.where(inside, self.lengths[np.where(inside, token_ids, 0)], 0)

    def join(self, token_ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of consecutive tokens."""
        return b"".join([self[token_id] for token_id in np.asarray(token_ids).tolist()])

    def first_piece(self, text: bytes) -> int | None:
        """The token that the tokenizer begins a continuation of these bytes with, or None where it has none.

        Where a token is exactly these bytes, it is that one. Other whole characters go through the tokenizer
        itself, as they would in the middle of a text; where it writes other characters for them (lower case, say), they
        have none. Bytes that end inside a character cannot go through it; for them the longest token that they begin
        with is taken.
        """
        if (whole := self._ids.get(text)) is not None:
            return whole
        with contextlib.suppress(UnicodeDecodeError):
            first = self._first_encoded(text.decode("utf-8"))
            return first if first is not None and self[first] and text.startswith(self[first]) else None
        for length in range(min(len(text), self._longest), 0, -1):
            if (token_id := self._ids.get(text[:length])) is not None:
                return token_id
        return None

    def is_extended(self, text: bytes) -> bool:
        """Whether some longer token begins with these bytes."""
        index = bisect.bisect_right(self._sorted, text)
        return index < len(self._sorted) and self._sorted[index].startswith(text)

    @functools.cached_property
    def _sorted(self) -> list[bytes]:
        return sorted(self._ids)

    def _first_encoded(self, text: str) -> int | None:
        """The first token of a text in the middle of another; None where it has none of its own."""
        for anchor in _ANCHORS:
            before = self._tokenizer.encode(anchor, add_special_tokens=False).ids
            whole = self._tokenizer.encode(anchor + text, add_special_tokens=False).ids
            if whole[: len(before)] == before and len(whole) > len(before):
                return whole[len(before)]
        return None


def _piece_reader(state: Mapping[str, Any], name: str) -> Callable[[str], bytes]:
    """How the vocabulary spells bytes: a function from a piece to its bytes."""
    decoders = _flat(state.get("decoder"), "decoders")
    kinds = {decoder["type"] for decoder in decoders}
    if "ByteLevel" in kinds:
        return _byte_level_bytes
    if (mark := _space_mark(decoders)) and not kinds & {"WordPiece", "BPEDecoder", "CTC"}:
        return functools.partial(_sentencepiece_bytes, mark=mark)
    found = ", ".join(sorted(kinds)) or "none"
    raise DataError(f"{name}: the bytes of its tokens cannot be told (decoder: {found}); {_TRANSLATED}")


def _space_mark(decoders: Sequence[Mapping[str, Any]]) -> str | None:
    """What the vocabulary writes for a space; None where it has no mark of its own."""
    for decoder in decoders:
        if decoder["type"] == "Metaspace":
            return decoder["replacement"]
        if decoder["type"] == "Replace" and decoder["content"] == " ":
            return decoder["pattern"].get("String")
    return None


def _byte_level_bytes(piece: str) -> bytes:
    # Pieces with other letters are their own text: the library decodes them so.
    return bytes(map(_BYTES.__getitem__, piece)) if _BYTES.keys() >= set(piece) else piece.encode()


def _sentencepiece_bytes(piece: str, mark: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(mark, " ").encode()


def _flat(component: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [leaf for part in component[key] for leaf in _flat(part, key)]
    return [component]
