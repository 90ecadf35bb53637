"""The options of an engine, the same for every command of stage one that runs one."""

import dataclasses

from data.options.fields import option
from data.options.model_flags import ModelFlags
from teacher_scoring.engines.contract import EngineOptions


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EngineFlags(ModelFlags):
    """The options of an engine, the same for every command that runs one."""

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
    own_process: bool | None = option(
        None,
        help="run each model in a separate process [for vLLM and on GPUs]",
        determining=False,
        group="engine",
        expert=True,
    )


def engine_options(
    options: EngineFlags, model: str, adapter: str | None, *, max_length: int
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
