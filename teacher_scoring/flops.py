"""How much arithmetic a model's configuration asks for, without any weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data.errors import ConfigurationError

__all__ = ["ModelSize", "model_size"]


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What scoring with a model costs.

    Attributes:
        parameters: all of them.
        body_parameters: those that every token goes through: no embedding, no head, the chosen experts alone.
        head_parameters: those of the LM head, which only response positions go through.
        attention_width: sum over the layers of heads times head dimension.
    """

    parameters: int
    body_parameters: int
    head_parameters: int
    attention_width: int

    def flops(self, *, tokens: int, positions: int, mean_length: float) -> float:
        """Floating-point operations of one pass.

        Two for each parameter that a token meets; in attention, another four for each unit of width and each token
        before it, of which there are half a sequence on average.

        Args:
            tokens: prompt and response tokens.
            positions: response positions, for which the head is computed.
            mean_length: tokens of a sequence.
        """
        attention = 4 * self.attention_width * mean_length / 2
        return tokens * (2 * self.body_parameters + attention) + positions * 2 * self.head_parameters


def model_size(folder: Path, *, trust_remote_code: bool) -> ModelSize:
    """Measure a configuration: the model is laid out without memory behind its parameters.

    Raises:
        ConfigurationError: for a configuration that no causal language model is made of.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"{folder}: no causal language model can be made of it: {reason}") from error
    text: Any = config.get_text_config()
    embedding = model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    num_experts = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None) or 1
    active = getattr(text, "num_experts_per_tok", None) or num_experts
    idle_experts = experts - experts * active // num_experts
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelSize(
        parameters=total,
        body_parameters=total - embedding - (0 if is_tied else head) - idle_experts,
        head_parameters=head,
        attention_width=text.num_hidden_layers * heads * head_dim,
    )
