"""The options of every training run, whatever its method."""

import dataclasses

from data.options.fields import check_options, option
from data.preferences.options import Reading
from data.tokens.options import template_arg_option, thinking_option, train_on_option
from student_training.methods import METHODS
from student_training.methods.settings import PRESETS
from student_training.option_combinations import check_combinations


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions(Reading):
    """What a run trains on what and how, but for its method's own settings; see `TrainOptions`."""

    student: str = option(help="checkpoint to start from: a local folder or a hub name", group="data")
    signals: tuple[str, ...] = option(
        (),
        help="signal dataset: a folder, a name in the store, or an address such as s3://bucket/name; repeat for more",
        group="data",
    )
    data: str | None = option(
        None,
        help="preference data instead of signals, for methods without a teacher: file, folder or hub name",
        group="data",
        instead_of="signals",
    )
    rollouts: tuple[str, ...] = option(
        (),
        help="rollouts (made by sample-student) that each --signals dataset was scored on, in their order: dppo reads "
        "the sampling student's log-probabilities from them; other methods on student rows report how stale they are",
        group="data",
    )
    max_length: int = option(
        2048,
        help="longest prompt plus response from --data, tokens; longer rows are dropped",
        minimum=2,
        group="data",
    )
    signal_weight: tuple[float, ...] = option(
        (),
        help="passes over a --signals dataset per epoch, repeated in their order; 0.5 draws half of its pairs "
        "again in each epoch [1 for each]",
        group="data",
        expert=True,
    )
    template_arg: tuple[str, ...] = template_arg_option()
    thinking: str = thinking_option()
    train_on: str = train_on_option()
    truncate: bool = option(
        False,
        help="cut prompts of --data from the left instead of dropping long rows",
        group="data",
        expert=True,
    )
    revision: str | None = option(
        None, help="branch, tag or commit of a student from the hub", group="data", expert=True
    )
    trust_remote_code: bool = option(
        False, help="run code that comes with the student's checkpoint", group="data", expert=True
    )
    translate: bool = option(
        False,
        help="put signals of another tokenizer on the student's ids first, as `signals translate` does, into the store",
        group="data",
    )
    check_shards: bool = option(
        True,
        help="verify every shard's checksum before training",
        determining=False,
        group="data",
        expert=True,
    )

    method: str = option(
        help=f"{', '.join(METHODS)}, or module:ATTRIBUTE for a method of your own; --help-method NAME lists its "
        "settings",
        group="method",
    )
    preset: str | None = option(
        None,
        help="settings of vanilla-kd, dckd or adpa as in the paper's formulas or as in its published code "
        "(docs/methods.md has both written down); single options win over it",
        choices=tuple(PRESETS),
        group="method",
    )
    set: tuple[str, ...] = option(
        (),
        help="one of the method's own settings as NAME=VALUE; repeat for more. For settings of a method of your own, "
        "which have no option",
        determining=False,  # what it sets is recorded among the method's settings
        group="method",
        expert=True,
    )
    normalize: str | None = option(
        None,
        help="average over all positions of a step, or sum per response and average over responses [token]",
        choices=("token", "sequence"),
        group="method",
        expert=True,
    )

    learning_rate: float = option(
        1e-5, help="peak learning rate", minimum=0, group="optimisation", aliases=("--lr",)
    )
    epochs: float = option(
        1.0, help="passes over the pairs; --max-steps overrides it", minimum=0, group="optimisation"
    )
    max_steps: int | None = option(None, help="optimizer steps", minimum=1, group="optimisation")
    batch_size: int = option(8, help="pairs per device and forward pass", minimum=1, group="optimisation")
    gradient_accumulation: int = option(
        1, help="forward passes per optimizer step", minimum=1, group="optimisation"
    )
    warmup_steps: int = option(
        0, help="optimizer steps of linear warm-up", minimum=0, group="optimisation", expert=True
    )
    seed: int = option(0, help="seed of shuffling and dropout", minimum=0, group="optimisation")
    optimizer: str = option(
        "adamw",
        help="adamw; with 8-bit states (bitsandbytes on CUDA), paged to the host's memory or not; or adafactor",
        choices=("adamw", "adamw-8bit", "paged-adamw-8bit", "adafactor"),
        group="optimisation",
        expert=True,
    )
    lr_scheduler: str = option(
        "cosine",
        help="schedule after warm-up",
        choices=("cosine", "linear", "constant", "constant_with_warmup"),
        group="optimisation",
        expert=True,
    )
    weight_decay: float = option(
        0.0, help="AdamW's decoupled weight decay", minimum=0, group="optimisation", expert=True
    )
    max_grad_norm: float = option(
        1.0, help="gradient clip by global norm; 0 for none", minimum=0, group="optimisation", expert=True
    )
    group_by_length: bool = option(
        False,
        help="batch pairs of similar length: less padding, an order that is a little less random",
        group="optimisation",
        expert=True,
    )

    dtype: str = option(
        "auto",
        help="arithmetic: float32, bfloat16 (mixed precision), or bfloat16 where the GPU has it",
        choices=("auto", "float32", "bfloat16"),
        group="memory",
    )
    lora_rank: int | None = option(
        None, help="train LoRA adapters of this rank and merge them on saving", minimum=1, group="memory"
    )
    gradient_checkpointing: bool = option(
        False, help="recompute activations in the backward pass to save memory", group="memory"
    )
    max_tokens_per_batch: int | None = option(
        None,
        help="tokens per device and forward pass, padding included, instead of --batch-size: as many pairs as fit",
        minimum=1,
        group="memory",
    )
    dry_run: bool = option(
        False,
        help="print the memory and time that training would take and what cards it fits, and write nothing; needs no "
        "weights of the student",
        determining=False,
        group="memory",
    )
    packing: bool = option(
        False,
        help="concatenate the rows of a batch in one sequence, without padding; the student is tried out first and "
        "refused where its layers would let one row see another",
        group="memory",
        expert=True,
    )
    lora_targets: tuple[str, ...] = option(
        (),
        help="names of the layers that get adapters [every linear layer but the LM head]",
        commas=True,
        group="memory",
        expert=True,
    )
    quantize: str = option(
        "none",
        help="QLoRA: keep the frozen weights in this precision (bitsandbytes on CUDA, with --lora-rank)",
        choices=("none", "nf4", "int8"),
        group="memory",
        expert=True,
    )
    head_chunk: int | None = option(
        None,
        help="response positions that go through the LM head at once [as many as make 128 MiB of logits]",
        minimum=1,
        determining=False,
        group="memory",
        expert=True,
    )

    eval_fraction: float = option(
        0.0,
        help="share of the pairs held out, chosen by a hash of their ids; evaluated before training and at every "
        "--save-steps",
        minimum=0,
        maximum=0.5,
        group="evaluation",
    )
    eval_signals: tuple[str, ...] = option(
        (),
        help="signal dataset to evaluate on instead of --eval-fraction; repeat for several",
        group="evaluation",
    )
    keep_best: bool = option(
        False,
        help="save the checkpoint with the lowest held-out loss instead of the last one",
        group="evaluation",
    )
    early_stopping: int | None = option(
        None,
        help="stop after this many evaluations without a lower held-out loss; implies --keep-best",
        minimum=1,
        group="evaluation",
        expert=True,
    )

    out: str = option(
        folder=True, help="folder for the trained checkpoint, run.toml and metrics.jsonl", group="saving"
    )
    save_steps: int = option(
        500,
        help="optimizer steps between resumable checkpoints",
        minimum=1,
        determining=False,
        group="saving",
    )
    save_minutes: float = option(
        10.0,
        help="minutes between resumable checkpoints at most, whatever --save-steps says; 0 for no such limit",
        minimum=0,
        determining=False,
        group="saving",
    )
    keep_adapter: bool = option(
        False,
        help="with --lora-rank: save the LoRA adapter in <out>/adapter, too, beside the merged weights",
        determining=False,
        group="saving",
        expert=True,
    )
    keep_checkpoints: bool = option(
        False,
        help="keep all resumable checkpoints of a finished run; without it only the last stays, from which the run can "
        "be extended",
        determining=False,
        group="saving",
        expert=True,
    )
    resume: bool = option(
        True,
        help="continue from the last checkpoint in --out",
        determining=False,
        group="saving",
        expert=True,
    )
    save_total_limit: int = option(
        2,
        help="resumable checkpoints to keep under <out>/checkpoints",
        minimum=1,
        determining=False,
        group="saving",
        expert=True,
    )
    report_to: tuple[str, ...] = option(
        (),
        help="also log to these, separated by commas",
        choices=("tensorboard", "wandb", "trackio"),
        commas=True,
        determining=False,
        group="saving",
        expert=True,
    )

    logging_steps: int = option(
        10,
        help="optimizer steps between lines of metrics.jsonl",
        minimum=1,
        determining=False,
        group="expert",
    )
    loader_workers: int | None = option(
        None,
        help="processes that read and collate batches ahead; 0 reads between steps [1 on a GPU, else 0]",
        minimum=0,
        determining=False,
        group="expert",
    )
    threads: int | None = option(
        None, help="CPU threads for torch; default: torch's own", minimum=1, determining=False, group="expert"
    )

    def __post_init__(self) -> None:
        check_options(self)
        check_combinations(self)
