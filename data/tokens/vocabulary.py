"""Whether two tokenizers give the same token the same id; and the copies of tokenizers that datasets bring along."""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from data.errors import DataError
from data.files import make_folder, write_atomic
from data.tokens.template import template_text

_SHOWN = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token of a tokenizer with its id, special and added tokens included.

    Attributes:
        tokens: id of each token.
        eos_token: the end-of-sequence token; None without one.
        chat_template: the template's text; None without one.
    """

    tokens: Mapping[str, int]
    eos_token: str | None = None
    chat_template: str | None = None

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> "Vocabulary":
        """Vocabulary of a loaded tokenizer of `transformers`."""
        return cls(tokenizer.get_vocab(), tokenizer.eos_token, template_text(tokenizer.chat_template))

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Vocabulary":
        """Vocabulary of a saved tokenizer, read without `transformers`.

        Raises:
            DataError: for a folder without a readable `tokenizer.json`.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise DataError(
                f"{folder}: no tokenizer.json; load its tokenizer with transformers.AutoTokenizer and save "
                "it there with save_pretrained"
            )
        try:
            tokens = Tokenizer.from_str(path.read_text("utf-8")).get_vocab(with_added_tokens=True)
        except Exception as error:
            # `tokenizers` raises nothing narrower than Exception for a file that it cannot parse.
            raise DataError(f"{path}: not a file of the `tokenizers` library: {error}") from error
        config = _read_json(Path(folder) / "tokenizer_config.json")
        eos = config.get("eos_token")
        template_file = Path(folder) / "chat_template.jinja"
        template = (
            template_file.read_text("utf-8") if template_file.is_file() else config.get("chat_template")
        )
        return cls(tokens, eos["content"] if isinstance(eos, dict) else eos, template_text(template))


def check_agreement(
    teacher: Vocabulary, student: Vocabulary, *, teacher_name: str, student_name: str, role: str = "student"
) -> list[str]:
    """Check that a student can be trained on a teacher's token ids, or a reference asked about them.

    A token that both have must have the same id, and an id that both use must be the same token. Either may have
    more tokens than the other.

    Args:
        teacher: whose ids were stored.
        student: who is to learn from them.
        teacher_name: what to call the teacher in messages.
        student_name: what to call the student in messages.
        role: `student`, or `reference` where that is what `student` is.
    Returns:
        What is worth a warning: chat templates or end-of-sequence tokens that differ, tokens that the student
        lacks.
    Raises:
        DataError: naming the first few tokens that differ.
    """
    moved = [
        (token, token_id, student.tokens[token])
        for token, token_id in teacher.tokens.items()
        if student.tokens.get(token, token_id) != token_id
    ]
    if moved:
        moved.sort(key=lambda entry: entry[1])
        shown = ", ".join(f"{token!r} is {there} and {here}" for token, there, here in moved[:_SHOWN])
        raise _disagreement(teacher_name, student_name, role, f"the id of {shown}", len(moved))
    student_by_id = {token_id: token for token, token_id in student.tokens.items()}
    lacking = sorted(token_id for token, token_id in teacher.tokens.items() if token not in student.tokens)
    by_id = {token_id: token for token, token_id in teacher.tokens.items()}
    renamed = [token_id for token_id in lacking if token_id in student_by_id]
    if renamed:
        shown = ", ".join(f"{i} is {by_id[i]!r} and {student_by_id[i]!r}" for i in renamed[:_SHOWN])
        raise _disagreement(teacher_name, student_name, role, f"the token of id {shown}", len(renamed))
    notes = []
    if lacking:
        shown = ", ".join(repr(by_id[i]) for i in lacking[:_SHOWN])
        notes.append(f"{student_name} lacks {len(lacking):,} of {teacher_name}'s tokens ({shown})")
    if teacher.eos_token != student.eos_token:
        notes.append(
            f"end-of-sequence tokens differ: {teacher_name} has {teacher.eos_token!r}, {student_name} has "
            f"{student.eos_token!r}"
        )
    if teacher.chat_template != student.chat_template:
        notes.append(
            f"chat templates of {teacher_name} and {student_name} differ; stored ids follow {teacher_name}'s"
        )
    return notes


def _disagreement(teacher_name: str, student_name: str, role: str, what: str, count: int) -> DataError:
    more = f" (first {_SHOWN} of {count:,})" if count > _SHOWN else ""
    return DataError(
        f"tokenizers of {teacher_name} and {student_name} differ: {what}{more}; take a {role} whose "
        "tokenizer is the teacher's"
    )


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 (hex) of all that decides which ids a text gets: vocabulary, merges, normalisation, and so on.

    Args:
        tokenizer: one of `transformers`; where it has no `tokenizers` backend, the vocabulary must do.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: Any = sorted(tokenizer.get_vocab().items())
    if backend is not None:
        state = json.loads(backend.to_str())
        # Both are set by the last call that padded or truncated, and say nothing about the tokenizer.
        del state["padding"], state["truncation"]
    roles = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps([state, roles], sort_keys=True).encode()).hexdigest()


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer's files, chat template included; the same ones wherever it was loaded from.

    Raises:
        ShardError: when they cannot be written.
    """
    # transformers keeps how a tokenizer was loaded, and would save it: offline or not, from a folder or the hub.
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    make_folder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir()):
            write_atomic(folder / file.name, file.read_bytes())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error}); save the tokenizer again") from error
