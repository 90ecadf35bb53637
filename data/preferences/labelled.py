"""Pairs made from single labelled answers: a good and a bad one to the same prompt, anywhere in the data."""

import hashlib
import json
from typing import Any

from data.id_index import private_database
from data.preferences.forms.content import Content
from data.preferences.messages import Answer, Message


class LabelledPairs:
    """Answers that wait for their counterpart, in a private database that spills to disk.

    TRL's way of unpairing writes a thousand good answers and then their thousand bad ones, and sets are shuffled
    after that, so the counterpart may be anywhere. An answer meets the earliest one that waits.

    Attributes:
        num_waiting: answers without a counterpart so far.
    """

    def __init__(self) -> None:
        self.num_waiting = 0
        self._database = private_database()
        self._database.execute(
            "CREATE TABLE waiting "
            "(number INTEGER PRIMARY KEY, prompt BLOB, is_good INTEGER, answer TEXT, location TEXT)"
        )
        self._database.execute("CREATE INDEX by_prompt ON waiting (prompt, is_good, number)")
        self._database.execute("BEGIN")

    def match(
        self, content: Content, is_good: bool, prompt: str, location: str
    ) -> tuple[Content, str] | None:
        """Pair an answer with one that waits, or let it wait.

        Args:
            content: the prompt with the answer as `chosen`.
            is_good: its label.
            prompt: text that is the same for the same prompt and for no other.
            location: where it was read.
        Returns:
            The pair and where its two answers were read; None where none waits.
        """
        key = hashlib.blake2b(prompt.encode(), digest_size=16).digest()
        found = self._database.execute(
            "SELECT number, answer, location FROM waiting WHERE prompt = ? AND is_good = ? ORDER BY number LIMIT 1",
            (key, not is_good),
        ).fetchone()
        if found is None:
            self._database.execute(
                "INSERT INTO waiting (prompt, is_good, answer, location) VALUES (?, ?, ?, ?)",
                (key, is_good, json.dumps(_plain(content.chosen)), location),
            )
            self.num_waiting += 1
            return None
        number, answer, other_location = found
        self._database.execute("DELETE FROM waiting WHERE number = ?", (number,))
        self.num_waiting -= 1
        other = _answer(json.loads(answer))
        chosen, rejected = (content.chosen, other) if is_good else (other, content.chosen)
        return content._replace(chosen=chosen, rejected=rejected), f"{other_location} and {location}"

    def close(self) -> None:
        """Delete the database."""
        self._database.close()


def _plain(answer: Answer | None) -> Any:
    return answer if answer is None or isinstance(answer, str) else [turn.as_dict() for turn in answer]


def _answer(plain: Any) -> Answer:
    if isinstance(plain, str):
        return plain
    return tuple(
        Message(
            turn["role"],
            turn["content"],
            {name: value for name, value in turn.items() if name not in ("role", "content")},
        )
        for turn in plain
    )
