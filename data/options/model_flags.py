"""The options of an engine that every command with models has, in both stages that run some."""

import dataclasses
import functools

from data.options.fields import CommandOptions, option
from data.options.key_values import parse_key_values

ENGINES = ("auto", "vllm", "transformers")

DTYPES = ("auto", "float32", "bfloat16", "float16")


# Without slots: a class with two bases can take them from one of the two only.
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFlags(CommandOptions):
    """How checkpoints are held in memory."""

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
    gpu_memory_utilization: float = option(
        0.85,
        help="share of each GPU's memory for vLLM",
        minimum=0.05,
        maximum=1.0,
        determining=False,
        group="engine",
        expert=True,
    )
    engine_arg: tuple[str, ...] = option(
        (),
        help="further KEY=VALUE for the engine; repeat for several",
        check=functools.partial(parse_key_values, option="--engine-arg"),
        group="engine",
        expert=True,
    )
