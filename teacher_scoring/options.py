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
from teacher_scoring.engines.contract import DTYPES, ENGINES, EngineOptions

__all__ = ["ALL_SHARDS", "MergeOptions", "Part", "SampleOptions", "ScoreOptions", "engine_options"]


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
class _EngineFlags:
    """The options of an engine, the same for every command that runs one."""

    engine: str = option("auto", help="auto takes vLLM when it is installed", choices=ENGINES, group="engine")
    dtype: str = option(
        "auto",
        help="weights and activations; auto takes each checkpoint's own",
        choices=DTYPES,
        group="engine",
    )
    trust_remote_code: bool = option(
        False, help="run code that comes with a checkpoint", group="engine", expert=True
    )
    tensor_parallel_size: int = option(
        1,
        help="GPUs that share each layer (vLLM)",
        minimum=1,
        determining=False,
        group="engine",
        aliases=("--tp",),
    )
    pipeline_parallel_size: int = option(
        1,
        help="GPUs that share the stack of layers (vLLM)",
        minimum=1,
        determining=False,
        group="engine",
        expert=True,
        aliases=("--pp",),
    )
    workers: int = option(
        1,
        help="engines that work side by side, on Ray; all machines have to share the folders of --out and --pass-cache",
        minimum=1,
        determining=False,
        group="engine",
    )
    ray_address: str | None = option(
        None,
        help="Ray cluster for the workers: auto or HOST:PORT [one of this machine alone, for this run]",
        determining=False,
        group="engine",
        expert=True,
    )
    gpu_memory_utilization: float = option(
        0.85,
        help="share of each GPU's memory for vLLM",
        minimum=0.05,
        maximum=1.0,
        determining=False,
        group="engine",
        expert=True,
    )
    max_num_batched_tokens: int | None = option(
        None,
        help="tokens that go through the model at once",
        minimum=1,
        determining=False,
        group="engine",
        expert=True,
    )
    quantization: str | None = option(
        None, help="vLLM's name of a quantisation method", group="engine", expert=True
    )
    engine_arg: tuple[str, ...] = option(
        (), help="further KEY=VALUE for the engine; repeat for several", group="engine", expert=True
    )
    own_process: bool | None = option(
        None,
        help="run each model in a separate process [for vLLM and on GPUs]",
        determining=False,
        group="engine",
        expert=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions(_EngineFlags, Reading):
    """Score responses with teacher and reference. Writes a signal dataset; the same line again continues it."""

    teacher: str = option(help="aligned model: a local folder or a hub name", group="model")
    data: str = data_option()
    out: str | None = option(
        None,
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
class SampleOptions(_EngineFlags, Reading):
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


def engine_options(
    options: ScoreOptions | SampleOptions, model: str, adapter: str | None, *, max_length: int
) -> EngineOptions:
    """What an engine needs to know of a command's options.

    Args:
        options: the command's.
        model: resolved folder of the model.
        adapter: resolved folder of the adapter, if any.
        max_length: longest sequence that will be asked for, tokens.
    """
    return EngineOptions(
        model=model,
        adapter=adapter,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        max_length=max_length,
        max_num_batched_tokens=options.max_num_batched_tokens,
        tensor_parallel_size=options.tensor_parallel_size,
        pipeline_parallel_size=options.pipeline_parallel_size,
        gpu_memory_utilization=options.gpu_memory_utilization,
        quantization=options.quantization,
        engine_args=options.engine_arg,
    )
