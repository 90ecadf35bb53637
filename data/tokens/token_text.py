"""Token ids as readable text, from a dataset's copy of the tokenizer."""

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

# What decoders write for bytes that are no whole character.
_BROKEN = "\ufffd"

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")

# Characters have four bytes at most, but tokens may hold the end of one and the beginning of the next.
_MOST_TOKENS_OF_A_CHARACTER = 8

# How byte-level tokenizers (GPT-2's and its descendants) write bytes in their vocabularies.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))

_HIDDEN = [byte for byte in range(0x100) if byte not in _PRINTABLE]

_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + place): byte for place, byte in enumerate(_HIDDEN)
}


class TokenText:
    """The text of single tokens, leading spaces included; parts of characters as `<0xE2>`.

    A dataset without a tokenizer shows ids.
    """

    def __init__(self, tokenizer_folder: Path) -> None:
        path = tokenizer_folder / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(path)) if path.exists() else None
        self._texts: dict[int, str] = {}
        self._broken: set[int] = set()

    @property
    def is_readable(self) -> bool:
        """Whether there is a tokenizer, so that texts are texts and not ids."""
        return self._tokenizer is not None

    def __getitem__(self, token_id: int) -> str:
        """The text of one token; `⟨17⟩` where there is none."""
        if token_id not in self._texts:
            self._texts[token_id] = self._text(token_id)
        return self._texts[token_id]

    def in_sequence(self, token_ids: Sequence[int]) -> list[str]:
        """The texts of tokens that follow each other; joined, they are the text.

        A character that is spread over several tokens belongs to the first of them; the others are empty.
        """
        texts = [self[token_id] for token_id in token_ids]
        start = 0
        while start < len(texts):
            end = start + 1
            if token_ids[start] in self._broken:
                end = self._end_of_characters(token_ids, start)
            if end > start + 1:
                texts[start:end] = [self._decode(token_ids[start:end]), *[""] * (end - start - 1)]
            start = end
        return texts

    def _end_of_characters(self, token_ids: Sequence[int], start: int) -> int:
        """The index after the tokens that make whole characters with the one at `start`; `start + 1` where none do."""
        last = min(start + _MOST_TOKENS_OF_A_CHARACTER, len(token_ids))
        for end in range(start + 2, last + 1):
            if _BROKEN not in self._decode(token_ids[start:end]):
                return end
        return start + 1

    def _decode(self, token_ids: Sequence[int]) -> str:
        assert self._tokenizer is not None
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def _text(self, token_id: int) -> str:
        piece = None if self._tokenizer is None else self._tokenizer.id_to_token(token_id)
        if self._tokenizer is None or piece is None:
            return f"⟨{token_id}⟩"
        text = self._decode([token_id])
        if _BROKEN in text:
            self._broken.add(token_id)
            return _part_of_characters(piece)
        # Sentencepiece decoders drop a space at the beginning of what they take for a whole text, and without any
        # decoder words are joined by spaces.
        if (piece.startswith("▁") or self._tokenizer.decoder is None) and not text.startswith(" "):
            text = " " + text
        return text or piece


def _part_of_characters(piece: str) -> str:
    """A piece of the vocabulary whose bytes are no whole characters, with those bytes by number."""
    if _BYTE_PIECE.fullmatch(piece) or not _BYTES.keys() >= set(piece):
        return piece
    text = bytes(_BYTES[character] for character in piece).decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda match: f"<0x{ord(match[0]) - 0xDC00:02X}>", text)
