"""The language-model head as plain tensors, split off a transformers causal language model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from data.errors import TrainingError

NUM_PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LMHead:
    """What turns last hidden states into logits: soft_cap·tanh(scale·(hW^T + bias) / soft_cap).

    Attributes:
        weight: shape (V, d). The model's own parameter, shared with the input embedding where tied.
        bias: shape (V,), or None.
        soft_cap: bound on the absolute logit (Gemma), or None.
        scale: factor on the logits (Cohere, Falcon-H1; the inverse of Granite's divisor).
    """

    weight: Tensor
    bias: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits at once, shape (..., V): for small inputs and for checks."""
        logits = F.linear(hidden, self.weight, self.bias) * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)


def split_model(model: nn.Module) -> tuple[Callable[..., Tensor], LMHead]:
    """Split a causal language model into the part below its head and the head, and check the two together.

    Args:
        model: a transformers causal language model, or a peft model around one with no adapter on the head.
    Returns:
        A function from the model's keyword inputs (`input_ids`, `attention_mask`, ...) to the last hidden
        states (batch, length, d), and the head, whose tensors are the model's own parameters. Wrappers that
        replace parameters (FSDP) make it stale: call `read_head` inside the wrapped forward then.
    Raises:
        TrainingError: an adapter sits on the head, or the architecture does something else between hidden
            states and logits than `LMHead` says.
    """
    causal_lm = _unwrap_peft(model)
    head = read_head(causal_lm)
    backbone = causal_lm.base_model
    if backbone is causal_lm:
        raise TrainingError(
            f"{type(causal_lm).__name__}: no part below its head was found; "
            "use a transformers causal language model"
        )

    def last_hidden_states(**inputs: Any) -> Tensor:
        return backbone(**inputs, use_cache=False).last_hidden_state

    if not head.weight.is_meta:
        _check_split(causal_lm, last_hidden_states, head)
    return last_hidden_states, head


def read_head(model: nn.Module) -> LMHead:
    """The head as the model holds it now, without the comparison that `split_model` makes.

    Args:
        model: as for `split_model`.
    Returns:
        The head; its tensors are the model's own parameters.
    Raises:
        TrainingError: the head is no plain linear layer, or carries an adapter.
    """
    causal_lm = _unwrap_peft(model)
    architecture = type(causal_lm).__name__
    output = causal_lm.get_output_embeddings()
    if isinstance(output, BaseTunerLayer | AuxiliaryTrainingWrapper):
        raise TrainingError(
            f"{architecture}: its output head carries an adapter ({type(output).__name__}), which the fused "
            "objective would pass by; take the head (lm_head, embed_out) out of the adapter's targets and "
            "saved modules"
        )
    if not isinstance(output, nn.Linear) or not output.weight.is_floating_point():
        raise TrainingError(
            f"{architecture}: its output head is {type(output).__name__}, a torch.nn.Linear in floating "
            "point is needed; use a decoder-only language model and leave its head unquantized"
        )
    config = causal_lm.config.get_text_config()
    return LMHead(
        weight=output.weight,
        bias=output.bias,
        soft_cap=getattr(config, "final_logit_softcapping", None),
        scale=_logit_scale(config),
    )


def _logit_scale(config: Any) -> float:
    """The factor on the logits, by the names that architectures have for it."""
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere; Falcon-H1
        if (scale := getattr(config, name, None)) is not None:
            return scale
    scaling = getattr(config, "logits_scaling", None) or 1.0
    # Granite and others divide by it; HyperCLOVA X multiplies.
    return scaling if config.model_type == "hyperclovax" else 1.0 / scaling


def _unwrap_peft(model: nn.Module) -> Any:
    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        raise TrainingError(
            f"{model.active_peft_config.peft_type}: adapters made of virtual prompt tokens are not "
            "supported; use LoRA"
        )
    return model.get_base_model()


@torch.no_grad()
def _check_split(model: Any, last_hidden_states: Callable[..., Tensor], head: LMHead) -> None:
    input_ids = torch.arange(NUM_PROBE_TOKENS, device=head.weight.device)[None]
    was_training = {module: module.training for module in model.modules()}
    model.eval()  # dropout would make the two runs differ
    try:
        expected = model(input_ids=input_ids, use_cache=False).logits.float()
        seen = head.logits(last_hidden_states(input_ids=input_ids)).float()
    finally:
        for module, training in was_training.items():
            module.training = training
    # The same operations on the same numbers: only the order of rounding can differ, by a few last places.
    allowed = 100 * torch.finfo(head.weight.dtype).eps * float(expected.abs().max())
    difference = float((seen - expected).abs().max()) if seen.shape == expected.shape else math.inf
    if not difference <= allowed:
        raise TrainingError(
            f"{type(model).__name__}: logits rebuilt from its last hidden states and head differ from its "
            f"own by {difference:.3g} (allowed {allowed:.3g}); this architecture is not supported, use "
            "another student"
        )
