"""The options of score-teacher and sample-student."""

import dataclasses
from dataclasses import dataclass
from typing import Self

from data.errors import ConfigurationError
from data.hardware import CARDS
from data.options.fields import CommandOptions, check_options, option
from data.preferences.options import Reading, data_option
from data.signals.schema import ROLES
from data.tokens.options import (
    store_conversations_option,
    template_arg_option,
    thinking_option,
    train_on_option,
)
from teacher_scoring.engine_flags import EngineFlags


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the shards of a dataset: those whose index is `number - 1` modulo `of`.

    Attributes:
        number: which part, from 1.
        of: how many parts there are.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `I/N`, counted from 1.

        Raises:
            ConfigurationError: for anything else.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ConfigurationError(f"--shard-range: {text!r} is not I/N with I from 1 to N, such as 2/8")
        return cls(int(number), int(of))

    def __contains__(self, shard_index: int) -> bool:
        return shard_index % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the dataset."""
        return self.of == 1


#: The whole dataset in one part.
ALL_SHARDS = Part()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions(EngineFlags, Reading):
    """Score responses with teacher and reference. Writes a signal dataset; the same line again continues it."""

    teacher: str = option(help="aligned model: a local folder or a hub name", group="model")
    data: str = data_option()
    out: str | None = option(
        None,
        folder=True,
        help="folder for the signal dataset [found or made in the store, by what determines it]",
        group="saving",
        aliases=(
            "-o",
            "--output",
        ),
    )
    reference: str | None = option(
        None,
        help="the model that the teacher was aligned from; without it there are no advantages",
        group="model",
    )
    rollouts: str | None = option(
        None,
        help="what sample-student wrote, for the role student: a folder, or its name in the store",
        group="data",
    )
    translate: bool = option(
        False,
        help="for --rollouts of a student with another tokenizer: score the answers' text, and put the signals on the "
        "student's ids",
        group="data",
    )
    template_arg: tuple[str, ...] = template_arg_option()
    thinking: str = thinking_option()
    train_on: str = train_on_option()
    store_conversations: bool = store_conversations_option()
    score: tuple[str, ...] = option(
        (),
        help="roles to score, separated by commas; others carry ids only "
        "[chosen,rejected; student too with --rollouts]",
        choices=ROLES,
        commas=True,
        group="scoring",
    )
    top_k: int = option(
        50, help="teacher tokens kept at each position", minimum=1, maximum=65_535, group="scoring"
    )
    top_p: float = option(
        1.0,
        help="keep only the most probable tokens that hold this mass, at most --top-k",
        minimum=0.01,
        maximum=1.0,
        group="scoring",
        expert=True,
    )
    max_length: int = option(
        2048,
        help="longest prompt plus response, tokens; longer rows are dropped",
        minimum=2,
        group="data",
        aliases=("--max-len",),
    )
    truncate: bool = option(
        False, help="cut prompts from the left instead of dropping long rows", group="data", expert=True
    )
    precision: str = option(
        "rounded",
        help="stored numbers: rounded finer than any objective sees, or exact float32",
        choices=("rounded", "exact"),
        group="saving",
        expert=True,
    )
    encoding: str = option(
        "compact",
        help="Parquet encoding: compact, or plain for readers without BYTE_STREAM_SPLIT",
        choices=("compact", "plain"),
        group="saving",
        expert=True,
    )
    teacher_revision: str | None = option(
        None, help="branch, tag or commit of a hub teacher", group="model", expert=True
    )
    reference_revision: str | None = option(
        None, help="branch, tag or commit of a hub reference", group="model", expert=True
    )
    teacher_adapter: str | None = option(
        None, help="LoRA adapter folder on top of the teacher", group="model", expert=True
    )
    reference_adapter: str | None = option(
        None, help="LoRA adapter folder on top of the reference", group="model", expert=True
    )
    shard_pairs: int = option(
        512,
        help="pairs per shard: the unit of work, of resuming and of loss",
        minimum=1,
        group="saving",
        expert=True,
    )
    pass_cache: str | None = option(
        None,
        help="folder for finished passes, shared between datasets [ADPA_HOME/passes]",
        determining=False,
        group="saving",
        expert=True,
    )
    shard_range: str | None = option(
        None,
        help="I/N: write every N-th shard from the I-th on; `adpa signals merge` completes the dataset",
        determining=False,
        group="saving",
        expert=True,
    )
    dry_run: bool = option(
        False,
        help="print what would be scored, written and paid for, and stop",
        determining=False,
        group="saving",
    )
    card: str = option(
        "auto",
        help="for --dry-run: the GPU to estimate for; auto takes this machine's, where there is none an h100-sxm",
        choices=("auto", *CARDS),
        determining=False,
        group="saving",
        expert=True,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if "student" in self.score and self.rollouts is None:
            raise ConfigurationError("--score student needs --rollouts, a folder written by sample-student")
        if self.translate:
            self._check_translation()
        if self.shard_range is not None:
            Part.parse(self.shard_range)
            if self.out is None:
                raise ConfigurationError(
                    "--shard-range needs --out, the folder that all parts are written into"
                )
        if self.reference is None and (self.reference_revision or self.reference_adapter):
            raise ConfigurationError("--reference-revision and --reference-adapter need --reference")

    def _check_translation(self) -> None:
        if self.rollouts is None:
            raise ConfigurationError(
                "--translate needs --rollouts, whose student has another tokenizer; without rollouts, score first and "
                "then run adpa signals translate"
            )
        for name, value in (("--truncate", self.truncate), ("--shard-range", self.shard_range)):
            if value:
                raise ConfigurationError(f"--translate does not go with {name}; leave one of them out")

    @property
    def part(self) -> Part:
        """Which shards of the dataset to make."""
        return ALL_SHARDS if self.shard_range is None else Part.parse(self.shard_range)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles to score, in the order of a pair's rows."""
        wanted = self.score or tuple(role for role in ROLES if role != "student" or self.rollouts is not None)
        return tuple(role for role in ROLES if role in wanted)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleOptions(EngineFlags, Reading):
    """Sample a student's responses to prompts. Writes rollouts, which score-teacher reads."""

    student: str = option(
        help="checkpoint to sample from: a local folder or a hub name", group="model", aliases=("--model",)
    )
    data: str = option(
        help="preference data, or rows with a prompt alone: file, folder or hub name",
        group="data",
        aliases=("--dataset",),
    )
    out: str | None = option(
        None,
        folder=True,
        help="folder for the rollouts [found or made in the store, by what determines them]",
        group="saving",
        aliases=(
            "-o",
            "--output",
        ),
    )
    num_samples: int = option(1, help="responses per prompt", minimum=1, group="sampling", aliases=("-n",))
    temperature: float = option(
        1.0, help="divides the logits; 0 takes the most probable token", minimum=0, group="sampling"
    )
    template_arg: tuple[str, ...] = template_arg_option()
    thinking: str = thinking_option()
    top_p: float = option(
        1.0,
        help="draw from the most probable tokens that hold this mass",
        minimum=0.01,
        maximum=1.0,
        group="sampling",
    )
    max_new_tokens: int = option(512, help="longest response, tokens", minimum=1, group="sampling")
    max_length: int = option(
        2048,
        help="longest prompt plus response, tokens; longer prompts are dropped",
        minimum=2,
        group="data",
        aliases=("--max-len",),
    )
    truncate: bool = option(
        False, help="cut prompts from the left instead of dropping long ones", group="data", expert=True
    )
    seed: int = option(
        0, help="seed; each response has its own, derived from it", minimum=0, group="sampling"
    )
    revision: str | None = option(
        None, help="branch, tag or commit of a hub student", group="model", expert=True
    )
    adapter: str | None = option(
        None, help="LoRA adapter folder on top of the student", group="model", expert=True
    )
    shard_pairs: int = option(
        512,
        help="prompts per shard: the unit of work, of resuming and of loss",
        minimum=1,
        group="saving",
        expert=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MergeOptions(CommandOptions):
    """Complete a dataset made in parts. They are what runs of score-teacher with --shard-range wrote."""

    dataset: str = option(help="folder that the parts were written into", positional=True)
