"""score-teacher --dry-run: an estimate of a run's work, memory, disk and time.

All rows are read and encoded as the run would, and the cache is looked into; no model is loaded and nothing is written.
Times come from counting operations: a data sheet's peak times an assumed utilisation, which no card has confirmed.
"""

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data.errors import ConfigurationError
from data.files import nearest_existing
from data.hardware import CARDS, PRICED_CARDS, UTILISATION, Card, describe_hours, find_card
from data.model_size import ModelSize
from data.storage.store import store_folder
from teacher_scoring.engines.models import ResolvedModel
from teacher_scoring.options import ScoreOptions
from teacher_scoring.passes.tasks import Task, group_pairs, tasks_of
from teacher_scoring.preparation import prepare_request


def model_size(folder: Path, *, trust_remote_code: bool) -> ModelSize:
    """Measure a configuration: the model is built without memory for its parameters.

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
    return ModelSize.of(model, model.get_output_embeddings().weight)


#: Bytes of a position and of each of its support tokens, compressed: lines through what was measured at several k, for
#: rounded shards on a trained model's distributions over 128,256 tokens (docs/lab_notes/storage.md), for the others on
#: drawn ones over 32,000 (docs/lab_notes/scoring.md); at most 6% off there.
SHARD_BYTES = {"rounded": (23.0, 3.3), "exact": (25.0, 7.1)}

_PASS_BYTES = {"teacher": (6.0, 4.2), "reference": (6.0, 2.9)}


#: What times are estimated for on a machine without a GPU, or with one that is not in the table.
_USUAL_CARD = "h100-sxm"

#: Of a card's memory, that weights may take: the rest is for activations and the engine.
_WEIGHTS_SHARE = 0.8

# Bytes of a weight; the others' names are those of 16-bit floats.
_WEIGHT_BYTES = {"float32": 4, "float8_e4m3fn": 1}


@dataclass(frozen=True, slots=True)
class LiveTeacher:
    """Models that run during training, in place of stored signals.

    Attributes:
        models: which of them a method needs.
        epoch_hours: of their forward passes in one epoch of one student, on one card.
        break_even: the first epoch, counted over all students, at which they have taken longer than scoring.
    """

    models: str
    epoch_hours: float
    break_even: int

    @classmethod
    def beside(cls, scoring_hours: float, *, models: str, epoch_hours: float) -> "LiveTeacher":
        """Compare with scoring what is not stored yet; `epoch_hours` is above 0."""
        # Equal sums of float64 may differ in their last digits; they are equal times all the same.
        return cls(models, epoch_hours, math.floor(scoring_hours / epoch_hours + 1e-9) + 1)

    def __str__(self) -> str:
        return (
            f"break-even: {self.models}, live, adds {describe_hours(self.epoch_hours)} to every epoch of every "
            f"student; stored signals are cheaper from epoch {self.break_even} on, counted over all students"
        )


@dataclass(slots=True, kw_only=True)
class ScoringPlan:
    """What a run would do.

    Attributes:
        card: the accelerator that times are estimated for.
        num_cards: how many of them the options name.
        engine: the engine of the run.
        rows: responses by role.
        positions: response positions by role.
        tokens: prompt and response tokens that go through each model.
        cached: positions by model that are in the cache already; None where the weights are not there to tell.
        dataset_bytes: expected size of the dataset.
        cache_bytes: expected growth of the pass cache.
        sizes: of the models.
        dtypes: of the models' weights, as they would be loaded.
        flops: by model, for what is not cached.
        hours: by model, on one card, for what is not cached.
        live: what the same data cost where models run during training instead.
        folders: where the dataset and the pass cache would be.
    """

    card: Card
    num_cards: int
    engine: str
    rows: dict[str, int] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    cached: dict[str, int | None] = field(default_factory=dict)
    dataset_bytes: float = 0.0
    cache_bytes: float = 0.0
    sizes: dict[str, ModelSize] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    hours: dict[str, float] = field(default_factory=dict)
    live: list[LiveTeacher] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(describe_plan(self))


@dataclass(slots=True)
class _Work:
    """What one model still has to score."""

    rows: int = 0
    tokens: int = 0
    positions: int = 0

    def add(self, task: Task) -> None:
        self.rows += task.rows
        self.tokens += task.tokens
        self.positions += task.positions

    def flops(self, size: ModelSize) -> float:
        """Operations of all of it in a model."""
        mean_length = self.tokens / max(1, self.rows)
        # Each token sees half of its sequence on average.
        return size.forward_flops(
            tokens=self.tokens, attended=self.tokens * mean_length / 2, positions=self.positions
        )


def plan_scoring(options: ScoreOptions) -> ScoringPlan:
    """Read and encode all data, look into the cache, and estimate; nothing is written, no model is loaded.

    Model folders need no weights, only configuration and tokenizer.

    Args:
        options: the command's.
    Raises:
        AdpaError: whatever would stop the run itself at its beginning.
    """
    request = prepare_request(options, need_weights=False)
    rollouts = request.rollouts_by_pair()
    request.check_data(rollouts)
    models = {model.option.removeprefix("--"): model for model in request.models}
    passes = dict(zip(models, request.plans(), strict=True))
    plan = ScoringPlan(
        card=_card(options.card),
        num_cards=options.workers * options.tensor_parallel_size * options.pipeline_parallel_size,
        engine=request.options.engine,
        cached={name: _can_tell(model) for name, model in models.items()},
        dtypes={name: _dtype(options, model) for name, model in models.items()},
        folders={
            "dataset": store_folder() if options.out is None else Path(options.out),
            "pass cache": request.cache,
        },
    )
    everything = _Work()
    todo = {name: _Work() for name in models}
    for shard in group_pairs(request.rows(rollouts), options.shard_pairs):
        for task in tasks_of(shard, options.roles):
            plan.rows[task.role] = plan.rows.get(task.role, 0) + task.rows
            plan.positions[task.role] = plan.positions.get(task.role, 0) + task.positions
            everything.add(task)
            for name, cache in passes.items():
                found = plan.cached[name]
                if found is not None and cache.path(task.content).exists():
                    plan.cached[name] = found + task.positions
                else:
                    todo[name].add(task)
    plan.tokens = everything.tokens
    request.report_rows(rollouts)
    plan.sizes = {
        name: model_size(model.folder, trust_remote_code=options.trust_remote_code)
        for name, model in models.items()
    }
    _estimate(plan, options, everything, todo)
    return plan


def describe_plan(plan: ScoringPlan) -> list[str]:
    """A plan as lines for the terminal."""
    lines = [
        f"{role}: {rows:,} responses, {plan.positions[role]:,} positions" for role, rows in plan.rows.items()
    ]
    lines.append(f"tokens through each model: {plan.tokens:,}")
    card = plan.card
    for name, size in plan.sizes.items():
        known, dtype = plan.cached[name], plan.dtypes[name]
        cached = "cannot be told without its weights" if known is None else f"{known:,} positions"
        fits = _fits(plan, name, card)
        too_much = "" if fits else f", too much for one {card.name} ({card.memory_gib} GiB)"
        lines.append(
            f"{name}: {size.parameters / 1e9:.2f} billion parameters, {_weights_gib(plan, name):.1f} GiB in {dtype}"
            f"{too_much}; cached: {cached}; {plan.flops[name]:.3g} FLOPs to do, {describe_hours(plan.hours[name])}"
        )
    hours = sum(plan.hours.values())
    shared = ""
    if plan.num_cards > 1:
        shared = f"; {describe_hours(hours / plan.num_cards)} on the {plan.num_cards} that the options name"
    lines.append(f"in all {describe_hours(hours)} on one {card.name} with {plan.engine}{shared}")
    prices = (_price(plan, CARDS[name]) for name in PRICED_CARDS if name != card.name)
    lines.append(f"on one card of another kind: {', '.join(prices)}")
    lines += map(str, plan.live)
    peaks = ", ".join(
        f"{card.tflops(dtype):g} TFLOP/s in {dtype}" for dtype in sorted(set(plan.dtypes.values()))
    )
    lines.append(
        f"estimated with {peaks} (dense, by the data sheet of {card.name}; --card names others) at an assumed "
        f"utilisation of {UTILISATION:.0%}; start-up, loading and what several cards lose between them are not in it"
    )
    for (what, folder), needed in zip(
        plan.folders.items(), (plan.dataset_bytes, plan.cache_bytes), strict=True
    ):
        free = shutil.disk_usage(nearest_existing(folder)).free
        verdict = "" if needed < free else "; NOT ENOUGH: choose another disk"
        lines.append(f"{what}: about {_size(needed)} to write, {free / 1e9:.1f} GB free at {folder}{verdict}")
    return lines


def _card(name: str) -> Card:
    """The card with a name; for `auto` this machine's."""
    if name != "auto":
        return CARDS[name]
    found = find_card(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return found or CARDS[_USUAL_CARD]


def _dtype(options: ScoreOptions, model: ResolvedModel) -> str:
    """What the products with a model's weights are computed in."""
    if "fp8" in (options.quantization or ""):
        return "float8_e4m3fn"
    return model.dtype if options.dtype == "auto" else options.dtype


def _can_tell(model: ResolvedModel) -> int | None:
    return None if model.identity["weights_sha256"] is None else 0


def _estimate(plan: ScoringPlan, options: ScoreOptions, everything: _Work, todo: dict[str, _Work]) -> None:
    """Fill in bytes, operations and hours, of what each model still has to score and of everything."""
    # Without a reference a shard holds what the teacher's pass does.
    per_position = SHARD_BYTES[options.precision] if len(todo) > 1 else _PASS_BYTES["teacher"]
    plan.dataset_bytes = sum(plan.positions.values()) * position_bytes(per_position, options.top_k)
    for name, work in todo.items():
        plan.cache_bytes += work.positions * position_bytes(_PASS_BYTES[name], options.top_k)
        plan.flops[name] = work.flops(plan.sizes[name])
        plan.hours[name] = _hours(plan, name, plan.flops[name], plan.card)
    live = {name: _hours(plan, name, everything.flops(plan.sizes[name]), plan.card) for name in todo}
    if not everything.tokens:
        return
    scoring = sum(plan.hours.values())
    plan.live = [
        LiveTeacher.beside(scoring, models="the teacher alone (as for dckd)", epoch_hours=live["teacher"])
    ]
    if "reference" in live:
        both = "teacher and reference (as for abd and adpa)"
        plan.live.append(LiveTeacher.beside(scoring, models=both, epoch_hours=sum(live.values())))


def _hours(plan: ScoringPlan, name: str, flops: float, card: Card) -> float:
    return flops / (card.tflops(plan.dtypes[name]) * 1e12 * UTILISATION) / 3600


def _weights_gib(plan: ScoringPlan, name: str) -> float:
    return _WEIGHT_BYTES.get(plan.dtypes[name], 2) * plan.sizes[name].parameters / 2**30


def _fits(plan: ScoringPlan, name: str, card: Card) -> bool:
    return _weights_gib(plan, name) < _WEIGHTS_SHARE * card.memory_gib


def _price(plan: ScoringPlan, card: Card) -> str:
    """The hours of everything on another card, and whether it holds the models' weights."""
    hours = describe_hours(sum(_hours(plan, name, flops, card) for name, flops in plan.flops.items()))
    fit = all(_fits(plan, name, card) for name in plan.sizes)
    return f"{card.name} {hours}{'' if fit else f' (too small alone: {card.memory_gib} GiB)'}"


def position_bytes(line: tuple[float, float], top_k: int) -> float:
    """Of one position with k support tokens, from the line of its kind of file."""
    fixed, per_token = line
    return fixed + per_token * top_k


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.2g} MB"
