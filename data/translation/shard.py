"""One shard of a signal dataset on another tokenizer's ids: both tokenizers, and the way of each row through them.

Conversations are rendered anew with the student's own template from the messages that the source stores. Answers that
the student sampled itself are not: their ids are taken from the rollouts as they are, because they are what the student
wrote, and because its log-probabilities are stored for these ids.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.preferences.messages import Message, PreferenceRow
from data.signals.dataset import SignalDataset
from data.signals.manifest import Manifest
from data.signals.rollouts import RolloutDataset, RolloutIndex
from data.signals.schema import ResponseIds
from data.signals.shards import read_signal_shard, write_signal_shard
from data.tokens.encoder import PairEncoder
from data.tokens.template import ChatTemplate, template_text
from data.tokens.thoughts import THINKING_ARGUMENTS
from data.tokens.vocabulary import save_tokenizer
from data.translation.counts import TranslationCounts
from data.translation.rows import AlignedRow, RowTranslator, StudentResponse, turns_of
from data.translation.token_bytes import TokenBytes

#: Names the rule of alignment and projection in requests; a change of the rule is a change of this name.
RULE = "first piece of the same bytes, version 2"

# Among these the response is looked for that reports show in both tokenizations.
_ROWS_FOR_EXAMPLE = 64

# Student positions whose signals are projected together: enough that the work of a call is small beside that of its
# numbers, and some megabytes at 50 tokens a position.
_POSITIONS_AT_ONCE = 2048

TokenizerLoader = Callable[[Path], Any]
"""Loads a tokenizer of `transformers` from a folder; picklable where several workers are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationJob:
    """What determines a translation; a worker process begins with it.

    Attributes:
        source: folder of the dataset to translate.
        tokenizer_folder: folder with the student's tokenizer and chat template.
        load_tokenizer: loads a tokenizer from a folder.
        rollouts: folder of the student's own answers, where the source has scores of them.
        max_length: drop responses longer than this with their prompt, in the student's tokens; None keeps all.
        template_args: arguments for the student's chat template.
        thinking: what becomes of thoughts, as for `PairEncoder`.
    """

    source: Path
    tokenizer_folder: Path
    load_tokenizer: TokenizerLoader
    rollouts: Path | None = None
    max_length: int | None = None
    template_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    thinking: str = "auto"


