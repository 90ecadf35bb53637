"""A model by name that samples and scores, for the evaluation and the chat."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from teacher_scoring.engines.checked import CheckedEngine, LostAnswersError
from teacher_scoring.engines.contract import (
    EngineOptions,
    GivenScores,
    SampledResponse,
    Sampling,
    TokenSequence,
)
from teacher_scoring.engines.models import find_model, longest_sequence
from teacher_scoring.engines.open import engine_version, open_engine, resolve_engine
from teacher_scoring.engines.tokenizer import load_tokenizer

Result = TypeVar("Result")


def open_language_model(
    name: str, *, option: str, engine: str = "auto", max_length: int = 8192, **settings: Any
) -> "EngineModel":
    """Find a model; its weights are loaded when it is first asked something.

    Args:
        name: a checkpoint folder or a hub name.
        option: the option that named it, for messages.
        engine: `auto`, `vllm` or `transformers`.
        max_length: longest prompt plus response, tokens, where the model has more positions.
        **settings: further fields of `EngineOptions`.
    Raises:
        ConfigurationError: for a folder or name that is not a language model, or an engine that is not installed.
    """
    return EngineModel(name, option, resolve_engine(engine), max_length, settings)


def model_opener(options: Any) -> Callable[..., "EngineModel"]:
    """`open_language_model` with the engine that an evaluation's options describe."""
    return functools.partial(
        open_language_model,
        engine=options.engine,
        max_length=options.max_length,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        tensor_parallel_size=options.tensor_parallel_size,
        gpu_memory_utilization=options.gpu_memory_utilization,
        engine_args=options.engine_arg,
    )


class EngineModel:
    """See `evaluation.language_model.LanguageModel`; the engine is opened at the first question."""

    def __init__(self, name: str, option: str, kind: str, max_length: int, settings: dict[str, Any]) -> None:
        trust_remote_code = settings.get("trust_remote_code", False)
        model = find_model(option, name, revision=None, adapter=None, trust_remote_code=trust_remote_code)
        self.name = name
        self.identity = model.describe()
        self.max_length, _ = longest_sequence(max_length, [model])
        self.tokenizer = load_tokenizer(model.folder, option=option, trust_remote_code=trust_remote_code)
        self._kind = kind
        self._options = EngineOptions(
            model=str(model.folder.absolute()), max_length=self.max_length, **settings
        )
        self.arithmetic = {
            "engine": {"name": kind, "version": engine_version(kind)},
            "dtype": self._options.dtype,
            "quantization": self._options.quantization,
            "engine_args": list(self._options.engine_args),
        }
        self._engine: CheckedEngine | None = None

    def sample(
        self,
        prompts: Sequence[np.ndarray],
        seeds: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        stop_token_ids: Sequence[int],
    ) -> list[SampledResponse | str]:
        """Draw one response to each prompt; a text in a response's place says why it was lost.

        Raises:
            ScoringError: for a model that does not load.
        """
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop_token_ids=tuple(stop_token_ids),
        )
        return _with_losses(lambda: self._opened().sample(prompts, seeds, sampling))

    def score(
        self, prompts: Sequence[np.ndarray], responses: Sequence[np.ndarray], ids: Sequence[np.ndarray]
    ) -> list[GivenScores | str]:
        """Log-probabilities at every response position, of `ids` (T, K) and of the response itself.

        Raises:
            ScoringError: for a model that does not load.
        """
        sequences = [TokenSequence(*both) for both in zip(prompts, responses, strict=True)]
        return _with_losses(lambda: self._opened().score_given(sequences, ids))

    def close(self) -> None:
        """Free the model's memory, if it was loaded."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _opened(self) -> CheckedEngine:
        if self._engine is None:
            self._engine = open_engine(self._kind, self._options)
        return self._engine


def _with_losses(ask: Callable[[], list[Result]]) -> list[Result | str]:
    """The engine's answers, with the reason in place of each that it lost."""
    try:
        return [*ask()]
    except LostAnswersError as error:
        return [
            error.reasons[number] if answer is None else answer for number, answer in enumerate(error.answers)
        ]
