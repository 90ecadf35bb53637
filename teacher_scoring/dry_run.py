"""score-teacher --dry-run: what a run would do, need and cost, before anything is paid for."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data.errors import ConfigurationError
from data.files import adpa_home
from data.hardware import CARDS, UTILISATION, Card, active_expert_share, attention_width
from data.storage.store import store_folder
from data.tokens.encoder import EncodedPair
from teacher_scoring.engines.models import FoundModel
from teacher_scoring.options import Report, ScoreOptions
from teacher_scoring.passes.cache import PassPlan
from teacher_scoring.passes.tasks import Task, group_pairs, pair_rows, tasks_of
from teacher_scoring.request import ScoringRequest, prepare_request

__all__ = ["ModelSize", "Plan", "model_size", "plan_scoring"]


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What scoring with a model costs.

    Attributes:
        parameters: all of them.
        body_parameters: those that every token goes through: no embedding, no head, the chosen experts alone.
        head_parameters: those of the LM head, which only response positions go through.
        attention_width: sum over the layers of heads times head dimension.
    """

    parameters: int
    body_parameters: int
    head_parameters: int
    attention_width: int

    def flops(self, *, tokens: int, positions: int, mean_length: float) -> float:
        """Floating-point operations of one pass.

        Two for each parameter that a token meets; in attention, another four for each unit of width and each token
        before it, of which there are half a sequence on average.

        Args:
            tokens: prompt and response tokens.
            positions: response positions, for which the head is computed.
            mean_length: tokens of a sequence.
        """
        attention = 4 * self.attention_width * mean_length / 2
        return tokens * (2 * self.body_parameters + attention) + positions * 2 * self.head_parameters


