"""The student and its loss in one module, so that every parameter is seen through one forward."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from data.signals.schema import ROLES
from student_training.batching.collator import COUNT_NAMES, model_inputs
from student_training.head.fused import SparseLogprobs, fused_objective, sparse_logprobs
from student_training.head.lm_head import read_head, split_model
from student_training.methods.base import Method, Positions, Responses
from student_training.monitoring.health import (
    EXPECTED_ADVANTAGE,
    TEACHER_EXPECTED_ADVANTAGE,
    sharpness_values,
    staleness_values,
)


class StudentWithObjective(nn.Module):
    """A causal language model whose forward returns a method's loss and its metrics.

    The LM head runs inside this forward and on response positions only; logits of prompts and padding are never
    computed, and those of responses never all at once.
    """

    def __init__(
        self,
        student: nn.Module,
        method: Method,
        *,
        normalize: str = "token",
        head_chunk: int | None = None,
        end_id: int | None = None,
        has_rollouts: bool = False,
    ) -> None:
        """Wrap a student.

        Args:
            student: a transformers causal language model, or one wrapped by peft.
            method: what to train it with.
            normalize: `token` or `sequence`, see `TrainOptions.normalize`.
            head_chunk: positions that go through the LM head at once; None lets the head choose.
            end_id: the token that ends an answer, for metrics; None where it is not known.
            has_rollouts: whether batches hold what the sampling student gave to sampled tokens.
        """
        super().__init__()
        self.student: Any = student
        # Checked once here; a sharded student's head is read again in each forward, where it is gathered.
        self._backbone, _ = split_model(student)
        self._method = method
        self._normalize = normalize
        self._head_chunk = head_chunk
        self._end_id = end_id
        self._has_rollouts = has_rollouts

    @property
    def term_weights(self) -> dict[str, float]:
        """The weight of every term of the loss, by the name of its metric."""
        return {term.name: term.weight for term in (*self._method.terms, *self._method.sequence_terms)}

    @property
    def config(self):
        """The student's own configuration."""
        return self.student.config

    @property
    def _no_split_modules(self) -> Any:
        """Which layers to shard as one; accelerate asks the module that it wraps."""
        return getattr(self.student, "_no_split_modules", None)

    def gradient_checkpointing_enable(self, **arguments: Any) -> None:
        """Pass through: transformers.Trainer asks the module that it holds."""
        # Reentrant recomputation loses the gradients of adapters above frozen embeddings.
        if arguments.get("gradient_checkpointing_kwargs") is None:
            arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
        self.student.gradient_checkpointing_enable(**arguments)

    def activation_checkpointing_enable(self, **arguments: Any) -> None:
        """The same by the name that later versions of transformers have for it; not reentrant there."""
        self.student.activation_checkpointing_enable(**arguments)

    def forward(self, step_counts: torch.Tensor | None = None, **batch: torch.Tensor) -> dict[str, Any]:
        """Compute loss and metrics of one batch.

        Args:
            step_counts: `counts` summed over all batches of the optimizer step, everywhere; None for this batch's own.
            **batch: what `PairCollator` returns.
        Returns:
            `loss`, scalar: this batch's share of the step's loss, so that shares add up to it; `metrics`: by name,
            (sum, count) as a detached float64 tensor of shape (2,).
        """
        counts = batch["counts"] if step_counts is None else step_counts
        totals = dict(zip(COUNT_NAMES, counts.clamp(min=1).unbind(), strict=True))
        ranges = _role_ranges(batch["counts"])
        positions = Positions.from_batch(batch)
        hidden = self._backbone(**model_inputs(batch))
        hidden = hidden.flatten(0, 1)[batch["position_index"]]
        arguments = (
            hidden,
            read_head(self.student),
            positions.labels,
            positions.support_ids,
            positions.support_mask,
        )
        metrics: dict[str, torch.Tensor] = {}
        if self._method.sequence_terms:
            student = sparse_logprobs(*arguments, chunk_size=self._head_chunk)
            every = slice(0, len(positions.labels))
            loss = self._position_losses(every, positions, student, totals, ranges).sum()
            loss = loss + self._sequence_loss(positions, student, batch, totals, metrics)
            student = student.detach()
        else:

            def objective(chunk: slice, student: SparseLogprobs) -> torch.Tensor:
                return self._position_losses(chunk, positions, student, totals, ranges)

            loss, student = fused_objective(*arguments, objective, chunk_size=self._head_chunk)
        with torch.no_grad():
            self._position_metrics(positions, student, batch["counts"], ranges, metrics)
        return {"loss": loss, "metrics": metrics}

    def _position_losses(
        self,
        chunk: slice,
        positions: Positions,
        student: SparseLogprobs,
        totals: Mapping[str, torch.Tensor],
        ranges: Mapping[str, slice],
    ) -> torch.Tensor:
        """What each position of a chunk adds to the loss, shape (n,); `student` holds the chunk alone."""
        unit = "positions" if self._normalize == "token" else "responses"
        losses = torch.zeros_like(student.token)
        for term in self._method.terms:
            role = ranges[term.role]
            here = slice(max(role.start, chunk.start), min(role.stop, chunk.stop))
            if not term.weight or here.start >= here.stop:
                continue
            local = slice(here.start - chunk.start, here.stop - chunk.start)
            scale = term.weight / totals[f"{unit}/{term.role}"]
            values = term.values(positions[here], student[local]) * scale
            losses = losses + torch.nn.functional.pad(values, (local.start, len(losses) - local.stop))
        return losses

    def _sequence_loss(
        self,
        positions: Positions,
        student: SparseLogprobs,
        batch: Mapping[str, torch.Tensor],
        totals: Mapping[str, torch.Tensor],
        metrics: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Loss of whole responses; adds its metrics to `metrics`."""
        rows = len(batch["row_role"])

        def summed(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(rows).index_add(0, batch["position_row"], values)

        responses = Responses(
            summed(student.token),
            summed(positions.teacher_token),
            summed(positions.reference_token),
            summed(positions.behavior_token),
            summed(positions.initial_token),
            batch["row_length"].to(student.token.dtype),
        )
        loss = student.token.new_zeros(())
        for term in self._method.sequence_terms:
            first, *others = term.roles
            sides = _rows_of_roles(batch["row_role"], batch["row_pair"], term.roles)
            values, extra = term.values(*(responses[side] for side in sides))
            total = totals["pairs" if others else f"responses/{first}"]
            loss = loss + term.weight * values.sum() / total
            for name, column in {term.name: values, **extra}.items():
                _add_metric(metrics, name, column)
        return loss

    def _position_metrics(
        self,
        positions: Positions,
        student: SparseLogprobs,
        counts: torch.Tensor,
        ranges: Mapping[str, slice],
        metrics: dict[str, torch.Tensor],
    ) -> None:
        """Add every term, the student's entropy, and its mass on the support to `metrics`.

        A term is averaged as the loss averages it: over positions, or summed per response and over responses.
        """
        needs = self._method.needs
        numbers = dict(zip(COUNT_NAMES, counts.unbind(), strict=True))
        for term in self._method.terms:
            here = ranges[term.role]
            total = None if self._normalize == "token" else numbers[f"responses/{term.role}"]
            _add_metric(metrics, term.name, term.values(positions[here], student[here]), total)
            if term.name == EXPECTED_ADVANTAGE:
                part = positions[here]
                # The teacher in the student's place: what the term would say of the teacher itself.
                teacher = SparseLogprobs(
                    token=part.teacher_token,
                    support=part.teacher_logprobs,
                    tail=part.teacher_tail,
                    entropy=torch.zeros_like(part.teacher_tail),
                )
                _add_metric(metrics, TEACHER_EXPECTED_ADVANTAGE, term.values(part, teacher), total)
        for role in sorted(needs.roles):
            here = ranges[role]
            part, own = positions[here], student[here]
            _add_metric(metrics, "entropy", own.entropy)
            watched: dict[str, torch.Tensor] = {}
            if role in needs.signals:
                mass = own.support.exp().masked_fill(~part.support_mask, 0.0).sum(-1)
                watched = {"advantage_coverage": mass, **sharpness_values(part, own, end_id=self._end_id)}
            if role == "student" and self._has_rollouts:
                watched |= staleness_values(part, own)
            for name, values in watched.items():
                _add_metric(metrics, name, values)


def _add_metric(
    metrics: dict[str, torch.Tensor], name: str, values: torch.Tensor, total: torch.Tensor | None = None
) -> None:
    """Add values to a metric kept as (sum, count), float64; the count is theirs unless a total is given."""
    values = values.detach()
    count = values.new_tensor(len(values), dtype=torch.float64) if total is None else total.double()
    pair = torch.stack([values.double().sum(), count])
    metrics[name] = metrics[name] + pair if name in metrics else pair


def _role_ranges(counts: torch.Tensor) -> dict[str, slice]:
    """The range of each role's positions; the collator orders them by role."""
    ranges, start = {}, 0
    for role, count in zip(ROLES, counts[: len(ROLES)].tolist(), strict=True):
        ranges[role] = slice(start, start + count)
        start += count
    return ranges


def _rows_of_roles(
    row_role: torch.Tensor, row_pair: torch.Tensor, roles: Sequence[str]
) -> list[torch.Tensor]:
    """Row indices of each role, for the pairs that have all of these roles; aligned between the roles."""
    rows = [torch.nonzero(row_role == ROLES.index(role)).squeeze(1) for role in roles]
    if len(rows) == 2:
        first, second = rows
        rows = [
            first[torch.isin(row_pair[first], row_pair[second])],
            second[torch.isin(row_pair[second], row_pair[first])],
        ]
    return rows
