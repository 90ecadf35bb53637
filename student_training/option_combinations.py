"""Which options of a training run go together; what each allows by itself is said beside its field."""

import dataclasses
from typing import Any

from data.errors import ConfigurationError
from data.options.fields import flag_name
from data.preferences.options import Reading

#: Options that say how rows of `data` are read and become token ids.
_ABOUT_ROWS = {
    *(field.name for field in dataclasses.fields(Reading)),
    "max_length",
    "template_arg",
    "thinking",
    "train_on",
    "truncate",
}


def check_combinations(options: Any) -> None:
    """Check options against each other.

    Args:
        options: a `RunOptions`, whose own check this is a part of.
    Raises:
        ConfigurationError: for options that contradict each other, or that are about nothing.
    """
    _check_inputs(options)
    if options.epochs == 0 and options.max_steps is None:
        raise ConfigurationError("--epochs: 0 passes train nothing; give a number above 0, or --max-steps")
    if options.packing and options.group_by_length:
        raise ConfigurationError(
            "--group-by-length saves padding, and --packing leaves none: give one of the two"
        )
    if options.lora_rank is None and (options.lora_targets or options.quantize != "none"):
        raise ConfigurationError("--lora-targets and --quantize are about LoRA: give --lora-rank too")
    if options.lora_rank is None and options.keep_adapter:
        raise ConfigurationError("--keep-adapter: there is no adapter without --lora-rank")


def _check_inputs(options: Any) -> None:
    """Check what is trained and evaluated on.

    Raises:
        ConfigurationError: for options that contradict each other.
    """
    if options.signals and options.data is not None:
        raise ConfigurationError("--signals and --data exclude each other: signals hold their own token ids")
    if not options.signals and options.data is None:
        raise ConfigurationError(
            "nothing to train on: give --signals, or --data for a method without a teacher"
        )
    for field in dataclasses.fields(options) if options.signals else ():
        if field.name in _ABOUT_ROWS and getattr(options, field.name) != field.default:
            raise ConfigurationError(
                f"{flag_name(field.name)} is about rows of --data; --signals hold token ids, made with the options of "
                "score-teacher: leave it out"
            )
    if options.signal_weight and len(options.signal_weight) != len(options.signals):
        raise ConfigurationError(
            f"--signal-weight: {len(options.signal_weight)} weights for {len(options.signals)} --signals; "
            "give one each"
        )
    if any(weight <= 0 for weight in options.signal_weight):
        raise ConfigurationError("--signal-weight: every weight must be above 0; leave a dataset out instead")
    if options.rollouts and len(options.rollouts) != len(options.signals):
        raise ConfigurationError(
            f"--rollouts: {len(options.rollouts)} folders for {len(options.signals)} --signals; "
            "give one each, in order"
        )
    if options.eval_signals and (options.eval_fraction or options.data is not None):
        raise ConfigurationError(
            "--eval-signals is for runs on --signals, and replaces --eval-fraction: give one of the two"
        )
    if (options.keep_best or options.early_stopping) and not (options.eval_fraction or options.eval_signals):
        raise ConfigurationError(
            "--keep-best and --early-stopping need held-out pairs: give --eval-fraction or --eval-signals"
        )
