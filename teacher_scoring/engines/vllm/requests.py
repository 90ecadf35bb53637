"""Score requests to vLLM and the reading of their answers, for each of its two model runners."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from teacher_scoring.engines.contract import GivenScores, SupportScores, TokenSequence
from teacher_scoring.engines.vllm.worker_extension import QUESTION

# One prompt token id list and the keyword arguments of its SamplingParams.
Request = tuple[list[int], dict[str, Any]]

_SCORE_ONLY = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}

_NO_SCORES = "the engine returned no scores (a preempted request can lose them)"


class ScoreRequests(Protocol):
    """Builds score requests and reads their outputs; strings say what an output lacks."""

    def support_request(self, number: int, sequence: TokenSequence, top_k: int) -> Request:
        """Ask for the `top_k` most probable tokens at every response position."""
        ...

    def given_request(self, number: int, sequence: TokenSequence, ids: np.ndarray) -> Request:
        """Ask for the ids of shape (T, K) at every response position."""
        ...

    def read_support(
        self, outputs: Sequence[Any], numbers: Sequence[int], sequences: Sequence[TokenSequence], top_k: int
    ) -> list[SupportScores | str]:
        """Read the outputs of support requests with these numbers."""
        ...

    def read_given(
        self, outputs: Sequence[Any], numbers: Sequence[int], sequences: Sequence[TokenSequence]
    ) -> list[GivenScores | str]:
        """Read the outputs of given requests with these numbers."""
        ...


class NativeRequests:
    """vLLM's own request fields, as its V2 model runner (the default on GPUs) serves them.

    Args:
        vocab_size: width of the model's logits; higher ids are not sent, and score -inf.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def support_request(self, number: int, sequence: TokenSequence, top_k: int) -> Request:
        """See `ScoreRequests`."""
        # Flat log-probabilities: one list for all positions, 30 times cheaper than a dictionary for each.
        return _all_ids(sequence), {**_SCORE_ONLY, "prompt_logprobs": top_k, "flat_logprobs": True}

    def given_request(self, number: int, sequence: TokenSequence, ids: np.ndarray) -> Request:
        """See `ScoreRequests`."""
        # The response token is the first column.
        scored = np.concatenate([sequence.scored_ids[:, None], ids], axis=1).astype(np.int32)
        scored[scored >= self._vocab_size] = -1
        # Nothing is asked for where the mask is off.
        columns = np.full((len(sequence.response_ids), scored.shape[1]), -1, dtype=np.int32)
        columns[sequence.scored_places] = scored
        start = len(sequence.prompt_ids) - 1
        asked = {"prompt_logprob_token_ids": columns, "prompt_logprob_start": start}
        return _all_ids(sequence), {**_SCORE_ONLY, **asked}

    def read_support(
        self, outputs: Sequence[Any], numbers: Sequence[int], sequences: Sequence[TokenSequence], top_k: int
    ) -> list[SupportScores | str]:
        """See `ScoreRequests`."""
        return [
            _read_flat(output, sequence, top_k) for output, sequence in zip(outputs, sequences, strict=True)
        ]

    def read_given(
        self, outputs: Sequence[Any], numbers: Sequence[int], sequences: Sequence[TokenSequence]
    ) -> list[GivenScores | str]:
        """See `ScoreRequests`."""
        answers: list[GivenScores | str] = []
        for output, sequence in zip(outputs, sequences, strict=True):
            scores = output.prompt_token_id_logprobs
            if list(output.prompt_token_ids) != _all_ids(sequence):
                answers.append("the engine echoed another prompt")
            elif scores is None:
                answers.append(_NO_SCORES)
            else:
                scores = scores[sequence.scored_places]
                answers.append(GivenScores(np.ascontiguousarray(scores[:, 1:]), scores[:, 0].copy()))
        return answers


