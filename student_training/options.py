"""The options of train-student."""

import dataclasses

from data.errors import ConfigurationError
from data.options.fields import check_options, option
from data.preferences.options import (
    bad_rows_option,
    data_config_option,
    form_option,
    map_option,
    pairs_option,
    split_option,
)

__all__ = ["SETTING_NAMES", "TrainOptions"]


#: The options that are a method's own settings; each method says which of them it reads.
SETTING_NAMES = (
    "alpha",
    "beta",
    "gamma",
    "boost",
    "clip",
    "clip_range",
    "advantage_scale",
    "initial_kl",
    "reward_baseline",
    "length_normalize",
    "nll_weight",
    "on",
    "kl_tail",
    "advantage_tail",
    "formula",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Train a student from signal datasets, or from preference data where no teacher is needed."""

    method: str = option(
        help="sft, dpo, simpo, vanilla-kd, dckd, adpa, abd, dpkd, dppo-token, dppo-sequence, "
        "or module:ATTRIBUTE for a method of your own"
    )
    student: str = option(help="checkpoint to start from: a local folder or a hub name")
    out: str = option(help="folder for the trained checkpoint, run.toml and metrics.jsonl")
    signals: tuple[str, ...] = option(
        (),
        help="signal dataset: a folder, a name in the store, or an address such as s3://bucket/name; repeat for more",
    )
    signal_weight: tuple[float, ...] = option(
        (),
        help="passes over a --signals dataset per epoch, repeated in their order; 0.5 draws half of its pairs "
        "anew in each epoch [1 for each]",
    )
    rollouts: tuple[str, ...] = option(
        (),
        help="rollouts (made by sample-student) that each --signals dataset was scored on, in their order; dppo "
        "reads the sampling student's log-probabilities from them",
    )
    data: str | None = option(
        None,
        help="preference data instead of signals, for methods without a teacher: file, folder or hub name",
    )
    split: str = split_option()
    data_config: str | None = data_config_option()
    form: str | None = form_option()
    map: tuple[str, ...] = map_option()
    pairs: str = pairs_option()
    bad_rows: str = bad_rows_option()
    max_length: int = option(
        2048, help="longest prompt plus response from --data, tokens; longer rows are dropped", minimum=2
    )
    truncate: bool = option(False, help="cut prompts of --data from the left instead of dropping long rows")
    revision: str | None = option(None, help="branch, tag or commit of a student from the hub")
    trust_remote_code: bool = option(False, help="run code that comes with the student's checkpoint")

    preset: str | None = option(
        None,
        help="settings of vanilla-kd, dckd or adpa as in the paper's formulas or as in its published code "
        "(docs/methods.md has both written down); single options win over it",
        choices=("paper", "published-code"),
    )
    alpha: float | None = option(None, help="weight of the KL terms [vanilla-kd, dckd: 5, abd: 1]", minimum=0)
    beta: float | None = option(
        None,
        help="scale of the implicit reward, 1 / nats [dpo, dpkd: 0.1; simpo, on mean log-probabilities: 2]",
        minimum=0,
    )
    gamma: float | None = option(
        None, help="weight of the expected advantage, or simpo's target margin [adpa: 3, simpo: 1]", minimum=0
    )
    boost: float | None = option(
        None, help="λ of abd: how far the teacher is tilted along its advantage [1]", minimum=0
    )
    clip: str | None = option(
        None,
        help="clip of advantages, nats: low:high, c for -c:c, or none [adpa: 0:1, abd: 1, dppo: none]",
    )
    clip_range: float | None = option(
        None, help="how far dppo's probability ratio may leave 1 and still be rewarded [0.2]", minimum=0
    )
    advantage_scale: float | None = option(
        None, help="factor on advantages before the clip: β of the teacher's DPO [adpa, dppo: 1]", minimum=0
    )
    initial_kl: float | None = option(
        None,
        help="weight of a KL penalty to the student before training, on the student's own responses "
        "[adpa, dppo: 0]",
        minimum=0,
    )
    reward_baseline: str | None = option(
        None,
        help="what dppo's rewards are measured from: nothing, or their mean over all sampled positions [none]",
        choices=("none", "mean"),
    )
    length_normalize: bool | None = option(
        None, help="divide dpkd's log-ratios by their response's length [off]"
    )
    nll_weight: float | None = option(
        None, help="weight of NLL(chosen) [vanilla-kd, dckd, adpa: 1, abd: 0]", minimum=0
    )
    on: str | None = option(
        None,
        help="rows that abd learns on: chosen and rejected, or the student's own [pairs]",
        choices=("pairs", "student"),
    )
    kl_tail: str | None = option(
        None, help="teacher mass outside the support in the KL [bucket]", choices=("bucket", "renormalize")
    )
    advantage_tail: str | None = option(
        None, help="advantage of tokens outside the support in adpa [zero]", choices=("zero", "bucket")
    )
    formula: str | None = option(
        None,
        help="KL and expected advantage exactly, or with the published code's clamps and no term on the "
        "terminator [exact]",
        choices=("exact", "published"),
    )
    normalize: str | None = option(
        None,
        help="average over all positions of a step, or sum per response and average over responses [token]",
        choices=("token", "sequence"),
    )

    learning_rate: float = option(1e-5, help="peak learning rate", minimum=0)
    optimizer: str = option(
        "adamw",
        help="adamw; with 8-bit states (bitsandbytes on CUDA), paged to the host's memory or not; or adafactor",
        choices=("adamw", "adamw-8bit", "paged-adamw-8bit", "adafactor"),
    )
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
    max_tokens_per_batch: int | None = option(
        None,
        help="tokens per device and forward pass, padding among them, instead of --batch-size: as many pairs as fit",
        minimum=1,
    )
    packing: bool = option(
        False,
        help="lay the rows of a batch one behind the other in one sequence, without padding; the student is tried "
        "out first and refused where its layers would let one row see another",
    )
    gradient_accumulation: int = option(1, help="forward passes per optimizer step", minimum=1)
    group_by_length: bool = option(
        False, help="batch pairs of similar length: less padding, an order that is a little less random"
    )
    gradient_checkpointing: bool = option(
        False, help="recompute activations in the backward pass to save memory"
    )
    lora_rank: int | None = option(
        None, help="train LoRA adapters of this rank and merge them on saving", minimum=1
    )
    lora_targets: tuple[str, ...] = option(
        (), help="names of the layers that get adapters [every linear layer but the LM head]", commas=True
    )
    quantize: str = option(
        "none",
        help="QLoRA: keep the frozen weights in this precision (bitsandbytes on CUDA, with --lora-rank)",
        choices=("none", "nf4", "int8"),
    )
    dtype: str = option(
        "auto",
        help="arithmetic: float32, bfloat16 (mixed precision), or bfloat16 where the GPU has it",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = option(0, help="seed of shuffling and dropout", minimum=0)
    eval_fraction: float = option(
        0.0,
        help="share of the pairs held out, chosen by a hash of their ids; evaluated at every checkpoint",
        minimum=0,
        maximum=0.5,
    )
    eval_signals: tuple[str, ...] = option(
        (),
        help="signal dataset to evaluate on at every checkpoint, instead of --eval-fraction; repeat for several",
    )
    keep_best: bool = option(
        False, help="save the checkpoint with the lowest held-out loss instead of the last one"
    )
    early_stopping: int | None = option(
        None,
        help="stop after this many evaluations without a lower held-out loss; implies --keep-best",
        minimum=1,
    )
    head_chunk: int | None = option(
        None,
        help="response positions that go through the LM head at once [as many as make 128 MiB of logits]",
        minimum=1,
        determining=False,
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
    dry_run: bool = option(
        False,
        help="print how much memory training would take and what cards that fits, and write nothing",
        determining=False,
    )
    resume: bool = option(True, help="continue from the last checkpoint in --out", determining=False)
    report_to: tuple[str, ...] = option(
        (),
        help="also log to these, separated by commas",
        choices=("tensorboard", "wandb", "trackio"),
        commas=True,
        determining=False,
    )
    loader_workers: int | None = option(
        None,
        help="processes that read and collate batches ahead; 0 reads between steps [1 on a GPU, else 0]",
        minimum=0,
        determining=False,
    )
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
        if self.signal_weight and len(self.signal_weight) != len(self.signals):
            raise ConfigurationError(
                f"--signal-weight: {len(self.signal_weight)} weights for {len(self.signals)} --signals; give one each"
            )
        if self.epochs == 0 and self.max_steps is None:
            raise ConfigurationError(
                "--epochs: 0 passes train nothing; give a number above 0, or --max-steps"
            )
        if any(weight <= 0 for weight in self.signal_weight):
            raise ConfigurationError(
                "--signal-weight: every weight must be above 0; leave a dataset out instead"
            )
        if self.rollouts and len(self.rollouts) != len(self.signals):
            raise ConfigurationError(
                f"--rollouts: {len(self.rollouts)} folders for {len(self.signals)} --signals; give one each, in order"
            )
        if self.eval_signals and (self.eval_fraction or self.data is not None):
            raise ConfigurationError(
                "--eval-signals is for runs on --signals, and stands instead of --eval-fraction: give one of the two"
            )
        if (self.keep_best or self.early_stopping) and not (self.eval_fraction or self.eval_signals):
            raise ConfigurationError(
                "--keep-best and --early-stopping need held-out pairs: give --eval-fraction or --eval-signals"
            )
        if self.packing and self.group_by_length:
            raise ConfigurationError(
                "--group-by-length saves padding, and --packing leaves none: give one of the two"
            )
        if self.lora_rank is None and (self.lora_targets or self.quantize != "none"):
            raise ConfigurationError("--lora-targets and --quantize are about LoRA: give --lora-rank too")