class ShardTranslator:
    """Both tokenizers, loaded, and what puts a shard's rows on the student's ids."""

    def __init__(self, job: TranslationJob) -> None:
        """Load the tokenizers and compare them with what the source and the rollouts say.

        Raises:
            DataError: tokens that do not determine bytes; rollouts that are missing, or are not the student's.
            ShardError: a source or rollouts that cannot be read.
        """
        self._job = job
        self._source = SignalDataset.open(job.source)
        request = self._source.manifest.request
        if "translation" in request:
            raise DataError(
                f"{job.source}: its signals were translated already, and a second projection would add its bias to the "
                f"first; translate what it was made of, the dataset {request['translation']['source'][:20]}"
            )
        self._teacher_tokenizer = teacher_tokenizer = job.load_tokenizer(self._source.tokenizer_folder)
        student_tokenizer = job.load_tokenizer(job.tokenizer_folder)
        self._teacher_bytes = TokenBytes(teacher_tokenizer, name=str(self._source.tokenizer_folder))
        student_bytes = TokenBytes(student_tokenizer, name=str(job.tokenizer_folder))
        self._student_tokenizer = student_tokenizer
        template = template_text(student_tokenizer.chat_template)
        self._arguments = ChatTemplate(student_tokenizer).arguments if template else frozenset[str]()
        self._encoder = PairEncoder(
            student_tokenizer,
            max_length=job.max_length,
            template_args=job.template_args,
            thinking=job.thinking,
            train_on=request.get("train_on", "turns"),
            store_conversations=True,
            bad_rows="drop",
        )
        # The student's own end of a turn, however its template spells it.
        teacher_end = PairEncoder(teacher_tokenizer).terminator_id
        roles = {teacher_end: self._encoder.terminator_id}
        for role in ("eos_token_id", "bos_token_id"):
            theirs, ours = getattr(teacher_tokenizer, role), getattr(student_tokenizer, role)
            if theirs is not None and ours is not None:
                roles.setdefault(theirs, ours)
        self._translator = RowTranslator(self._teacher_bytes, student_bytes, roles, teacher_end)
        self._vocab_size = student_bytes.vocab_size
        self._rollouts = self._open_rollouts()

    def request(self, source: Manifest) -> dict[str, Any]:
        """What determines the translated dataset: the source's request with the student's tokenizer and the rule."""
        return {
            **source.request,
            "tokenizer": self._encoder.tokenizer_hash,
            "chat_template": self._encoder.template_hash,
            "translation": {
                "source": source.fingerprint,
                "source_tokenizer": source.request.get("tokenizer"),
                "rule": RULE,
                "vocab_size": self._vocab_size,
                "max_length": self._job.max_length,
                "template_args": dict(self._job.template_args),
                "thinking": self._job.thinking,
            },
        }

    def translate_shard(self, folder: Path, index: int, name: str) -> dict[str, Any]:
        """Translate one shard; its manifest entry and counts as JSON values.

        Args:
            folder: of the translated dataset.
            index: of the shard.
            name: fingerprint of the translated dataset.
        Raises:
            DataError: a row that is stored without its conversation, or a sampled answer that the rollouts lack.
            ShardError: a shard that cannot be read or written.
        """
        entry = self._source.manifest.shards[index]
        counts = TranslationCounts()
        written = write_signal_shard(
            folder / entry.file,
            self._rows(self._source.path / entry.file, counts),
            fingerprint=name,
            precision=self._source.manifest.request.get("precision", "rounded"),
            format_version=2,
        )
        return {"entry": dataclasses.asdict(written), "counts": counts.as_json(), "dataset": name}

    def save_tokenizer(self, folder: Path) -> None:
        """Write the student's tokenizer, however its own folder has it."""
        save_tokenizer(self._student_tokenizer, folder)

    def summary(self, counts: TranslationCounts) -> dict[str, Any]:
        """Counts as they are kept in the manifest."""
        supported = max(counts.supported, 1e-300)
        texts = [(self._name_of(token_id), mass) for token_id, mass in counts.unplaced.most_common(20)]
        return {
            "rows": counts.rows,
            "dropped": dict(counts.dropped),
            "first_dropped": counts.first_dropped,
            "positions": counts.positions,
            "source_positions": counts.source_positions,
            "aligned_share": counts.aligned / max(counts.positions, 1),
            "placed_mass": counts.placed / supported,
            "exact_mass": counts.exact / supported,
            "unplaced_tokens": texts,
            "example": self._example(),
        }

    def _name_of(self, token_id: int) -> str:
        """A teacher token for people: its text, or its name where it has none."""
        text = self._teacher_bytes[token_id].decode("utf-8", "backslashreplace")
        return text or self._teacher_tokenizer.convert_ids_to_tokens(token_id) or f"id {token_id}"

    def _example(self) -> dict[str, Any] | None:
        """One response in both tokenizations, for people to look at; None where the first rows have none to show."""
        self._translator.counts = TranslationCounts()
        first = self._source.path / self._source.manifest.shards[0].file
        for row in itertools.islice(read_signal_shard(first), _ROWS_FOR_EXAMPLE):
            if row.role == "student" or row.response_mask is not None:
                continue
            for aligned in self._aligned(row):
                if isinstance(aligned, AlignedRow) and (drawn := self._translator.drawn(aligned)):
                    return drawn
        return None

    def _open_rollouts(self) -> RolloutIndex | None:
        """The student's own answers by pair; None where the source has none in the student's ids."""
        source, folder = self._source, self._job.rollouts
        tokenizer = source.manifest.request.get("rollouts_tokenizer")
        if tokenizer is None:
            if folder is not None:
                raise DataError(
                    f"{source.path}: it holds no answers of a student with another tokenizer; leave --rollouts out"
                )
            return None
        if folder is None:
            raise DataError(
                f"{source.path}: it holds answers that a student sampled, whose ids must be kept; give --rollouts, the "
                "folder that score-teacher read, or use score-teacher --translate, which does both steps"
            )
        rollouts = RolloutDataset.open(folder)
        if rollouts.manifest.fingerprint != source.manifest.request["rollouts"]:
            raise DataError(
                f"{folder}: not the rollouts that {source.path} was scored on; give those, whose fingerprint is "
                f"{source.manifest.request['rollouts']}"
            )
        if tokenizer != self._encoder.tokenizer_hash:
            raise DataError(
                f"{folder}: sampled by a student with another tokenizer than {self._job.tokenizer_folder}; give the "
                "tokenizer of the student that sampled them"
            )
        return RolloutIndex(rollouts)

    def _rows(self, path: Path, counts: TranslationCounts) -> Iterator[ResponseIds]:
        """The shard's rows on the student's ids; a pair of which one response is lost is left out whole."""
        self._translator.counts = counts
        waiting: list[AlignedRow | ResponseIds] = []
        num_positions = 0
        for pair_id, pair in itertools.groupby(read_signal_shard(path), key=lambda row: row.pair_id):
            aligned = [one for row in self._of_this_student(pair) for one in self._aligned(row)]
            kept = [row for row in aligned if row is not None]
            if len(kept) < len(aligned):
                reason = "another response of its pair could not be translated"
                counts.drop(pair_id, reason, len(kept))
                continue
            waiting += kept
            num_positions += sum(len(row.aligned) for row in kept if isinstance(row, AlignedRow))
            if num_positions >= _POSITIONS_AT_ONCE:
                yield from self._projected(waiting)
                waiting, num_positions = [], 0
        yield from self._projected(waiting)

    def _of_this_student(self, pair: Iterable[ResponseIds]) -> Iterator[ResponseIds]:
        """A pair's rows without answers that another student sampled; these are left out by themselves and counted."""
        for row in pair:
            if row.role == "student" and self._rollouts is None:
                reason = "sampled by a student with the teacher's tokenizer"
                self._translator.counts.drop(row.pair_id, reason)
            else:
                yield row

    def _projected(self, rows: Sequence[AlignedRow | ResponseIds]) -> Iterator[ResponseIds]:
        """The rows in their order, those with signals projected."""
        projected = iter(self._translator.project([row for row in rows if isinstance(row, AlignedRow)]))
        return (next(projected) if isinstance(row, AlignedRow) else row for row in rows)

    def _aligned(self, row: ResponseIds) -> list[AlignedRow | ResponseIds | None]:
        """A row on the student's ids, or its turns, each as a row; None stands for one that is lost and counted."""
        students = [self._sampled(row)] if row.role == "student" else self._rendered(row)
        parts = [row] if len(students) == 1 else turns_of(row)
        if len(parts) != len(students):
            # Nothing was rendered, which is counted already, or other turns.
            return [
                self._drop(row, "the two templates cut the response into different turns")
                if students
                else None
            ]
        return [self._translator.align(part, student) for part, student in zip(parts, students, strict=True)]

    def _sampled(self, row: ResponseIds) -> StudentResponse:
        """A response as the student sampled it."""
        assert self._rollouts is not None
        for rollout in self._rollouts.of(row.pair_id):
            if rollout.sample_index == row.sample_index:
                return StudentResponse(rollout.prompt_ids, rollout.response_ids)
        raise DataError(
            f"{self._job.rollouts}: no sample {row.sample_index} of pair {row.pair_id}, which {self._job.source} has; "
            "score these rollouts again"
        )

    def _rendered(self, row: ResponseIds) -> list[StudentResponse]:
        """A response as the student's template and tokenizer write its conversation.

        Returns:
            One, or one for each turn where the template writes earlier turns differently once others follow; empty,
            and counted, where it cannot be written.
        """
        if row.conversation is None:
            raise DataError(
                f"{self._job.source}: pair {row.pair_id} is stored without its conversation, so that no other template "
                "can write it; score the data again with --store-conversations"
            )
        conversation = json.loads(row.conversation)
        turns = tuple(_message(turn) for turn in conversation["messages"])
        cut = conversation["num_prompt_messages"]
        if row.sample_index:
            # The teacher's template writes earlier turns differently later: each turn is a row with its own prompt.
            cut = len(turns) - 1
        asked = PreferenceRow(
            pair_id=row.pair_id,
            prompt=turns[:cut],
            chosen=turns[cut:],
            rejected=None,
            location=f"{self._job.source}, pair {row.pair_id}, {row.role}",
            tools=None if conversation.get("tools") is None else tuple(conversation["tools"]),
            template_args=self._arguments_of(conversation) or None,
        )
        encoded = self._encoder.encode(asked)
        if encoded is None:
            self._drop(row, f"student's rendering: {self._encoder.last_dropped}")
            return []
        return [
            StudentResponse(response.prompt_ids, response.ids, response.mask) for response in encoded.chosen
        ]

    def _arguments_of(self, conversation: Mapping[str, Any]) -> dict[str, Any]:
        """What the teacher's template was given and the student's reads, but for what the options say."""
        given = conversation.get("template_args") or {}
        taken = self._arguments - self._job.template_args.keys()
        if self._job.thinking == "none":
            taken -= set(THINKING_ARGUMENTS)
        return {name: value for name, value in given.items() if name in taken}

    def _drop(self, row: ResponseIds, reason: str) -> None:
        self._translator.counts.drop(row.pair_id, reason)


def _message(turn: Mapping[str, Any]) -> Message:
    extra = {name: value for name, value in turn.items() if name not in ("role", "content")}
    return Message(turn["role"], turn["content"], extra)
