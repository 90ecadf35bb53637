"""The engine that needs only transformers: small models, small data, and the oracle for the other one."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from data.errors import ConfigurationError
from teacher_scoring.engines.batching import plan_batches
from teacher_scoring.engines.checked import (
    ask_until_answered,
    check_prompts,
    check_sequences,
    check_top_k,
    given_fault,
    sample_fault,
    support_fault,
)
from teacher_scoring.engines.checkpoint import check_checkpoint
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

__all__ = ["TransformersEngine", "open_transformers_engine"]


# What the logits of one batch may take; log-softmax and the head's own copies need about three times that.
_MAX_LOGITS_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}

_MAX_TOKENS = {"cpu": 4096, "cuda": 16384}


def open_transformers_engine(options: EngineOptions) -> "TransformersEngine":
    """Load a model with transformers, on a GPU where there is one.

    Raises:
        ConfigurationError: a folder that is no model, or options that only vLLM has.
        ScoringError: a model that does not load, or loads with weights missing.
    """
    check_checkpoint(options)
    for field in ("tensor_parallel_size", "pipeline_parallel_size"):
        if getattr(options, field) > 1:
            raise ConfigurationError(
                f"--{field.replace('_', '-')}: {getattr(options, field)}, but the transformers engine runs "
                "on one device; use --engine vllm"
            )
    if options.quantization is not None:
        raise ConfigurationError(
            f"--quantization: {options.quantization!r} needs --engine vllm; the transformers engine follows "
            "the checkpoint's own quantisation"
        )
    return TransformersEngine(load_model(options), options)


class TransformersEngine:
    """See `teacher_scoring.engines.contract.Engine`."""

    name = "transformers"
    version = transformers.__version__

    def __init__(self, model: PreTrainedModel, options: EngineOptions) -> None:
        """Take over a loaded causal language model; `open_transformers_engine` loads one."""
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self._label = options.model
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        self._head = ResponseHead(model)
        with torch.inference_mode():
            one_token = torch.zeros((1, 1), dtype=torch.int64, device=self._device)
            self.vocab_size = model(input_ids=one_token, use_cache=False).logits.shape[-1]
        num_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limits = [options.max_length, num_positions]
        self._max_length = min((limit for limit in limits if limit is not None), default=None)
        self._max_tokens = options.max_num_batched_tokens or _MAX_TOKENS[self._device.type]
        self._max_scored = max(1, _MAX_LOGITS_BYTES[self._device.type] // (4 * self.vocab_size))

    def score_support(self, sequences: Sequence[TokenSequence], top_k: int) -> list[SupportScores]:
        """See `Engine.score_support`."""
        check_top_k(top_k, self.vocab_size)
        check_sequences(sequences, self.vocab_size, self._max_length, self._label)

        def score(logits: torch.Tensor, token_ids: torch.Tensor, _: list[int]) -> tuple[torch.Tensor, ...]:
            return support_logprobs(logits, token_ids, top_k)

        return ask_until_answered(
            self.name,
            len(sequences),
            lambda numbers: [SupportScores(*parts) for parts in self._score(sequences, numbers, score)],
            lambda number, answer: support_fault(answer, sequences[number], top_k, self.vocab_size),
        )

    def score_given(self, sequences: Sequence[TokenSequence], ids: Sequence[np.ndarray]) -> list[GivenScores]:
        """See `Engine.score_given`."""
        check_sequences(sequences, self.vocab_size, self._max_length, self._label)

        def score(
            logits: torch.Tensor, token_ids: torch.Tensor, batch: list[int]
        ) -> tuple[torch.Tensor, ...]:
            width = max(ids[number].shape[1] for number in batch)
            padded = [
                np.pad(ids[n], ((0, 0), (0, width - ids[n].shape[1])), constant_values=-1) for n in batch
            ]
            return given_logprobs(logits, token_ids, self._tensor(np.concatenate(padded)))

        def ask(numbers: Sequence[int]) -> list[GivenScores]:
            scored = zip(numbers, self._score(sequences, numbers, score), strict=True)
            return [GivenScores(parts[0][:, : ids[n].shape[1]], parts[1]) for n, parts in scored]

        return ask_until_answered(
            self.name,
            len(sequences),
            ask,
            lambda number, answer: given_fault(answer, sequences[number], ids[number], self.vocab_size),
        )

    def sample(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> list[SampledResponse]:
        """See `Engine.sample`."""
        check_prompts(prompts, sampling, self.vocab_size, self._max_length, self._label)

        def ask(numbers: Sequence[int]) -> list[SampledResponse]:
            answers: dict[int, SampledResponse] = {}
            lengths = [len(prompts[number]) + sampling.max_new_tokens for number in numbers]
            # Each step takes one token of each row: rows, not tokens, keep the machine busy.
            for batch in plan_batches(
                lengths, [1] * len(numbers), max_tokens=8 * self._max_tokens, max_scored=self._max_scored
            ):
                chosen = [numbers[position] for position in batch]
                drawn = draw_responses(
                    self._model, [prompts[n] for n in chosen], [seeds[n] for n in chosen], sampling
                )
                answers.update(zip(chosen, drawn, strict=True))
            return [answers[number] for number in numbers]

        return ask_until_answered(
            self.name,
            len(prompts),
            ask,
            lambda _, answer: sample_fault(answer, sampling, self.vocab_size),
        )

    def close(self) -> None:
        """See `Engine.close`."""
        self._head.release()
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _score(
        self,
        sequences: Sequence[TokenSequence],
        numbers: Sequence[int],
        score: Callable[[torch.Tensor, torch.Tensor, list[int]], tuple[torch.Tensor, ...]],
    ) -> list[list[np.ndarray]]:
        """Run `score(logits, tokens, batch)` over batches and hand each sequence its own rows."""
        scored: dict[int, list[np.ndarray]] = {}
        chosen = [sequences[number] for number in numbers]
        lengths = [len(sequence.prompt_ids) + len(sequence.response_ids) - 1 for sequence in chosen]
        num_scored = [len(sequence.scored_ids) for sequence in chosen]
        for positions in plan_batches(
            lengths, num_scored, max_tokens=self._max_tokens, max_scored=self._max_scored
        ):
            batch = [chosen[position] for position in positions]
            token_ids = self._tensor(np.concatenate([sequence.scored_ids for sequence in batch]))
            with torch.inference_mode():
                parts = score(self._logits(batch), token_ids, [numbers[position] for position in positions])
            ends = np.cumsum([num_scored[position] for position in positions])[:-1]
            by_sequence = zip(*(np.split(part.cpu().numpy(), ends) for part in parts), strict=True)
            scored.update(zip(positions, map(list, by_sequence), strict=True))
        return [scored[position] for position in range(len(chosen))]

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
