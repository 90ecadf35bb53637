"""Rows of a signal dataset: the records in memory and the Arrow schema on disk."""

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

#: Versions of the layout on disk that are read; each is written where it is the first that can hold the rows.
FORMAT_VERSIONS = (1, 2)

ROLES = ("chosen", "rejected", "student")


@dataclass(frozen=True, slots=True, eq=False)
class ResponseIds:
    """One response as token ids: a row of a signal dataset without scores, and the beginning of one with them.

    N is the number of the response's positions, T of those that are scored or would be: all of them without a mask.

    Attributes:
        pair_id: the preference pair or prompt that the response belongs to.
        role: `chosen`, `rejected` or `student`.
        sample_index: which of several student samples for one prompt; of a chosen or rejected response whose turns
            are separate rows, because each was seen after another prompt, the turn; 0 otherwise.
        prompt_ids: what the models saw before the response, int32 [P].
        response_ids: the response with its terminator, int32 [N].
        response_mask: which response positions are scored and trained, bool [N], T of them; None for all.
        conversation: JSON of the messages, tools and template arguments that the ids were rendered from; None where
            the data were plain text.
    """

    pair_id: str
    role: str
    sample_index: int
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    response_mask: np.ndarray | None = None
    conversation: str | None = None

    @property
    def is_scored(self) -> bool:
        """Whether it is one of `ResponseSignals`, which have scores."""
        return isinstance(self, ResponseSignals)

    @property
    def format_version(self) -> int:
        """The first version of the layout on disk that can hold the row."""
        return 1 if self.response_mask is None and self.conversation is None else 2

    @property
    def num_scored(self) -> int:
        """T: how many response positions are scored, or would be."""
        return len(self.response_ids) if self.response_mask is None else int(self.response_mask.sum())

    @property
    def scored_places(self) -> np.ndarray:
        """The response positions that are scored, or would be, int64 [T]."""
        if self.response_mask is None:
            return np.arange(len(self.response_ids))
        return np.flatnonzero(self.response_mask)

    @property
    def scored_ids(self) -> np.ndarray:
        """The response's tokens at these positions, int32 [T]."""
        return self.response_ids if self.response_mask is None else self.response_ids[self.response_mask]

    def with_signals(self, **columns: np.ndarray | None) -> "ResponseSignals":
        """The same response with the columns of `ResponseSignals`."""
        ids = {field.name: getattr(self, field.name) for field in fields(ResponseIds)}
        return ResponseSignals(**ids, **columns)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ResponseSignals(ResponseIds):
    """A scored response: its ids, and the scores of teacher and reference; a row of a signal dataset.

    S is the number of support tokens over the scored positions: position t owns the next `support_sizes[t]` entries of
    the flat columns, in falling teacher probability. Log-probabilities are in nats at temperature 1, normalised over
    the whole vocabulary of the model in question.

    Attributes:
        support_sizes: support tokens per position, uint16 [T].
        topk_ids: the teacher's support, int32 [S].
        teacher_logprobs: the teacher's log-probabilities of the support, float32 [S].
        teacher_tail_logprobs: log of the teacher's mass outside the support, float32 [T]; -inf only where the
            support is the whole vocabulary.
        teacher_token_logprobs: the teacher's log-probability of the response token itself, float32 [T].
        advantages: teacher minus reference log-probability of the support, float32 [S]; None without a reference.
        reference_tail_logprobs: the reference's tail, float32 [T]; None without a reference.
        reference_token_logprobs: the reference's log-probability of the response token, float32 [T]; None likewise.
    """

    support_sizes: np.ndarray
    topk_ids: np.ndarray
    teacher_logprobs: np.ndarray
    teacher_tail_logprobs: np.ndarray
    teacher_token_logprobs: np.ndarray
    advantages: np.ndarray | None = None
    reference_tail_logprobs: np.ndarray | None = None
    reference_token_logprobs: np.ndarray | None = None


def list_of(element: pa.DataType) -> pa.DataType:
    """A list column whose elements are never null, which saves a definition level for each of them."""
    return pa.list_(pa.field("element", element, nullable=False))


def column_field(
    name: str, kind: pa.DataType, unit: str, meaning: str, *, nullable: bool = False
) -> pa.Field:
    """A column with its unit and meaning in the file itself."""
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "meaning": meaning})


SIGNAL_SCHEMA = pa.schema(
    [
        column_field("pair_id", pa.string(), "", "preference pair or prompt that the response belongs to"),
        column_field("role", pa.string(), "", "chosen, rejected or student"),
        column_field("sample_index", pa.int32(), "", "which of several student samples; 0 otherwise"),
        column_field(
            "prompt_ids", list_of(pa.int32()), "token ids", "what the models saw before the response"
        ),
        column_field("response_ids", list_of(pa.int32()), "token ids", "the response with its terminator"),
        column_field(
            "support_sizes",
            list_of(pa.uint16()),
            "tokens",
            "number of support tokens at each response position",
            nullable=True,
        ),
        column_field(
            "topk_ids",
            list_of(pa.int32()),
            "token ids",
            "the teacher's support, flattened over positions, in falling teacher probability",
            nullable=True,
        ),
        column_field(
            "teacher_logprobs",
            list_of(pa.float32()),
            "nats",
            "teacher log-probability of each support token",
            nullable=True,
        ),
        column_field(
            "advantages",
            list_of(pa.float32()),
            "nats",
            "teacher minus reference log-probability of each support token",
            nullable=True,
        ),
        column_field(
            "teacher_tail_logprobs",
            list_of(pa.float32()),
            "nats",
            "log of the teacher's mass outside the support, per position",
            nullable=True,
        ),
        column_field(
            "reference_tail_logprobs",
            list_of(pa.float32()),
            "nats",
            "log of the reference's mass outside the support, per position",
            nullable=True,
        ),
        column_field(
            "teacher_token_logprobs",
            list_of(pa.float32()),
            "nats",
            "teacher log-probability of the response token, per position",
            nullable=True,
        ),
        column_field(
            "reference_token_logprobs",
            list_of(pa.float32()),
            "nats",
            "reference log-probability of the response token, per position",
            nullable=True,
        ),
    ]
)

#: The schema of each version. Version 2 has two more columns.
SIGNAL_SCHEMAS = {
    1: SIGNAL_SCHEMA,
    2: pa.schema(
        [
            *SIGNAL_SCHEMA,
            column_field(
                "response_mask",
                list_of(pa.bool_()),
                "",
                "which response positions are scored and trained; null: all",
                nullable=True,
            ),
            column_field(
                "conversation",
                pa.string(),
                "",
                "JSON of the messages, tools and template arguments that the ids were rendered from",
                nullable=True,
            ),
        ]
    ),
}

# Null together where a row carries ids only; the reference's also in datasets without a reference.
TEACHER_COLUMNS = (
    "support_sizes",
    "topk_ids",
    "teacher_logprobs",
    "teacher_tail_logprobs",
    "teacher_token_logprobs",
)

REFERENCE_COLUMNS = ("advantages", "reference_tail_logprobs", "reference_token_logprobs")
