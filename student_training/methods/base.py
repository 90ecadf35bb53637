"""What a method is: its settings, the rows it needs and the terms of its loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # The help of train-student reads methods, and must not wait for torch.
    import torch

    from student_training.head.chunk import SparseLogprobs

AnySettings = TypeVar("AnySettings")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a method reads from a pair.

    Attributes:
        roles: roles whose rows take part; rows of other roles never enter a batch.
        signals: of those, the roles whose rows must carry the teacher's signals.
        advantages: whether those signals must include advantages, that is, a reference was scored.
        behavior: whether the sampled tokens' log-probabilities under the sampling student are needed.
        initial: whether the initial student's log-probabilities of the response tokens are needed; one pass
            over the student before training computes them.
        initial_support: whether the initial student's log-probabilities at the support, and its tail, are needed; the
            same kind of pass computes them.
        own_tokens: whether log-probabilities of single response tokens are needed: what a translated dataset has for a
            span of several tokens will not do.
        reward_means: whether the mean advantages over all sampled responses are needed; one pass over the
            dataset's token columns before training computes them.
    """

    roles: frozenset[str]
    signals: frozenset[str] = frozenset()
    advantages: bool = False
    behavior: bool = False
    initial: bool = False
    initial_support: bool = False
    own_tokens: bool = False
    reward_means: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Positions:
    """Everything known of N response positions beside the student's own distribution.

    Attributes:
        labels: the response tokens, shape (N,), int64.
        support_ids: the teacher's support, shape (N, K), int64; arbitrary valid ids where `support_mask` is False.
        support_mask: which of the K slots hold a support token, shape (N, K), bool.
        teacher_logprobs: nats, shape (N, K), float32.
        advantages: teacher minus reference log-probability of the support tokens, nats, shape (N, K).
        teacher_tail: log of the teacher's mass outside the support, nats, shape (N,).
        reference_tail: as above, of the reference.
        teacher_token: the teacher's log-probability of the label, nats, shape (N,).
        reference_token: as above, of the reference.
        behavior_token: the label's log-probability under the student that sampled it, nats, shape (N,).
        initial_token: the label's log-probability under the student before training, nats, shape (N,).
        initial_support: log-probabilities of the support tokens under the student before training, nats, shape (N, K).
        initial_tail: log of that student's mass outside the support, nats, shape (N,).
        response_advantage: teacher minus reference log-probability of the whole response, nats, shape (N,).
        token_baseline: mean advantage of all sampled tokens, nats, shape (N,).
        response_baseline: mean `response_advantage` of all sampled positions, nats, shape (N,).
        terminator: whether the label is the token that ends the response, shape (N,), bool.

    Columns that the method did not ask for hold zeros.
    """

    labels: torch.Tensor
    support_ids: torch.Tensor
    support_mask: torch.Tensor
    teacher_logprobs: torch.Tensor
    advantages: torch.Tensor
    teacher_tail: torch.Tensor
    reference_tail: torch.Tensor
    teacher_token: torch.Tensor
    reference_token: torch.Tensor
    behavior_token: torch.Tensor
    initial_token: torch.Tensor
    initial_support: torch.Tensor
    initial_tail: torch.Tensor
    response_advantage: torch.Tensor
    token_baseline: torch.Tensor
    response_baseline: torch.Tensor
    terminator: torch.Tensor

    @classmethod
    def from_batch(cls, batch: Mapping[str, torch.Tensor]) -> Positions:
        """Take the columns out of what `PairCollator` returns, by their names.

        Support ids become int64, which torch indexes with; a value given once is that of every position.
        """
        num_positions = len(batch["labels"])
        columns = {field.name: batch[field.name] for field in dataclasses.fields(cls)}
        columns["support_ids"] = columns["support_ids"].long()
        return cls(
            **{
                name: value if len(value) == num_positions else value.expand(num_positions, *value.shape[1:])
                for name, value in columns.items()
            }
        )

    def __getitem__(self, index: slice) -> Positions:
        return Positions(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """One additive part of a loss that is a sum over positions.

    Attributes:
        name: its key in metrics.jsonl.
        role: the rows that it covers.
        weight: its factor in the loss; 0 reports it without training on it.
        values: per-position values, shape (n,), from the positions and the student's log-probabilities there.
    """

    name: str
    role: str
    weight: float
    values: Callable[[Positions, SparseLogprobs], torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Responses:
    """Sums over whole responses of one role, shape (R,) each; rows of the roles of one pair share their index.

    Attributes:
        student, teacher, reference, behavior, initial: summed log-probabilities of the response tokens, nats.
        lengths: number of positions, float.
    """

    student: torch.Tensor
    teacher: torch.Tensor
    reference: torch.Tensor
    behavior: torch.Tensor
    initial: torch.Tensor
    lengths: torch.Tensor

    def __getitem__(self, index: torch.Tensor) -> Responses:
        return Responses(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True, slots=True)
class SequenceTerm:
    """A loss of whole responses: of chosen against rejected, or of sampled responses.

    Attributes:
        name: its key in metrics.jsonl.
        roles: the roles it compares, in the order in which `values` takes them.
        weight: its factor in the loss.
        values: per-pair (or per-response) values, shape (R,); the second result holds further metrics to
            report, each of shape (R,).
    """

    name: str
    roles: tuple[str, ...]
    weight: float
    values: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """A method with its settings filled in: the needs and the terms whose weighted sum is the loss."""

    name: str
    needs: Needs
    terms: tuple[Term, ...] = ()
    sequence_terms: tuple[SequenceTerm, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec(Generic[AnySettings]):
    """A method as users name it.

    Attributes:
        name: what follows `--method`.
        summary: its loss in one line, for help and documentation.
        settings: frozen dataclass of its hyper-parameters; a setting that it does not have is refused.
        build: turns an instance of `settings` into a `Method`.
        defaults: its settings with their defaults by name. May be given instead of `settings`, for a user's
            own method without help and ranges.
    """

    name: str
    summary: str
    build: Callable[[AnySettings], Method]
    settings: type[AnySettings] = None  # type: ignore[assignment]  (filled in below)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        settings: Any = self.settings
        if settings is None:
            fields = [
                (name, type(value), dataclasses.field(default=value)) for name, value in self.defaults.items()
            ]
            settings = dataclasses.make_dataclass("Settings", fields, frozen=True, kw_only=True)
        object.__setattr__(self, "settings", settings)
        object.__setattr__(
            self, "defaults", {field.name: field.default for field in dataclasses.fields(settings)}
        )
