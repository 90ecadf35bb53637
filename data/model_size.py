"""A language model's size: the weights that a token meets, and the floating-point operations of a pass through them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Weights of a causal language model by how often a token meets them.

    What is counted are products with matrices. A product with a weight costs 2 operations per token and entry
    forward, as many for the gradient of its input, and as many for that of the weight where it is trained. Causal
    attention costs 2 operations per layer, width and pair of tokens that see each other, for queries with keys and
    again for values, and twice that backward. Every attention layer is taken for one over all that came before, which a
    sliding window is not. What a layer without attention heads does apart from its products with weights, such as a
    state-space model's scan, is left out.

    Attributes:
        parameters: all there are, whatever they do.
        body: matrices of the layers, which every token meets; of experts the share that it meets. Embeddings are
            looked up, which costs no product.
        trained_body: those of them that get a gradient.
        head: entries of the LM head, which response positions alone meet.
        is_head_trained: whether it gets a gradient.
        attention_width: heads times head dimension, summed over the layers; 0 without attention heads.
    """

    parameters: int
    body: float
    trained_body: float
    head: int
    is_head_trained: bool
    attention_width: int

    @classmethod
    def of(cls, model: Any, head: Any) -> "ModelSize":
        """Count a model's weights; they may be without memory, and the model may carry adapters.

        Args:
            model: a transformers causal language model, or a peft model around one.
            head: the weight of its LM head, which may be its embedding's, too.
        """
        config = model.config.get_text_config()
        share = _met_expert_share(config)
        # torch.nn.Embedding and what is derived from it; torch itself is not imported here.
        looked_up = [module.weight for module in model.modules() if hasattr(module, "num_embeddings")]
        uncounted = {id(weight) for weight in (*looked_up, head)}
        body = {
            name: value
            for name, value in model.named_parameters()
            if value.dim() > 1 and id(value) not in uncounted
        }

        def met(names: Iterable[str]) -> float:
            return sum(body[name].numel() * (share if ".experts." in name else 1) for name in names)

        return cls(
            parameters=sum(value.numel() for value in model.parameters()),
            body=met(body),
            trained_body=met(name for name, value in body.items() if value.requires_grad),
            head=head.numel(),
            is_head_trained=head.requires_grad,
            attention_width=_attention_width(config),
        )

    def forward_flops(self, *, tokens: float, attended: float, positions: float = 0) -> float:
        """Operations of a forward pass.

        Args:
            tokens: that go through the model.
            attended: pairs of tokens of which one sees the other.
            positions: response positions, for which the head is computed.
        """
        return 2 * self.body * tokens + 4 * self.attention_width * attended + 2 * self.head * positions

    def training_flops(self, *, tokens: float, attended: float, positions: float) -> float:
        """Operations forward and backward: what the mathematics needs, whatever is recomputed.

        Args:
            tokens: as for `forward_flops`.
            attended: as for `forward_flops`.
            positions: as for `forward_flops`.
        """
        per_token = 4 * self.body + 2 * self.trained_body
        per_position = (6 if self.is_head_trained else 4) * self.head
        return per_token * tokens + 12 * self.attention_width * attended + per_position * positions


def _met_expert_share(config: Any) -> float:
    """Share of a mixture's experts that each token meets; 1 for a dense model."""
    num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    return (getattr(config, "num_experts_per_tok", None) or num_experts) / num_experts


def _attention_width(config: Any) -> int:
    heads = getattr(config, "num_attention_heads", None) or 0
    if not heads:
        return 0
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers * heads * head_dim
