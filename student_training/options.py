"""The options of train-student."""

import dataclasses

from data.errors import ConfigurationError
from data.options import check_options, option

__all__ = ["SETTING_NAMES", "TrainOptions"]

SETTING_NAMES = (
    "alpha",
    "beta",
    "gamma",
    "boost",
    "clip",
    "nll_weight",
    "on",
    "kl_tail",
    "advantage_tail",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Train a student from signal datasets, or from preference data where no teacher is needed."""

    method: str = option(help="sft, dpo, dckd, adpa, abd, or module:ATTRIBUTE for a method of your own")
    student: str = option(help="checkpoint to start from: a local folder or a hub name")
    out: str = option(help="folder for the trained checkpoint, run.toml and metrics.jsonl")
    signals: tuple[str, ...] = option((), help="signal dataset folder; repeat to train on several together")
    data: str | None = option(
        None,
        help="preference data instead of signals, for methods without a teacher: file, folder or hub name",
    )
    split: str = option("train", help="split of --data")
    max_length: int = option(
        2048, help="longest prompt plus response from --data, tokens; longer rows are dropped", minimum=2
    )
    truncate: bool = option(False, help="cut prompts of --data from the left instead of dropping long rows")
    revision: str | None = option(None, help="branch, tag or commit of a student from the hub")
    trust_remote_code: bool = option(False, help="run code that comes with the student's checkpoint")

    alpha: float | None = option(None, help="weight of the KL terms [dckd: 5, abd: 1]", minimum=0)
    beta: float | None = option(None, help="inverse temperature of dpo's implicit reward [0.1]", minimum=0)
    gamma: float | None = option(None, help="weight of the expected advantage [adpa: 3]", minimum=0)
    boost: float | None = option(
        None, help="λ of abd: how far the teacher is tilted along its advantage [1]", minimum=0
    )
    clip: str | None = option(
        None, help="clip of advantages, nats: low:high, c for -c:c, or none [adpa: 0:1, abd: 1]"
    )
    nll_weight: float | None = option(None, help="weight of NLL(chosen) [dckd, adpa: 1, abd: 0]", minimum=0)
    on: str | None = option(
        None,
        help="rows that abd learns on: chosen and rejected, or the student's own [pairs]",
        choices=("pairs", "student"),
    )
    kl_tail: str | None = option(
        None, help="teacher mass outside the support in dckd's KL [bucket]", choices=("bucket", "renormalize")
    )
    advantage_tail: str | None = option(
        None, help="advantage of tokens outside the support in adpa [zero]", choices=("zero", "bucket")
    )
    normalize: str = option(
        "token",
        help="average over all positions of a step, or sum per response and average over responses",
        choices=("token", "sequence"),
    )

    learning_rate: float = option(1e-5, help="peak learning rate of AdamW", minimum=0)
    lr_scheduler: str = option(
        "cosine",
        help="schedule after warm-up",
        choices=("cosine", "linear", "constant", "constant_with_warmup"),
    )
    warmup_steps: int = option(0, help="optimizer steps of linear warm-up", minimum=0)
    weight_decay: float = option(0.0, help="AdamW's decoupled weight decay", minimum=0)
    max_grad_norm: float = option(1.0, help="gradient clip by global norm; 0 for none", minimum=0)
    epochs: float = option(1.0, help="passes over the pairs; --max-steps overrides it", minimum=0)
    max_steps: int | None = option(None, help="optimizer steps", minimum=1)
    batch_size: int = option(8, help="pairs per device and forward pass", minimum=1)
    gradient_accumulation: int = option(1, help="forward passes per optimizer step", minimum=1)
    gradient_checkpointing: bool = option(
        False, help="recompute activations in the backward pass to save memory"
    )
    lora_rank: int | None = option(
        None, help="train LoRA adapters of this rank and merge them on saving", minimum=1
    )
    dtype: str = option(
        "auto",
        help="arithmetic: float32, bfloat16 (mixed precision), or bfloat16 where the GPU has it",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = option(0, help="seed of shuffling and dropout", minimum=0)
    head_chunk: int = option(
        1024, help="response positions that go through the LM head at once", minimum=1, determining=False
    )
    check_shards: bool = option(True, help="verify every shard's checksum before training", determining=False)
    save_steps: int = option(
        500, help="optimizer steps between resumable checkpoints", minimum=1, determining=False
    )
    save_total_limit: int = option(
        2, help="resumable checkpoints to keep under <out>/checkpoints", minimum=1, determining=False
    )
    logging_steps: int = option(
        10, help="optimizer steps between lines of metrics.jsonl", minimum=1, determining=False
    )
    resume: bool = option(True, help="continue from the last checkpoint in --out", determining=False)
    threads: int | None = option(
        None, help="CPU threads for torch; default: torch's own", minimum=1, determining=False
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.signals and self.data is not None:
            raise ConfigurationError(
                "--signals and --data exclude each other: signals hold their own token ids"
            )
        if not self.signals and self.data is None:
            raise ConfigurationError(
                "nothing to train on: give --signals, or --data for a method without a teacher"
            )
