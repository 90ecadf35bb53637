"""The interface of an engine's backend: score responses, score given ids, sample."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from data.errors import ConfigurationError
from data.options.key_values import parse_key_values
from data.options.model_flags import DTYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Which model an engine opens, and how.

    Attributes:
        model: a checkpoint folder.
        adapter: a LoRA adapter folder put on top of the model; None for the model alone.
        dtype: of weights and activations; `auto` takes the checkpoint's own. Log-softmax is always float32.
        trust_remote_code: whether code that comes with the checkpoint may run.
        max_length: longest prompt plus response, tokens; None takes the model's own limit.
        max_num_batched_tokens: tokens that go through the model at once; None lets the engine choose.
        tensor_parallel_size: GPUs that share each layer (vLLM).
        pipeline_parallel_size: GPUs that share the stack of layers (vLLM).
        gpu_memory_utilization: share of each GPU's memory that the engine may take (vLLM on a GPU).
        quantization: vLLM's name of a quantisation method; None follows the checkpoint.
        engine_args: further `KEY=VALUE` pairs for the engine's constructor, see `parse_engine_args`.
    """

    model: str
    adapter: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    max_length: int | None = None
    max_num_batched_tokens: int | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    gpu_memory_utilization: float = 0.85
    quantization: str | None = None
    engine_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigurationError(f"dtype: {self.dtype!r} is not one of {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One prompt and the response to score.

    Attributes:
        prompt_ids: int32, shape (P,), P >= 1.
        response_ids: int32, shape (N,), N >= 1, its terminator included.
        mask: which response positions to score, bool, shape (N,), T >= 1 of them; None for all.
    """

    prompt_ids: np.ndarray
    response_ids: np.ndarray
    mask: np.ndarray | None = None

    @property
    def scored_places(self) -> np.ndarray:
        """The response positions to score, in order, shape (T,)."""
        return np.arange(len(self.response_ids)) if self.mask is None else np.flatnonzero(self.mask)

    @property
    def scored_ids(self) -> np.ndarray:
        """The tokens at these positions, int32, shape (T,)."""
        return self.response_ids if self.mask is None else self.response_ids[self.mask]


@dataclass(frozen=True, slots=True)
class SupportScores:
    """A model's most probable tokens at each response position that is scored.

    Attributes:
        topk_ids: int32, shape (T, K), in falling probability; equal ones with the lower id first.
        logprobs: float32, shape (T, K), nats, normalised over the model's whole vocabulary at temperature 1.
        token_logprobs: float32, shape (T,), of the response token itself, wherever it ranks.
    """

    topk_ids: np.ndarray
    logprobs: np.ndarray
    token_logprobs: np.ndarray


@dataclass(frozen=True, slots=True)
class GivenScores:
    """A model's log-probabilities of ids that another model chose.

    Attributes:
        logprobs: float32, shape (T, K), nats; -inf for ids that this model does not have.
        token_logprobs: float32, shape (T,), of the response token itself.
    """

    logprobs: np.ndarray
    token_logprobs: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        max_new_tokens: longest response, tokens, terminator included.
        temperature: divides the logits; 0 takes the most probable token (greedy).
        top_p: smallest mass of most probable tokens to draw from, in (0, 1]; 1 draws from all.
        stop_token_ids: ids that end a response; the one that ended it is kept as its last token.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SampledResponse:
    """One drawn response.

    Attributes:
        response_ids: int32, shape (T,); ends with a stop token exactly when `finish_reason` is `stop`.
        token_logprobs: float32, shape (T,), nats; at temperature 1 over the whole vocabulary, however drawn.
        finish_reason: `stop`, or `length` when it was cut at the limit.
    """

    response_ids: np.ndarray
    token_logprobs: np.ndarray
    finish_reason: str


class Backend(Protocol):
    """One model in memory, as a library serves it.

    Answers come in the order of the questions. They do not depend on what else is asked in the same call, beyond float
    rounding. A string in the place of an answer says why it got lost. What is asked has been checked, and what is
    answered will be: `CheckedEngine` does both for every backend, and asks again for what is missing or wrong.

    A further engine is one file: a class with these members, a function that opens it, and its name in `ENGINES` and
    in `teacher_scoring.engines.open`.

    Attributes:
        name: of the engine, such as `transformers`.
        version: of that library.
        vocab_size: width of the model's logits; may be above the tokenizer's (padded embeddings).
        max_length: longest prompt plus response that it can hold, tokens; None for any.
        dtype: of the weights as loaded, such as `bfloat16`.
        device: where they are, `cpu` or `cuda`.
        heard: called while a question is worked on, with how much more is done: response positions that were scored,
            or responses that were drawn, unfinished ones as the part of their longest length; set from outside.
    """

    name: str
    version: str
    vocab_size: int
    max_length: int | None
    dtype: str
    device: str
    heard: Callable[[float], None]

    def score_support(self, sequences: Sequence[TokenSequence], top_k: int) -> Iterable[SupportScores | str]:
        """Score the `top_k` most probable tokens at every response position.

        Raises:
            ScoringError: a library that fails altogether.
        """
        ...

    def score_given(
        self, sequences: Sequence[TokenSequence], ids: Sequence[np.ndarray]
    ) -> Iterable[GivenScores | str]:
        """Score given ids at every response position.

        Args:
            sequences: what to score.
            ids: for each sequence int32 of shape (T, K), no id twice at a position; K may differ between
                sequences. Positions with fewer ids are filled up with -1, which scores -inf.
        Raises:
            ScoringError: a library that fails altogether.
        """
        ...

    def sample(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> Iterable[SampledResponse | str]:
        """Draw one response to each prompt.

        Args:
            prompts: int32 of shape (P,) each; the same one may come several times, with other seeds.
            seeds: one for each prompt, 0 <= seed < 2**63; the same prompt and seed draw the same response.
            sampling: what all of them share.
        Raises:
            ScoringError: a library that fails altogether.
        """
        ...

    def close(self) -> None:
        """Give the model's memory back; the backend cannot be used afterwards."""
        ...


def parse_engine_args(pairs: Sequence[str]) -> dict[str, Any]:
    """Arguments for an engine's constructor; see `parse_key_values`. Dashes in their names become underscores."""
    return {key.replace("-", "_"): value for key, value in parse_key_values(pairs, "engine_arg").items()}
