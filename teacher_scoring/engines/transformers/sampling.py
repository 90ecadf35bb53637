"""Samples responses with transformers' generation loop and a seed for each response."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from teacher_scoring.engines.contract import SampledResponse, Sampling

#: Greedy tokens that tell whether a batch's answers are those of its prompts alone.
_TRIED_TOKENS = 4

#: What a batch of another shape may change in a log-probability, nats. Far above what is seen (2e-6 over a dozen
#: architectures in float32), since the price of a wrong verdict is speed; RWKV's errors are tenths of nats.
_ROUNDING_FLOAT32, _ROUNDING_16_BITS = 1e-3, 0.3


def draw_responses(
    model: Any,
    prompts: Sequence[np.ndarray],
    seeds: Sequence[int],
    sampling: Sampling,
    heard: Callable[[float], None] = lambda _: None,
) -> list[SampledResponse]:
    """Draw one response to each prompt, all in one batch.

    Args:
        model: a causal language model of transformers, with `generate`.
        prompts: int32 of shape (P,) each.
        seeds: one for each prompt.
        sampling: what all of them share.
        heard: see `Backend.heard`.
    """
    width = max(map(len, prompts))
    input_ids = np.zeros((len(prompts), width), dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = prompt
        attention_mask[row, width - len(prompt) :] = 1
    device = next(model.parameters()).device
    draw = _SeededDraw(seeds, sampling, device, heard)
    # A new configuration: the checkpoint's may have penalties and other stop tokens.
    model.generation_config = transformers.GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        eos_token_id=list(sampling.stop_token_ids) or None,
        pad_token_id=0,
    )
    with torch.inference_mode():
        ids = model.generate(
            input_ids=torch.from_numpy(input_ids).to(device),
            attention_mask=torch.from_numpy(attention_mask).to(device),
            logits_processor=transformers.LogitsProcessorList([draw]),
        )
    response_ids = ids[:, width:].to(torch.int32).cpu().numpy()
    logprobs = torch.stack(draw.logprobs, dim=1).cpu().numpy()
    return [_cut(*row, sampling) for row in zip(response_ids, logprobs, strict=True)]


def batches_are_exact(model: Any) -> bool:
    """Whether a model answers a prompt in a batch, padded on the left, as it answers it alone; by trying it.

    transformers' RWKV does not: it ignores the attention mask, and its generation mixes the states of the rows.

    Args:
        model: as for `draw_responses`.
    """
    alone = np.array([1, 2], np.int32)
    others = [np.array([3, 4, 5, 6, 7], np.int32), np.array([2, 1], np.int32)]
    greedy = Sampling(max_new_tokens=_TRIED_TOKENS, temperature=0)
    one = draw_responses(model, [alone], [0], greedy)[0]
    same = draw_responses(model, [alone, *others], [0, 0, 0], greedy)[0]
    # Up to where they part: two tokens may be equally probable but for rounding.
    parts = np.flatnonzero(one.response_ids != same.response_ids)
    number = parts[0] + 1 if len(parts) else _TRIED_TOKENS
    difference = np.abs(one.token_logprobs - same.token_logprobs)[:number].max()
    is_float32 = next(model.parameters()).dtype == torch.float32
    # A model that gives no numbers has no right answer to differ from; whoever reads its answers says so.
    return not difference > (_ROUNDING_FLOAT32 if is_float32 else _ROUNDING_16_BITS)


def _cut(ids: np.ndarray, logprobs: np.ndarray, sampling: Sampling) -> SampledResponse:
    """A row of the batch up to its own end; the batch goes on until its longest response ends."""
    stops = np.flatnonzero(np.isin(ids, sampling.stop_token_ids))
    if len(stops):
        return SampledResponse(ids[: stops[0] + 1], logprobs[: stops[0] + 1], "stop")
    return SampledResponse(ids, logprobs, "length")


class _SeededDraw(transformers.LogitsProcessor):
    """Draws each row's next token from that row's random numbers and sets all other probabilities to 0.

    `generate` has one generator for a whole batch, which would make a response depend on its neighbours.
    """

    def __init__(
        self, seeds: Sequence[int], sampling: Sampling, device: torch.device, heard: Callable[[float], None]
    ) -> None:
        """Fix every row's random numbers beforehand: one in [0, 1) for each token."""
        numbers = [
            np.random.Generator(np.random.Philox(seed)).random(sampling.max_new_tokens) for seed in seeds
        ]
        self._uniforms = torch.from_numpy(np.stack(numbers)).to(device)
        self._sampling = sampling
        self._heard = heard
        self._stops = torch.tensor(sampling.stop_token_ids, dtype=torch.int64, device=device)
        self._open = torch.ones(len(seeds), dtype=torch.bool, device=device)
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self._choose(scores).unsqueeze(-1)
        self.logprobs.append(torch.log_softmax(scores.float(), dim=-1).gather(-1, chosen).squeeze(-1))
        self._report(chosen.squeeze(-1))
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen, 0.0)

    def _report(self, chosen: torch.Tensor) -> None:
        """Report a step's progress: a token of each open row, and the rest of the budget of a row that stops."""
        stopped = self._open & torch.isin(chosen, self._stops)
        left = self._sampling.max_new_tokens - len(self.logprobs)
        tokens = int(self._open.sum()) + left * int(stopped.sum())
        self._open &= ~stopped
        self._heard(tokens / self._sampling.max_new_tokens)

    def _choose(self, scores: torch.Tensor) -> torch.Tensor:
        """One token id for each row, shape (B,), by inverting the cumulative distribution."""
        if self._sampling.temperature == 0:
            return scores.argmax(dim=-1)
        probabilities = torch.softmax(scores.double() / self._sampling.temperature, dim=-1)
        order = None
        if self._sampling.top_p < 1:
            probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self._sampling.top_p, 0.0)
        cumulative = probabilities.cumsum(dim=-1)
        uniforms = self._uniforms[:, len(self.logprobs)].unsqueeze(-1)
        chosen = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
        # Nothing is found among probabilities that are NaN; such a row has no valid score, and is therefore lost.
        chosen = chosen.clamp(max=scores.shape[-1] - 1)
        return chosen.squeeze(-1) if order is None else order.gather(-1, chosen).squeeze(-1)