class GatheredRequests:
    """Questions to `GatheringExtension`, for the V1 model runner, which knows no given ids.

    Args:
        call_workers: calls a method of the extension on all workers; `LLM.collective_rpc`.
    """

    def __init__(self, call_workers: Callable[..., list[Any]]) -> None:
        self._call_workers = call_workers
        call_workers("start_gathering")

    def support_request(self, number: int, sequence: TokenSequence, top_k: int) -> Request:
        """See `ScoreRequests`."""
        return self._request(number, sequence, {"top_k": top_k})

    def given_request(self, number: int, sequence: TokenSequence, ids: np.ndarray) -> Request:
        """See `ScoreRequests`."""
        asked = {"ids": np.ascontiguousarray(ids, dtype=np.int32).tobytes(), "width": ids.shape[1]}
        return self._request(number, sequence, asked)

    def read_support(
        self, outputs: Sequence[Any], numbers: Sequence[int], sequences: Sequence[TokenSequence], top_k: int
    ) -> list[SupportScores | str]:
        """See `ScoreRequests`."""
        answers = self._take(outputs, numbers, sequences)
        return [answer if isinstance(answer, str) else SupportScores(*answer) for answer in answers]

    def read_given(
        self, outputs: Sequence[Any], numbers: Sequence[int], sequences: Sequence[TokenSequence]
    ) -> list[GivenScores | str]:
        """See `ScoreRequests`."""
        answers = self._take(outputs, numbers, sequences)
        return [answer if isinstance(answer, str) else GivenScores(*answer[1:]) for answer in answers]

    def _request(self, number: int, sequence: TokenSequence, asked: dict[str, Any]) -> Request:
        question = {
            "key": number,
            # Where the token before each of the scored ones is: that is what predicts it.
            "places": (len(sequence.prompt_ids) - 1 + sequence.scored_places).astype(np.int32).tobytes(),
            "token_ids": sequence.scored_ids.astype(np.int32).tobytes(),
            **asked,
        }
        # The last token predicts nothing that is asked for, so it does not go in.
        return _all_ids(sequence)[:-1], {**_SCORE_ONLY, "extra_args": {QUESTION: question}}

    def _take(
        self, outputs: Sequence[Any], numbers: Sequence[int], sequences: Sequence[TokenSequence]
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray] | str]:
        taken = {}
        for of_worker in self._call_workers("take_gathered", args=(list(numbers),)):
            taken.update({key: parts for key, *parts in of_worker})
        answers: list[tuple[np.ndarray, np.ndarray, np.ndarray] | str] = []
        for output, number, sequence in zip(outputs, numbers, sequences, strict=True):
            if list(output.prompt_token_ids) != _all_ids(sequence)[:-1]:
                answers.append("the engine echoed another prompt")
            elif number not in taken:
                answers.append(_NO_SCORES)
            else:
                width, ids, logprobs, token_logprobs = taken[number]
                answers.append(
                    (
                        np.frombuffer(ids, dtype=np.int32).reshape(-1, width),
                        np.frombuffer(logprobs, dtype=np.float32).reshape(-1, width),
                        np.frombuffer(token_logprobs, dtype=np.float32),
                    )
                )
        return answers


def _all_ids(sequence: TokenSequence) -> list[int]:
    return [*sequence.prompt_ids.tolist(), *sequence.response_ids.tolist()]


def _read_flat(output: Any, sequence: TokenSequence, top_k: int) -> SupportScores | str:
    """Prompt log-probabilities: for each position the token that was there, then the top-k."""
    flat, num_response = output.prompt_logprobs, len(sequence.response_ids)
    prompt = _all_ids(sequence)
    if list(output.prompt_token_ids) != prompt:
        return "the engine echoed another prompt"
    if flat is None or len(flat) != len(prompt):
        return _NO_SCORES
    if len(flat.token_ids) != (len(prompt) - 1) * (top_k + 1):
        return f"{len(flat.token_ids)} scores instead of {(len(prompt) - 1) * (top_k + 1)}"
    # The first prompt token has no scores: the lists begin with the second.
    skipped = (len(prompt) - 1 - num_response) * (top_k + 1)
    ids = np.array(flat.token_ids[skipped:], dtype=np.int32).reshape(num_response, top_k + 1)
    logprobs = np.array(flat.logprobs[skipped:], dtype=np.float32).reshape(num_response, top_k + 1)
    if (ids[:, 0] != sequence.response_ids).any():
        return "scores of other tokens than the response's"
    ids, logprobs = ids[sequence.scored_places], logprobs[sequence.scored_places]
    order = np.lexsort((ids[:, 1:], -logprobs[:, 1:]), axis=1)
    return SupportScores(
        np.take_along_axis(ids[:, 1:], order, axis=1),
        np.take_along_axis(logprobs[:, 1:], order, axis=1),
        logprobs[:, 0].copy(),
    )
