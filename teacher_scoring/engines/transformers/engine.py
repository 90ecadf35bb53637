"""The backend that needs only transformers: small models, small data, and the oracle for the other one."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from data.errors import ConfigurationError
from teacher_scoring.engines.batching import plan_batches
from teacher_scoring.engines.contract import (
    EngineOptions,
    GivenScores,
    SampledResponse,
    Sampling,
    SupportScores,
    TokenSequence,
)
from teacher_scoring.engines.logprobs import given_logprobs, support_logprobs
from teacher_scoring.engines.transformers.loading import load_model
from teacher_scoring.engines.transformers.response_head import ResponseHead
from teacher_scoring.engines.transformers.sampling import draw_responses

__all__ = ["TransformersBackend", "open_transformers"]


# What the logits of one batch may take; log-softmax and the head's own copies need about three times that.
_MAX_LOGITS_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}

_MAX_TOKENS = {"cpu": 4096, "cuda": 16384}


def open_transformers(options: EngineOptions) -> "TransformersBackend":
    """Load a model with transformers, on a GPU where there is one.

    Raises:
        ConfigurationError: a folder that is no model, or options that only vLLM has.
        ScoringError: a model that does not load, or loads with weights missing.
    """
    for field in ("tensor_parallel_size", "pipeline_parallel_size"):
        if getattr(options, field) > 1:
            raise ConfigurationError(
                f"{field}: {getattr(options, field)}, but the transformers engine runs on one device; "
                "use the engine vllm"
            )
    if options.quantization is not None:
        raise ConfigurationError(
            f"quantization: {options.quantization!r} needs the engine vllm; the transformers engine follows the "
            "checkpoint's own quantisation"
        )
    return TransformersBackend(load_model(options), options)


class TransformersBackend:
    """See `teacher_scoring.engines.contract.Backend`."""

    name = "transformers"
    version = transformers.__version__

    def __init__(self, model: PreTrainedModel, options: EngineOptions) -> None:
        """Take over a loaded causal language model; `open_transformers` loads one."""
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self.device = self._device.type
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        self._head = ResponseHead(model)
        with torch.inference_mode():
            one_token = torch.zeros((1, 1), dtype=torch.int64, device=self._device)
            self.vocab_size = model(input_ids=one_token, use_cache=False).logits.shape[-1]
        num_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limits = [options.max_length, num_positions]
        self.max_length = min((limit for limit in limits if limit is not None), default=None)
        self.heard: Callable[[float], None] = lambda _: None
        self._max_tokens = options.max_num_batched_tokens or _MAX_TOKENS[self._device.type]
        self._max_scored = max(1, _MAX_LOGITS_BYTES[self._device.type] // (4 * self.vocab_size))

    def score_support(self, sequences: Sequence[TokenSequence], top_k: int) -> list[SupportScores]:
        """See `Backend.score_support`."""

        def score(logits: torch.Tensor, token_ids: torch.Tensor, _: list[int]) -> tuple[torch.Tensor, ...]:
            return support_logprobs(logits, token_ids, top_k)

        return [SupportScores(*parts) for parts in self._score(sequences, score)]

    def score_given(self, sequences: Sequence[TokenSequence], ids: Sequence[np.ndarray]) -> list[GivenScores]:
        """See `Backend.score_given`."""

        def score(
            logits: torch.Tensor, token_ids: torch.Tensor, batch: list[int]
        ) -> tuple[torch.Tensor, ...]:
            width = max(ids[number].shape[1] for number in batch)
            padded = [
                np.pad(ids[n], ((0, 0), (0, width - ids[n].shape[1])), constant_values=-1) for n in batch
            ]
            return given_logprobs(logits, token_ids, self._tensor(np.concatenate(padded)))

        scored = zip(ids, self._score(sequences, score), strict=True)
        return [GivenScores(logprobs[:, : given.shape[1]], tokens) for given, (logprobs, tokens) in scored]

    def sample(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> list[SampledResponse]:
        """See `Backend.sample`."""
        drawn: dict[int, SampledResponse] = {}
        lengths = [len(prompt) + sampling.max_new_tokens for prompt in prompts]
        # Each step takes one token of each row: rows, not tokens, keep the machine busy.
        for batch in plan_batches(
            lengths, [1] * len(prompts), max_tokens=8 * self._max_tokens, max_scored=self._max_scored
        ):
            responses = draw_responses(
                self._model, [prompts[n] for n in batch], [seeds[n] for n in batch], sampling, self.heard
            )
            drawn.update(zip(batch, responses, strict=True))
        return [drawn[number] for number in range(len(prompts))]

    def close(self) -> None:
        """See `Backend.close`."""
        self._head.release()
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _score(
        self,
        sequences: Sequence[TokenSequence],
        score: Callable[[torch.Tensor, torch.Tensor, list[int]], tuple[torch.Tensor, ...]],
    ) -> list[list[np.ndarray]]:
        """Run `score(logits, tokens, numbers of the sequences)` over batches; each sequence gets its own rows."""
        scored: dict[int, list[np.ndarray]] = {}
        lengths = [len(sequence.prompt_ids) + len(sequence.response_ids) - 1 for sequence in sequences]
        num_scored = [len(sequence.scored_ids) for sequence in sequences]
        for numbers in plan_batches(
            lengths, num_scored, max_tokens=self._max_tokens, max_scored=self._max_scored
        ):
            batch = [sequences[number] for number in numbers]
            token_ids = self._tensor(np.concatenate([sequence.scored_ids for sequence in batch]))
            with torch.inference_mode():
                parts = score(self._logits(batch), token_ids, numbers)
            ends = np.cumsum([num_scored[number] for number in numbers])[:-1]
            by_sequence = zip(*(np.split(part.cpu().numpy(), ends) for part in parts), strict=True)
            scored.update(zip(numbers, map(list, by_sequence), strict=True))
            self.heard(len(token_ids))
        return [scored[number] for number in range(len(sequences))]

    def _logits(self, batch: Sequence[TokenSequence]) -> torch.Tensor:
        """Logits of all positions to score of a batch, concatenated, shape (sum of T, V)."""
        # The last token predicts nothing that is asked for, so it does not go in.
        inputs = [np.concatenate([s.prompt_ids, s.response_ids[:-1]]) for s in batch]
        width = max(map(len, inputs))
        input_ids = np.zeros((len(batch), width), dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        rows = []
        for row, (sequence, ids) in enumerate(zip(batch, inputs, strict=True)):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
            rows.append(row * width + len(sequence.prompt_ids) - 1 + sequence.scored_places)
        with self._head.only(self._tensor(np.concatenate(rows))) as select:
            output = self._model(
                input_ids=self._tensor(input_ids),
                attention_mask=self._tensor(attention_mask),
                use_cache=False,
            )
        return select(output.logits)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(self._device)
