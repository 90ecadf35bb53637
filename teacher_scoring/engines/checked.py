"""An engine whose questions and answers are checked, around any backend.

Nobody would notice a wrong score in a dataset, and a library that serves millions of requests loses some. So every
answer is checked for what must hold with any model: shapes, ids in range and different, finite numbers in
falling order, mass of at most 1, the response token's score the same by both routes. Checking takes numpy a small part
of the time that the model takes. A question whose answer fails is asked again, up to `MAX_ATTEMPTS` times.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from data.errors import ConfigurationError, ScoringError
from teacher_scoring.engines.contract import (
    Backend,
    GivenScores,
    SampledResponse,
    Sampling,
    SupportScores,
    TokenSequence,
)

MAX_ATTEMPTS = 3

# Float32 log-softmax over 150,000 tokens sums to 1 within a few 1e-7; 1e-5 away is a wrong normaliser.
MAX_EXCESS_MASS = 1e-5

# The same number by two routes: float32 rounding at 20 nats is 2e-6; 1e-4 away is another token's score.
MAX_ROUNDING = 1e-4

Answer = TypeVar("Answer", SupportScores, GivenScores, SampledResponse)


class LostAnswersError(ScoringError):
    """Some questions got no valid answer, however often they were asked.

    Attributes:
        answers: one for each question; None where it was lost.
        reasons: position of each lost answer -> what was wrong with it.
    """

    def __init__(self, engine: str, answers: Sequence[Any], reasons: dict[int, str]) -> None:
        first = min(reasons)
        super().__init__(
            f"{engine}: {len(reasons)} of {len(answers)} answers lost after {MAX_ATTEMPTS} attempts; "
            f"the first, number {first}: {reasons[first]}"
        )
        self.answers = list(answers)
        self.reasons = reasons


class CheckedEngine:
    """One model in memory that scores and samples; questions and answers are as `Backend` says.

    Attributes:
        backend: what answers.
        label: what messages call the model.
    """

    def __init__(self, backend: Backend, label: str) -> None:
        self.backend = backend
        self.label = label

    @property
    def vocab_size(self) -> int:
        """Width of the model's logits."""
        return self.backend.vocab_size

    @property
    def dtype(self) -> str:
        """Of the weights as loaded."""
        return self.backend.dtype

    def report_to(self, heard: Callable[[float], None]) -> None:
        """Have `heard` called while questions are worked on; see `Backend.heard`."""
        self.backend.heard = heard

    def score_support(self, sequences: Sequence[TokenSequence], top_k: int) -> list[SupportScores]:
        """Score the `top_k` most probable tokens at every response position.

        Raises:
            ConfigurationError: `top_k` outside 1 to `vocab_size`.
            ScoringError: a sequence that the model cannot hold, or a library that fails.
            LostAnswersError: answers that are missing or fail the checks.
        """
        if not 1 <= top_k <= self.vocab_size:
            raise ConfigurationError(
                f"top_k: {top_k} is out of range; this model's vocabulary allows 1 to {self.vocab_size}"
            )
        self._check(sequences)
        return ask_until_answered(
            self.backend.name,
            len(sequences),
            lambda numbers: self.backend.score_support([sequences[n] for n in numbers], top_k),
            lambda number, answer: support_fault(answer, sequences[number], top_k, self.vocab_size),
        )

    def score_given(self, sequences: Sequence[TokenSequence], ids: Sequence[np.ndarray]) -> list[GivenScores]:
        """Score given ids at every response position; see `Backend.score_given`.

        Raises:
            ScoringError: a sequence that the model cannot hold, or a library that fails.
            LostAnswersError: answers that are missing or fail the checks.
        """
        self._check(sequences)
        return ask_until_answered(
            self.backend.name,
            len(sequences),
            lambda numbers: self.backend.score_given(
                [sequences[n] for n in numbers], [ids[n] for n in numbers]
            ),
            lambda number, answer: given_fault(answer, sequences[number], ids[number], self.vocab_size),
        )

    def sample(
        self, prompts: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> list[SampledResponse]:
        """Draw one response to each prompt; see `Backend.sample`.

        Raises:
            ConfigurationError: sampling settings that no model could follow.
            ScoringError: a prompt that leaves no room for a response, or a library that fails.
            LostAnswersError: answers that are missing or fail the checks.
        """
        check_prompts(prompts, sampling, self.vocab_size, self.backend.max_length, self.label)
        return ask_until_answered(
            self.backend.name,
            len(prompts),
            lambda numbers: self.backend.sample(
                [prompts[n] for n in numbers], [seeds[n] for n in numbers], sampling
            ),
            lambda _, answer: sample_fault(answer, sampling, self.vocab_size),
        )

    def close(self) -> None:
        """Give the model's memory back; the engine cannot be used afterwards."""
        self.backend.close()

    def _check(self, sequences: Sequence[TokenSequence]) -> None:
        check_sequences(sequences, self.vocab_size, self.backend.max_length, self.label)


def ask_until_answered(
    engine: str,
    num_questions: int,
    ask: Callable[[Sequence[int]], Iterable[Answer | str]],
    fault: Callable[[int, Answer], str | None],
) -> list[Answer]:
    """Ask all questions, and those again whose answer is missing or fails its check.

    Args:
        engine: what to call the engine in the message.
        num_questions: questions are numbered from 0.
        ask: answers the questions with the given numbers; a string says why one got lost.
        fault: says what is wrong with an answer; None when nothing is.

    Raises:
        LostAnswersError: answers still missing or wrong after `MAX_ATTEMPTS` attempts.
    """
    answers: list[Answer | None] = [None] * num_questions
    reasons: dict[int, str] = {}
    open_questions: Sequence[int] = range(num_questions)
    for _ in range(MAX_ATTEMPTS):
        reasons = {}
        for number, answer in zip(open_questions, ask(open_questions), strict=True):
            if isinstance(answer, str):
                reasons[number] = answer
            elif (reason := fault(number, answer)) is not None:
                reasons[number] = reason
            else:
                answers[number] = answer
        open_questions = sorted(reasons)
        if not open_questions:
            break
    if reasons:
        raise LostAnswersError(engine, answers, reasons)
    return [answer for answer in answers if answer is not None]


def check_sequences(
    sequences: Sequence[TokenSequence], vocab_size: int, max_length: int | None, model: str
) -> None:
    """Refuse ids that the model lacks and sequences that it cannot hold, before any of them is run.

    Raises:
        ScoringError: naming the first sequence that cannot be scored.
    """
    for number, sequence in enumerate(sequences):
        num_prompt, num_response = len(sequence.prompt_ids), len(sequence.response_ids)
        if sequence.mask is not None and not sequence.mask.any():
            raise ScoringError(f"sequence {number}: its mask leaves no position to score")
        if not num_prompt or not num_response:
            raise ScoringError(
                f"sequence {number}: {num_prompt} prompt and {num_response} response tokens; "
                "both need at least 1"
            )
        highest = max(int(sequence.prompt_ids.max()), int(sequence.response_ids.max()))
        lowest = min(int(sequence.prompt_ids.min()), int(sequence.response_ids.min()))
        if lowest < 0 or highest >= vocab_size:
            raise ScoringError(
                f"sequence {number}: token id {lowest if lowest < 0 else highest}, but {model} has ids 0 to "
                f"{vocab_size - 1}; tokenize with this model's tokenizer"
            )
        if max_length is not None and num_prompt + num_response > max_length:
            raise ScoringError(
                f"sequence {number}: {num_prompt + num_response} tokens, but {model} was opened for at most "
                f"{max_length}; drop the row or raise max_length"
            )


def check_prompts(
    prompts: Sequence[np.ndarray], sampling: Sampling, vocab_size: int, max_length: int | None, model: str
) -> None:
    """Refuse prompts that leave no room for a response, ids that the model lacks, and settings out of range.

    Raises:
        ConfigurationError: sampling settings that no model could follow.
        ScoringError: naming the first prompt that cannot be continued.
    """
    if sampling.max_new_tokens < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        raise ConfigurationError(
            f"sampling: max_new_tokens {sampling.max_new_tokens}, temperature {sampling.temperature}, top_p "
            f"{sampling.top_p}; allowed are at least 1, at least 0, and above 0 up to 1"
        )
    room = None if max_length is None else max_length - sampling.max_new_tokens + 1
    # A prompt with one more token is a sequence whose length the model must hold.
    as_sequences = [TokenSequence(prompt, prompt[-1:]) for prompt in prompts]
    check_sequences(as_sequences, vocab_size, room, model)


def support_fault(answer: SupportScores, sequence: TokenSequence, top_k: int, vocab_size: int) -> str | None:
    """What is wrong with a model's own top-k scores; None when nothing is."""
    token_ids = sequence.scored_ids
    shape = (len(token_ids), top_k)
    if answer.topk_ids.shape != shape or answer.logprobs.shape != shape:
        return f"support of shape {answer.topk_ids.shape} and {answer.logprobs.shape} instead of {shape}"
    if answer.token_logprobs.shape != shape[:1]:
        return f"{answer.token_logprobs.shape} token scores instead of {shape[:1]}"
    if answer.topk_ids.min() < 0 or answer.topk_ids.max() >= vocab_size:
        return f"support ids outside 0 to {vocab_size - 1}"
    sorted_ids = np.sort(answer.topk_ids, axis=1)
    if (sorted_ids[:, 1:] == sorted_ids[:, :-1]).any():
        return "an id twice in one position's support"
    if not np.isfinite(answer.logprobs).all() or not np.isfinite(answer.token_logprobs).all():
        return "scores that are not finite"
    if (np.diff(answer.logprobs, axis=1) > 0).any():
        return "support not in falling probability"
    is_token = answer.topk_ids == token_ids[:, None]
    difference = answer.logprobs[is_token] - answer.token_logprobs[is_token.any(axis=1)]
    if (np.abs(difference) > MAX_ROUNDING).any():
        return "a response token whose own score differs from its score in the support"
    outside = ~is_token.any(axis=1)
    if (answer.token_logprobs[outside] > answer.logprobs[outside, -1] + MAX_ROUNDING).any():
        return "a response token above the support's last that is not in it"
    return _excess_mass(answer.logprobs)


def given_fault(answer: GivenScores, sequence: TokenSequence, ids: np.ndarray, vocab_size: int) -> str | None:
    """What is wrong with a model's scores of given ids; None when nothing is."""
    if answer.logprobs.shape != ids.shape:
        return f"scores of shape {answer.logprobs.shape} for ids of shape {ids.shape}"
    token_ids = sequence.scored_ids
    if answer.token_logprobs.shape != token_ids.shape:
        return f"{answer.token_logprobs.shape} token scores instead of {token_ids.shape}"
    missing = (ids < 0) | (ids >= vocab_size)
    if not np.isneginf(answer.logprobs[missing]).all():
        return "scores for ids that the model does not have"
    if not np.isfinite(answer.logprobs[~missing]).all() or not np.isfinite(answer.token_logprobs).all():
        return "scores that are not finite"
    is_token = ids == token_ids[:, None]
    tokens = np.broadcast_to(answer.token_logprobs[:, None], ids.shape)
    if (np.abs(answer.logprobs[is_token] - tokens[is_token]) > MAX_ROUNDING).any():
        return "a response token whose own score differs from its score among the given ids"
    return _excess_mass(answer.logprobs)


def sample_fault(answer: SampledResponse, sampling: Sampling, vocab_size: int) -> str | None:
    """What is wrong with a drawn response; None when nothing is."""
    num_tokens = len(answer.response_ids)
    if not 1 <= num_tokens <= sampling.max_new_tokens:
        return f"{num_tokens} tokens instead of 1 to {sampling.max_new_tokens}"
    if answer.token_logprobs.shape != (num_tokens,):
        return f"{answer.token_logprobs.shape} scores for {num_tokens} tokens"
    if answer.response_ids.min() < 0 or answer.response_ids.max() >= vocab_size:
        return f"token ids outside 0 to {vocab_size - 1}"
    if not np.isfinite(answer.token_logprobs).all() or (answer.token_logprobs > MAX_EXCESS_MASS).any():
        return "scores that are not log-probabilities"
    is_stop = np.isin(answer.response_ids, sampling.stop_token_ids)
    if is_stop[:-1].any():
        return "tokens after a stop token"
    if answer.finish_reason != ("stop" if is_stop[-1] else "length"):
        return f"finish reason {answer.finish_reason!r} with last token {answer.response_ids[-1]}"
    if answer.finish_reason == "length" and num_tokens < sampling.max_new_tokens:
        return f"cut at {num_tokens} of {sampling.max_new_tokens} tokens"
    return None


def _excess_mass(logprobs: np.ndarray) -> str | None:
    mass = np.exp(logprobs.astype(np.float64)).sum(axis=1).max()
    return None if mass <= 1 + MAX_EXCESS_MASS else f"probabilities that sum to {mass:.6f}"
