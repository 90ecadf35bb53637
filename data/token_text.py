"""Token ids as text for people to read, from a dataset's own copy of the tokenizer."""

from pathlib import Path

from tokenizers import Tokenizer

__all__ = ["TokenText"]


class TokenText:
    """The text of single tokens, leading spaces included.

    A dataset without a tokenizer shows ids.
    """

    def __init__(self, tokenizer_folder: Path) -> None:
        path = tokenizer_folder / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(path)) if path.exists() else None
        self._texts: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        """The text of one token; `⟨17⟩` where there is none."""
        if token_id not in self._texts:
            self._texts[token_id] = self._text(token_id)
        return self._texts[token_id]

    def _text(self, token_id: int) -> str:
        piece = None if self._tokenizer is None else self._tokenizer.id_to_token(token_id)
        if self._tokenizer is None or piece is None:
            return f"⟨{token_id}⟩"
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        # Sentencepiece decoders drop a space at the beginning of what they take for a whole text, and without any
        # decoder words are joined by spaces; bytes of a longer character decode to a replacement mark.
        if (piece.startswith("▁") or self._tokenizer.decoder is None) and not text.startswith(" "):
            text = " " + text
        return piece if not text or "\ufffd" in text else text
