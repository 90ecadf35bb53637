"""The backend that needs only transformers: small models, small data, and the oracle for the other one."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from data.errors import ConfigurationError, ScoringError
from teacher_scoring.engines.checkpoint import LOAD_FAILURES, load_failure, one_line
from teacher_scoring.engines.contract import (
    EngineOptions,
    GivenScores,
    SampledResponse,
    Sampling,
    SupportScores,
    TokenSequence,
    parse_engine_args,
)
from teacher_scoring.engines.logprobs import given_logprobs, support_logprobs
from teacher_scoring.engines.transformers.response_head import ResponseHead
from teacher_scoring.engines.transformers.sampling import batches_are_exact, draw_responses

logger = logging.getLogger(__name__)

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
    return TransformersBackend(_load_model(options), options)


def _load_model(options: EngineOptions) -> PreTrainedModel:
    """Load a causal language model onto its device, its adapter on top.

    Raises:
        ConfigurationError: an engine argument that transformers does not know.
        ScoringError: a model or adapter that does not load, or loads with weights missing.
    """
    arguments = {"dtype": options.dtype, **parse_engine_args(options.engine_args)}
    source = {"trust_remote_code": options.trust_remote_code}
    with _quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(options.model, **source)
            text: Any = config.get_text_config()
            if not 0 <= (getattr(text, "pad_token_id", None) or 0) < text.vocab_size:
                # A padding token without an embedding; no answer depends on what is at padded places.
                text.pad_token_id = None
            if getattr(text, "attn_logit_softcapping", None):
                # The fused kernels silently ignore the soft cap.
                arguments.setdefault("attn_implementation", "eager")
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                options.model, config=config, output_loading_info=True, **source, **arguments
            )
        except LOAD_FAILURES as error:
            raise load_failure(options, "transformers", error) from error
        model, report = loaded
        if report["missing_keys"]:
            names = sorted(report["missing_keys"])
            raise ScoringError(
                f"{options.model}: {len(names)} weights are missing, the first {names[0]}; transformers "
                "would draw them at random. Save the checkpoint again with all of them"
            )
        if options.adapter is not None:
            model = _with_adapter(model, options.adapter, options.model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _with_adapter(model: PreTrainedModel, adapter: str, label: str) -> Any:
    from peft import PeftModel  # noqa: PLC0415  (half a second, and only adapters need it)

    try:
        # The adapter's layers replace the model's own in place; peft's wrapper around it is not needed.
        return PeftModel.from_pretrained(model, adapter).base_model.model
    except LOAD_FAILURES as error:
        raise ScoringError(f"{adapter}: does not fit {label}: {one_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without transformers' progress bars and reports."""
    had_bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


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
        most_rows = self._max_scored if len(prompts) == 1 or self._samples_in_batches else 1
        for batch in plan_batches(
            lengths, [1] * len(prompts), max_tokens=8 * self._max_tokens, max_scored=most_rows
        ):
            responses = draw_responses(
                self._model, [prompts[n] for n in batch], [seeds[n] for n in batch], sampling, self.heard
            )
            drawn.update(zip(batch, responses, strict=True))
        return [drawn[number] for number in range(len(prompts))]

    @functools.cached_property
    def _samples_in_batches(self) -> bool:
        are_exact = batches_are_exact(self._model)
        if not are_exact:
            logger.warning(
                "%s: answers of a batch differ from those to its prompts alone, so prompts are answered one at a time, "
                "which is slow; the engine vllm may serve this model faster",
                type(self._model).__name__,
            )
        return are_exact

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


def plan_batches(
    lengths: Sequence[int], num_scored: Sequence[int], *, max_tokens: int, max_scored: int
) -> Iterator[list[int]]:
    """Group sequences of similar length, so that little is padded and memory stays bounded.

    Args:
        lengths: tokens of each sequence.
        num_scored: positions of each sequence that need logits.
        max_tokens: tokens of one batch, padding included.
        max_scored: positions with logits in one batch.

    Yields:
        Positions in `lengths`, longest first, so that a batch too large for memory fails at once. A sequence
        above a limit goes alone.
    """
    batch: list[int] = []
    width = scored = 0
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        too_long = width * (len(batch) + 1) > max_tokens
        if batch and (too_long or scored + num_scored[number] > max_scored):
            yield batch
            batch, scored = [], 0
        if not batch:
            width = lengths[number]
        batch.append(number)
        scored += num_scored[number]
    if batch:
        yield batch
