"""The options of `adpa evaluate benchmarks`."""

import dataclasses
import functools
from typing import Any

from data.errors import ConfigurationError
from data.options.fields import check_options, option
from data.options.key_values import parse_key_values


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkOptions:
    """Run public benchmarks on checkpoints, through lm-evaluation-harness (the extra [eval]).

    Or tasks of your own, in the harness's form. What is in --out already is not run again.
    """

    model: tuple[str, ...] = option((), help="checkpoint to measure; repeat for several", group="model")
    baseline: str | None = option(
        None, help="the student before training, for what alignment cost", group="model"
    )
    task: tuple[str, ...] = option(
        (),
        help="TASK or TASK:SHOTS; repeat for several [the first Open LLM Leaderboard's six with its shots, and ifeval]",
        group="evaluation",
    )
    task_folder: str | None = option(
        None, help="folder with YAML tasks of your own, in the harness's form", group="evaluation"
    )
    backend: str = option(
        "hf", help="what runs the models: hf (transformers) or vllm", choices=("hf", "vllm"), group="engine"
    )
    apply_chat_template: bool = option(
        False, help="put questions through the chat template; the leaderboard did not", group="evaluation"
    )
    dtype: str = option(
        "auto", help="weights and activations; auto takes each checkpoint's own", group="engine"
    )
    batch_size: str = option("8", help="sequences at once, or auto (hf)", determining=False, group="engine")
    device: str | None = option(
        None,
        help="cuda, cpu and so on [the best there is] (hf)",
        determining=False,
        group="engine",
        expert=True,
    )
    model_arg: tuple[str, ...] = option(
        (),
        help="further KEY=VALUE for the harness's model; repeat for several",
        check=functools.partial(parse_key_values, option="--model-arg"),
        group="engine",
        expert=True,
    )
    limit: int | None = option(
        None, help="questions of each task, for trying out [all]", minimum=1, group="evaluation"
    )
    seed: int = option(
        0,
        help="seed of the examples in the prompt, of sampling and of intervals",
        minimum=0,
        group="evaluation",
        expert=True,
    )
    trust_remote_code: bool = option(
        False, help="run code that comes with a checkpoint", group="engine", expert=True
    )
    out: str = option(folder=True, help="folder for the figures of every task and the table", group="saving")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.model:
            raise ConfigurationError("--model is required: name one checkpoint or more")
        if self.batch_size != "auto" and not (self.batch_size.isdecimal() and int(self.batch_size) > 0):
            raise ConfigurationError(
                f"--batch-size: {self.batch_size!r} is neither auto nor a number above 0"
            )

    @property
    def model_args(self) -> dict[str, Any]:
        """`model_arg` by key; see `parse_key_values`."""
        return parse_key_values(self.model_arg, "--model-arg")
