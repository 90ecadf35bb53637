"""A student without its weights, built from config.json alone, to count parameters and what its layers keep."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from data.errors import ConfigurationError

#: Enough for any id that a probe has; what the layers keep does not depend on the vocabulary.
_PROBE_VOCABULARY = 256


def read_configuration(folder: Path, *, trust_remote_code: bool) -> Any:
    """A checkpoint's configuration.

    Raises:
        ConfigurationError: for a folder without a usable one.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(folder, error) from error


def lay_out(configuration: Any, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The whole model with float32 parameters that take no memory (torch's meta device).

    Raises:
        ConfigurationError: for a configuration that no causal language model is made of.
    """
    with torch.device("meta"):
        return _make(configuration, trust_remote_code)


def with_layers(
    configuration: Any, num_layers: int, *, trust_remote_code: bool = False, drawn: bool = False
) -> PreTrainedModel:
    """The same model with its first layers alone and a few tokens, in memory.

    Args:
        configuration: of the whole model.
        num_layers: how many of its layers.
        trust_remote_code: run code that comes with it.
        drawn: whether the weights are random numbers; else they are zeros, which is faster.

    Raises:
        ConfigurationError: for a configuration that no causal language model is made of.
    """
    shallow = copy.deepcopy(configuration)
    text = shallow.get_text_config()
    if getattr(text, "layer_types", None):
        # A model with fewer layers is asked for more, too.
        text.layer_types = (text.layer_types * num_layers)[:num_layers]
    text.num_hidden_layers = num_layers
    text.vocab_size = _PROBE_VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, 0)
    if drawn:
        return _make(shallow, trust_remote_code)
    with no_init_weights():
        model = _make(shallow, trust_remote_code)
    # Uninitialised memory may hold NaN.
    for weight in model.parameters():
        weight.data.zero_()
    return model


def _make(configuration: Any, trust_remote_code: bool) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_config(
            configuration, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(getattr(configuration, "name_or_path", ""), error) from error


def _unusable(folder: Path | str, error: Exception) -> ConfigurationError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ConfigurationError(f"--student: {folder}: no causal language model can be made of it: {reason}")
