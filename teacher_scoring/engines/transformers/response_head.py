"""An LM head that computes float32 logits at chosen positions only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

_HALF_DTYPES = (torch.bfloat16, torch.float16)


class ResponseHead:
    """Hooks into a model's LM head.

    The vocabulary is the widest thing in a language model: leaving prompts and padding out of the head saves
    most of the memory. Everything after the head (soft caps, scales) works position by position in every
    architecture, so the model's own code still applies it. A bfloat16 head rounds logits to 3 digits, up to
    0.2 nat; it is kept in float32 instead.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Hook into `model`; a model without an LM head module is left as it is."""
        self._rows: torch.Tensor | None = None
        self._hook = None
        head = model.get_output_embeddings()
        if head is None:
            return
        for module in head.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.dtype in _HALF_DTYPES:
                    # A new parameter, because a tied one must stay as it is in the embedding.
                    module.register_parameter(name, torch.nn.Parameter(weight.float(), requires_grad=False))
        dtype = next((p.dtype for p in head.parameters() if p.dtype == torch.float32), None)
        self._hook = head.register_forward_pre_hook(lambda _, inputs: (self._select(inputs[0], dtype),))

    @contextmanager
    def only(self, rows: torch.Tensor) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """Let one forward pass compute logits at some positions only.

        Args:
            rows: positions in the flattened batch, shape (N,), int64.

        Yields:
            A function that takes the model's logits to those of `rows`, shape (N, V).
        """
        self._rows = rows

        def select(logits: torch.Tensor) -> torch.Tensor:
            passed_by = self._rows is not None
            self._rows = None
            return logits.flatten(0, -2)[rows] if passed_by else logits.flatten(0, -2)

        yield select

    def release(self) -> None:
        """Remove the hook."""
        if self._hook is not None:
            self._hook.remove()

    def _select(self, hidden: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        if self._rows is not None:
            hidden = hidden.flatten(0, -2)[self._rows].unsqueeze(0)
            self._rows = None
        return hidden if dtype is None else hidden.to(dtype)