def model_size(folder: Path, *, trust_remote_code: bool) -> ModelSize:
    """Measure a configuration: the model is laid out without memory behind its parameters.

    Raises:
        ConfigurationError: for a configuration that no causal language model is made of.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"{folder}: no causal language model can be made of it: {reason}") from error
    text: Any = config.get_text_config()
    embedding = model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    idle_experts = experts - round(experts * active_expert_share(text))
    return ModelSize(
        parameters=total,
        body_parameters=total - embedding - (0 if is_tied else head) - idle_experts,
        head_parameters=head,
        attention_width=attention_width(text),
    )


# Bytes of a position and of each of its support tokens, compressed: lines through what was measured at several k, for
# rounded shards on a trained model's distributions over 128,256 tokens (docs/lab_notes/storage.md), for the others on
# drawn ones over 32,000 (docs/lab_notes/scoring.md); at most 6% off there.
_SHARD_BYTES = {"rounded": (23.0, 3.3), "exact": (25.0, 7.1)}

_PASS_BYTES = {"teacher": (6.0, 4.2), "reference": (6.0, 2.9)}


@dataclass(slots=True)
class Plan:
    """What a run would do.

    Attributes:
        rows: responses by role.
        positions: response positions by role.
        tokens: prompt and response tokens that go through each model.
        cached: positions by model that are in the cache already; None where the weights are not there to tell.
        dataset_bytes: expected size of the dataset.
        cache_bytes: expected growth of the pass cache.
        flops: by model, for what is not cached.
        hours: by model, on one card.
    """

    rows: dict[str, int] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    cached: dict[str, int | None] = field(default_factory=dict)
    dataset_bytes: float = 0.0
    cache_bytes: float = 0.0
    flops: dict[str, float] = field(default_factory=dict)
    hours: dict[str, float] = field(default_factory=dict)


def plan_scoring(options: ScoreOptions, *, report: Report) -> Plan:
    """Read and encode all data, look into the cache, and reckon; nothing is written, no model is loaded.

    Model folders need no weights, only configuration and tokenizer.

    Args:
        options: the command's.
        report: takes the plan, line by line.
    Raises:
        AdpaError: whatever would stop the run itself at its beginning.
    """
    card = CARDS[options.card]
    request = prepare_request(options, report, need_weights=False)
    rollouts = request.rollouts_by_pair()
    request.check_data(rollouts)
    cache = Path(options.pass_cache) if options.pass_cache else adpa_home() / "passes"
    models = [model for model in (request.teacher, request.reference) if model is not None]
    found = zip((model.option.removeprefix("--") for model in models), request.plans(cache), strict=False)
    plans = {name: passes for name, passes in found if passes is not None}
    plan = Plan(cached={name: _can_tell(model) for name, model in zip(plans, models, strict=True)})
    todo = {name: _Work() for name in plans}
    for shard in group_pairs(pair_rows(_encoded(request), rollouts), options.shard_pairs):
        for task in tasks_of(shard, options.roles):
            plan.rows[task.role] = plan.rows.get(task.role, 0) + task.rows
            plan.positions[task.role] = plan.positions.get(task.role, 0) + task.positions
            plan.tokens += task.tokens
            for name, passes in plans.items():
                _look_up(task, name, passes, plan, todo[name])
    report(request.reader.describe())
    report(request.encoder.describe())
    if rollouts is not None and (dropped := rollouts.describe()) is not None:
        report(dropped)
    request.encoder.require_rows()
    sizes = {
        name: model_size(model.folder, trust_remote_code=options.trust_remote_code)
        for name, model in zip(plans, models, strict=True)
    }
    _reckon(plan, options, todo, sizes, card)
    _describe(plan, options, sizes, card, cache, report)
    return plan


@dataclass(slots=True)
class _Work:
    """What one model still has to score."""

    rows: int = 0
    tokens: int = 0
    positions: int = 0


def _can_tell(model: FoundModel) -> int | None:
    return None if model.identity["weights_sha256"] is None else 0


def _encoded(request: ScoringRequest) -> Iterator[EncodedPair]:
    return (pair for row in request.reader if (pair := request.encoder.encode(row)) is not None)


def _look_up(task: Task, name: str, passes: PassPlan, plan: Plan, work: _Work) -> None:
    found = plan.cached[name]
    if found is not None and passes.path(task.content).exists():
        plan.cached[name] = found + task.positions
        return
    work.rows += task.rows
    work.tokens += task.tokens
    work.positions += task.positions


def _reckon(
    plan: Plan, options: ScoreOptions, todo: dict[str, _Work], sizes: dict[str, ModelSize], card: Card
) -> None:
    total = sum(plan.positions.values())
    # Without a reference a shard holds what the teacher's pass does.
    per_position = _SHARD_BYTES[options.precision] if len(todo) > 1 else _PASS_BYTES["teacher"]
    plan.dataset_bytes = total * _position_bytes(per_position, options.top_k)
    for name, work in todo.items():
        plan.cache_bytes += work.positions * _position_bytes(_PASS_BYTES[name], options.top_k)
        plan.flops[name] = sizes[name].flops(
            tokens=work.tokens, positions=work.positions, mean_length=work.tokens / max(1, work.rows)
        )
        plan.hours[name] = plan.flops[name] / (card.peak_tflops * 1e12 * UTILISATION) / 3600


def _position_bytes(line: tuple[float, float], top_k: int) -> float:
    fixed, per_token = line
    return fixed + per_token * top_k


def _describe(
    plan: Plan, options: ScoreOptions, sizes: dict[str, ModelSize], card: Card, cache: Path, report: Report
) -> None:
    for role, rows in plan.rows.items():
        report(f"{role}: {rows:,} responses, {plan.positions[role]:,} positions")
    report(f"tokens through each model: {plan.tokens:,}")
    for name, size in sizes.items():
        known = plan.cached[name]
        cached = "cannot be told without its weights" if known is None else f"{known:,} positions"
        weights_gib = 2 * size.parameters / 2**30
        fits = (
            ""
            if weights_gib < 0.8 * card.memory_gib
            else f", too much for one {card.name} ({card.memory_gib} GiB)"
        )
        report(
            f"{name}: {size.parameters / 1e9:.2f} billion parameters, {weights_gib:.1f} GiB in bfloat16{fits}; "
            f"cached: {cached}; {plan.flops[name]:.3g} FLOPs to do, {_duration(plan.hours[name])}"
        )
    num_cards = options.workers * options.tensor_parallel_size * options.pipeline_parallel_size
    hours = sum(plan.hours.values())
    shared = (
        f"; {_duration(hours / num_cards)} on the {num_cards} that the options name" if num_cards > 1 else ""
    )
    report(f"in all {_duration(hours)} on one {card.name}{shared}")
    report(
        f"reckoned with {card.peak_tflops:g} TFLOP/s (dense bfloat16, by its data sheet) at an assumed utilisation of "
        f"{UTILISATION:.0%}; start-up, loading and what several cards lose between them are not in it"
    )
    for what, folder, needed in (
        ("dataset", store_folder() if options.out is None else Path(options.out), plan.dataset_bytes),
        ("pass cache", cache, plan.cache_bytes),
    ):
        free = shutil.disk_usage(_existing(folder)).free
        verdict = "" if needed < free else "; NOT ENOUGH: choose another disk"
        report(f"{what}: about {needed / 1e9:.2f} GB to write, {free / 1e9:.1f} GB free at {folder}{verdict}")


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 2 else f"{60 * hours:.1f} minutes"


def _existing(folder: Path) -> Path:
    """The folder itself or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
