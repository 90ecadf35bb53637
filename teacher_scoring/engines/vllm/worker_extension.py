"""Runs inside vLLM's workers: collects the requested scores at response positions.

vLLM's V1 model runner can return prompt log-probabilities, but not those of given ids; it computes them for
every prompt position, and turns each number into a Python object. This extension reads the same hidden states
one step earlier. It is a `worker_extension_cls`: vLLM adds it to its worker class and calls it by name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from teacher_scoring.engines.logprobs import given_logprobs, support_logprobs

# Where a request's `extra_args` carry its question: a dictionary with `key`, `places`, `token_ids` and either
# `top_k` or `ids` and `width`. Arrays travel as the bytes of int32.
QUESTION = "gather_logprobs"

# Logits that come out of the LM head at once. On a CPU they stay in its cache and the allocator reuses their
# memory: a tenth faster over all than pieces of 256 MB, whose pages are new each time.
_CPU_LOGITS_BYTES = 1 << 24

_GPU_LOGITS_BYTES = 1 << 28


@dataclass
class _Gathered:
    """The answer to one request, filled chunk by chunk as its prompt goes through the model."""

    places: np.ndarray
    token_ids: np.ndarray
    top_k: int
    given_ids: np.ndarray | None
    num_filled: int = 0
    ids: np.ndarray = field(init=False)
    logprobs: np.ndarray = field(init=False)
    token_logprobs: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = (len(self.token_ids), self.top_k)
        self.ids = np.empty(shape, dtype=np.int32) if self.given_ids is None else self.given_ids
        self.logprobs = np.empty(shape, dtype=np.float32)
        self.token_logprobs = np.empty(shape[0], dtype=np.float32)


class GatheringExtension:
    """Methods that vLLM's worker gains."""

    model_runner: Any

    def start_gathering(self) -> None:
        """Read the hidden states of every step of this worker's model runner from now on."""
        runner = self.model_runner
        gathered: dict[int, _Gathered] = {}
        prompt_logprobs = runner._get_prompt_logprobs_dict

        def gather_first(hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> Any:
            _gather(runner, gathered, hidden_states, num_scheduled_tokens)
            return prompt_logprobs(hidden_states, num_scheduled_tokens)

        runner._get_prompt_logprobs_dict = gather_first
        self._gathered = gathered

    def take_gathered(self, keys: list[int]) -> list[tuple[int, int, bytes, bytes, bytes]]:
        """Hand over complete answers and forget the others.

        Args:
            keys: of the questions; other workers may hold answers to some of them.

        Returns:
            (key, K, ids int32 (T, K), log-probabilities float32 (T, K), those of the tokens float32 (T,)).
        """
        taken = [(key, self._gathered.pop(key)) for key in keys if key in self._gathered]
        return [
            (key, a.top_k, a.ids.tobytes(), a.logprobs.tobytes(), a.token_logprobs.tobytes())
            for key, a in taken
            if a.num_filled == len(a.token_ids)
        ]


def _gather(
    runner: Any,
    gathered: dict[int, _Gathered],
    hidden_states: torch.Tensor,
    num_scheduled_tokens: dict[str, int],
) -> None:
    """Score the response positions that this step computes."""
    parts: list[tuple[_Gathered, int, int]] = []
    rows: list[np.ndarray] = []
    for request_id, num_tokens in num_scheduled_tokens.items():
        request = runner.requests[request_id]
        question = ((request.sampling_params and request.sampling_params.extra_args) or {}).get(QUESTION)
        if question is None:
            continue
        computed = request.num_computed_tokens
        if computed == 0 or question["key"] not in gathered:
            gathered[question["key"]] = _read_question(question)
        answer = gathered[question["key"]]
        first, end = np.searchsorted(answer.places, [computed, computed + num_tokens]).tolist()
        if first < end:
            offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id]])
            parts.append((answer, first, end))
            rows.append(offset + answer.places[first:end].astype(np.int64) - computed)
    limit = _CPU_LOGITS_BYTES if hidden_states.device.type == "cpu" else _GPU_LOGITS_BYTES
    max_rows = max(1, limit // (4 * runner.input_batch.vocab_size))
    for batch, batch_rows in _split(parts, rows, max_rows):
        # Every tensor-parallel worker has to go through the head; only the first gets the logits.
        selected = torch.from_numpy(batch_rows).to(hidden_states.device)
        logits = runner.model.compute_logits(hidden_states[selected])
        if logits is not None:
            _fill(batch, logits)


def _read_question(question: dict[str, Any]) -> _Gathered:
    places, token_ids = (np.frombuffer(question[name], dtype=np.int32) for name in ("places", "token_ids"))
    if "top_k" in question:
        return _Gathered(places, token_ids, question["top_k"], None)
    given_ids = np.frombuffer(question["ids"], dtype=np.int32).reshape(len(token_ids), question["width"])
    return _Gathered(places, token_ids, question["width"], given_ids)


def _split(
    parts: Sequence[tuple[_Gathered, int, int]], rows: Sequence[np.ndarray], max_rows: int
) -> Iterator[tuple[list[tuple[_Gathered, int, int]], np.ndarray]]:
    """Put positions together that need the same kind and number of scores, `max_rows` at a time."""
    kinds: dict[tuple[bool, int], list[tuple[_Gathered, int, int, np.ndarray]]] = {}
    for (answer, first, end), part_rows in zip(parts, rows, strict=True):
        kinds.setdefault((answer.given_ids is None, answer.top_k), []).append((answer, first, end, part_rows))
    for pieces in kinds.values():
        batch: list[tuple[_Gathered, int, int]] = []
        batch_rows: list[np.ndarray] = []
        room = max_rows
        for answer, first, end, part_rows in pieces:
            done = 0
            while done < end - first:
                taken = min(room, end - first - done)
                batch.append((answer, first + done, first + done + taken))
                batch_rows.append(part_rows[done : done + taken])
                done, room = done + taken, room - taken
                if not room:
                    yield batch, np.concatenate(batch_rows)
                    batch, batch_rows, room = [], [], max_rows
        if batch:
            yield batch, np.concatenate(batch_rows)


def _fill(batch: Sequence[tuple[_Gathered, int, int]], logits: torch.Tensor) -> None:
    """Score positions of one kind, shape (N, V), and write each answer its part."""
    tokens = np.concatenate([answer.token_ids[first:end] for answer, first, end in batch])
    token_ids = torch.from_numpy(tokens).long().to(logits.device)
    ids = None
    if batch[0][0].given_ids is None:
        ids, logprobs, token_logprobs = support_logprobs(logits, token_ids, batch[0][0].top_k)
    else:
        given = np.concatenate([answer.ids[first:end] for answer, first, end in batch])
        logprobs, token_logprobs = given_logprobs(
            logits, token_ids, torch.from_numpy(given).long().to(logits.device)
        )
    row = 0
    for answer, first, end in batch:
        rows = slice(row, row + end - first)
        if ids is not None:
            answer.ids[first:end] = ids[rows].cpu().numpy()
        answer.logprobs[first:end] = logprobs[rows].cpu().numpy()
        answer.token_logprobs[first:end] = token_logprobs[rows].cpu().numpy()
        answer.num_filled += end - first
        row += end - first
