"""What the evaluation asks of a language model; the caller says where models come from.

The evaluation imports no engine. The command line hands it a `ModelOpener`, which is stage one's
`teacher_scoring.language_model.open_language_model` with the engine's options filled in. A model is found and
identified when it is opened, but its weights are loaded only when it is first asked something: a run whose
answers are all in the cache loads nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np

from data.errors import ConfigurationError


class Sampled(Protocol):
    """One drawn response."""

    @property
    def response_ids(self) -> np.ndarray:
        """Token ids, int32, shape (T,); they end with a stop token exactly when `finish_reason` is `stop`."""
        ...

    @property
    def finish_reason(self) -> str:
        """`stop`, or `length` when the response was cut at the limit."""
        ...


class Scored(Protocol):
    """Log-probabilities of given ids and of the response's own tokens."""

    @property
    def logprobs(self) -> np.ndarray:
        """Nats, float32, shape (T, K)."""
        ...

    @property
    def token_logprobs(self) -> np.ndarray:
        """Nats, float32, shape (T,)."""
        ...


class LanguageModel(Protocol):
    """A model that samples and scores.

    Attributes:
        name: as the user named it.
        identity: what identifies its weights, such as their hash.
        arithmetic: what else determines its numbers: engine, version, dtype, quantisation.
        tokenizer: of `transformers`.
        max_length: longest prompt plus response, tokens.
    """

    name: str
    identity: Mapping[str, Any]
    arithmetic: Mapping[str, Any]
    tokenizer: Any
    max_length: int

    def sample(
        self,
        prompts: Sequence[np.ndarray],
        seeds: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        stop_token_ids: Sequence[int],
    ) -> Sequence[Sampled | str]:
        """Draw one response to each prompt; a text in a response's place says why it was lost."""
        ...

    def score(
        self, prompts: Sequence[np.ndarray], responses: Sequence[np.ndarray], ids: Sequence[np.ndarray]
    ) -> Sequence[Scored | str]:
        """Log-probabilities at every response position, of `ids` (T, K) and of the response itself."""
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


class ModelOpener(Protocol):
    """Finds a model by its name."""

    def __call__(self, name: str, *, option: str) -> LanguageModel:
        """Find and identify a model; its weights are loaded when they are needed.

        Args:
            name: a checkpoint folder or a hub name.
            option: the option that named it, for messages.
        Raises:
            ConfigurationError: for a folder or name that is not a language model.
        """
        ...


def model_labels(names: Sequence[str]) -> dict[str, str]:
    """Short names to show models by: the last part of each path, and more of it where that is not unique.

    Raises:
        ConfigurationError: for a model that is named twice.
    """
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"model {repeated[0]!r} is named twice; name every model once")
    parts = {name: PurePath(name).parts or (name,) for name in names}
    for length in range(1, max(map(len, parts.values()), default=0) + 1):
        labels = {name: "/".join(found[-length:]) for name, found in parts.items()}
        if len(set(labels.values())) == len(labels):
            return labels
    return {name: name for name in names}
