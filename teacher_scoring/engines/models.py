"""Finds and identifies a model without loading it; and the engine settings that determine its numbers."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from data.errors import ConfigurationError
from data.model_identity import refuse_adapter, refuse_other_models, resolve_model
from teacher_scoring.engines.open import engine_version, resolve_engine
from teacher_scoring.options import SampleOptions, ScoreOptions

#: Options that name a model and take an adapter of it by another option.
_ADAPTER_OPTIONS = {
    "--teacher": "--teacher-adapter",
    "--reference": "--reference-adapter",
    "--student": "--adapter",
}


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model to open.

    Attributes:
        option: the option that named it, for messages.
        folder: its checkpoint.
        adapter: a LoRA adapter's folder on top of it.
        identity: what identifies weights and adapter in manifests.
        vocab_size: width of its logits by its configuration.
        max_positions: longest sequence that it has positions for, tokens; None where its configuration names none.
        dtype: of its weights by its configuration.
    """

    option: str
    folder: Path
    adapter: Path | None
    identity: dict[str, Any]
    vocab_size: int
    max_positions: int | None
    dtype: str

    def describe(self) -> dict[str, Any]:
        """What a manifest says of the model."""
        return {**self.identity, "vocab_size": self.vocab_size}


def find_model(
    option: str,
    name: str,
    *,
    revision: str | None,
    adapter: str | None,
    trust_remote_code: bool,
    need_weights: bool = True,
) -> ResolvedModel:
    """Find a model and read its configuration.

    Args:
        option: the option that named it.
        name: a local folder or a hub name.
        revision: branch, tag or commit of a hub model.
        adapter: a LoRA adapter's folder or hub name.
        trust_remote_code: whether code that comes with the checkpoint may run.
        need_weights: whether the weights have to be there, too.

    Raises:
        ConfigurationError: for a folder or name that is not a language model.
    """
    folder, identity = resolve_model(name, revision=revision, option=option, need_weights=need_weights)
    refuse_adapter(folder, option, _ADAPTER_OPTIONS.get(option))
    refuse_other_models(folder, option)
    description: dict[str, Any] = identity.as_dict()
    adapter_folder = None
    if adapter is not None:
        adapter_folder, adapter_identity = resolve_model(
            adapter, option=f"{option}-adapter", need_weights=need_weights
        )
        description["adapter"] = adapter_identity.as_dict()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).get_text_config()
        vocab_size = config.vocab_size
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"{option}: {name} is not a language model: {reason}") from error
    positions = getattr(config, "max_position_embeddings", None)
    dtype = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    return ResolvedModel(option, folder, adapter_folder, description, vocab_size, positions, dtype)


def longest_sequence(max_length: int, models: Iterable[ResolvedModel | None]) -> tuple[int, str | None]:
    """The longest sequence that can be run, tokens, and whose positions set that limit.

    Args:
        max_length: what the options allow.
        models: the models that will be asked.
    Returns:
        (the limit, the option of the model that sets it; None where `max_length` does).
    """
    limited_by = None
    for model in models:
        if model is not None and model.max_positions is not None and model.max_positions < max_length:
            max_length, limited_by = model.max_positions, model.option
    return max_length, limited_by


def engine_request(options: ScoreOptions | SampleOptions) -> dict[str, Any]:
    """What of an engine determines a model's numbers: its name and version, arithmetic, quantisation, arguments.

    Raises:
        ConfigurationError: for an engine that is not installed.
    """
    name = resolve_engine(options.engine)
    return {
        "engine": {"name": name, "version": engine_version(name)},
        "dtype": options.dtype,
        "quantization": options.quantization,
        "engine_args": list(options.engine_arg),
    }
