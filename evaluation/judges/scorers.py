"""Judges that value each answer by itself, such as a teacher's implicit reward, and the preference that follows.

Two scores become a preference as in the Bradley-Terry model: sigma(scale * (score of one - score of the other)).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import ConfigurationError
from data.preferences.messages import PreferenceRow
from data.tokens.encoder import PairEncoder
from evaluation.answers import Answer, prompt_key
from evaluation.judges.contract import SEPARATE, Judge, JudgeRequest, Verdict
from evaluation.judges.local import model_details
from evaluation.judgments import JudgeIdentity
from evaluation.language_model import LanguageModel
from evaluation.line_cache import LineCache, content_key

_ANSWERS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """What a scorer says of one answer.

    Attributes:
        score: higher is better; None where the answer cannot be scored.
        problem: why not; empty otherwise.
        token_ids: of the answer, where the score is a sum over its tokens.
        advantages: what each of those tokens adds, nats.
    """

    score: float | None
    problem: str = ""
    token_ids: tuple[int, ...] = ()
    advantages: tuple[float, ...] = ()


class Scorer(ABC):
    """Values answers one by one.

    Attributes:
        identity: which scorer it is, and everything that can change its scores.
        scale: turns a difference of scores into log-odds.
    """

    identity: JudgeIdentity
    scale: float

    @abstractmethod
    def score(self, items: Sequence[tuple[PreferenceRow, Answer]]) -> Iterator[tuple[int, ScoredAnswer]]:
        """Score answers; (index, score) as they become known, in any order."""

    def token_advantages(self, row: PreferenceRow, answer: Answer) -> list[tuple[str, float]] | None:
        """See `Judge.token_advantages`; None for a score of the whole answer."""
        return None

    def close(self) -> None:  # noqa: B027
        """Free memory."""


class ScoringJudge(Judge):
    """Prefers the answer that a scorer values more."""

    orders = SEPARATE

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.identity = scorer.identity

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Verdict]]:
        """See `Judge.judge`; an answer that is in several requests is scored once."""
        places: dict[str, int] = {}
        items: list[tuple[PreferenceRow, Answer]] = []
        sides: list[tuple[int, int]] = []
        for request in requests:
            pair = []
            for answer in (request.first, request.second):
                key = answer_key(request.row, answer)
                if key not in places:
                    places[key] = len(items)
                    items.append((request.row, answer))
                pair.append(places[key])
            sides.append((pair[0], pair[1]))
        waiting: dict[int, list[int]] = {}
        for index, pair in enumerate(sides):
            for place in set(pair):
                waiting.setdefault(place, []).append(index)
        scores: dict[int, ScoredAnswer] = {}
        for place, score in self._scorer.score(items):
            scores[place] = score
            for index in waiting[place]:
                first, second = sides[index]
                if first in scores and second in scores:
                    yield index, self._verdict(scores[first], scores[second])

    def _verdict(self, first: ScoredAnswer, second: ScoredAnswer) -> Verdict:
        if first.score is None or second.score is None:
            return Verdict(preference=None, text=first.problem or second.problem)
        gap = self._scorer.scale * (first.score - second.score)
        # Written so that neither sign overflows.
        preference = 1 / (1 + math.exp(-gap)) if gap >= 0 else math.exp(gap) / (1 + math.exp(gap))
        return Verdict(preference=preference, scores=(first.score, second.score))

    def token_advantages(self, row: PreferenceRow, answer: Answer) -> list[tuple[str, float]] | None:
        """See `Judge.token_advantages`."""
        return self._scorer.token_advantages(row, answer)

    def close(self) -> None:
        """See `Judge.close`."""
        self._scorer.close()


def answer_key(row: PreferenceRow, answer: Answer) -> str:
    """The key of an answer to a prompt."""
    return content_key([prompt_key(row), answer.text, answer.is_cut])


class AnswerEncoder:
    """Token ids of a conversation with its answer; one that was cut at its limit gets no terminator."""

    def __init__(self, tokenizer: Any, max_length: int | None) -> None:
        self.encoder = PairEncoder(tokenizer)
        self._max_length = max_length

    def encode(self, row: PreferenceRow, answer: Answer) -> tuple[np.ndarray, np.ndarray] | str:
        """(prompt ids, answer ids), int32; or why this answer cannot be encoded."""
        terminator = np.array([self.encoder.terminator_id], np.int32)
        if answer.is_empty:
            encoded = self.encoder.encode(row._replace(chosen=None, rejected=None))
            ids = terminator
        else:
            encoded = self.encoder.encode(row._replace(chosen=answer.text, rejected=None))
            ids = terminator if encoded is None or encoded.chosen_ids is None else encoded.chosen_ids
        if encoded is None:
            return "an answer holds the token that ends answers"
        if answer.is_cut and len(ids) > 1:
            ids = ids[:-1]
        # An answer may follow more than what a model is asked to go on with: an empty thought that the template writes.
        prompt_ids = encoded.chosen[-1].prompt_ids if encoded.chosen else encoded.prompt_ids
        length = len(prompt_ids) + len(ids)
        if self._max_length is not None and length > self._max_length:
            return f"prompt and answer have {length:,} tokens; the judge has room for {self._max_length:,}"
        return prompt_ids, ids


class ImplicitReward(Scorer):
    """log p_teacher(answer) - log p_reference(answer), summed over the answer's tokens: DPO's reward over beta.

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 6. Teacher and reference are asked one after the other, so
    that one of them is in memory at a time, and what each says of an answer is kept by itself.
    """

    def __init__(self, teacher: LanguageModel, reference: LanguageModel, *, beta: float) -> None:
        """Take over both models.

        Args:
            teacher: the aligned model.
            reference: the model that it was aligned from.
            beta: nats of the log-ratio become log-odds by this factor; DPO's beta of the teacher's training.
        Raises:
            ConfigurationError: for two models whose tokenizers differ.
        """
        self._models = (teacher, reference)
        self.scale = beta
        self._encoder = AnswerEncoder(teacher.tokenizer, min(teacher.max_length, reference.max_length))
        encoders = [self._encoder.encoder, PairEncoder(reference.tokenizer)]
        if encoders[0].tokenizer_hash != encoders[1].tokenizer_hash:
            raise ConfigurationError(
                f"--judge-reference: {reference.name} has another tokenizer than --judge-teacher {teacher.name}; "
                "give the model that the teacher was aligned from"
            )
        details = [model_details(model, self._encoder.encoder) for model in self._models]
        self.identity = JudgeIdentity(
            kind="implicit-reward",
            name=teacher.name,
            details={"teacher": details[0], "reference": details[1], "beta": beta},
        )
        self._caches = [LineCache("scores", {"token_logprobs_of": about}) for about in details]

    def score(self, items: Sequence[tuple[PreferenceRow, Answer]]) -> Iterator[tuple[int, ScoredAnswer]]:
        """See `Scorer.score`."""
        encoded = [self._encoder.encode(row, answer) for row, answer in items]
        keys = [
            None if isinstance(ids, str) else content_key([ids[0].tolist(), ids[1].tolist()])
            for ids in encoded
        ]
        for model, cache in zip(self._models, self._caches, strict=True):
            missing = cache.missing([key for key in keys if key is not None])
            todo = {key: ids for key, ids in zip(keys, encoded, strict=True) if key in missing}
            self._score_missing(model, cache, todo)
            model.close()
        for index, (key, ids) in enumerate(zip(keys, encoded, strict=True)):
            yield index, self._scored(key, ids)

    def token_advantages(self, row: PreferenceRow, answer: Answer) -> list[tuple[str, float]] | None:
        """See `Judge.token_advantages`; without the terminator, which is no text."""
        [(_, scored)] = self.score([(row, answer)])
        if scored.score is None:
            return None
        ids = list(scored.token_ids)
        if ids and ids[-1] == self._encoder.encoder.terminator_id:
            ids.pop()
        pieces, before = [], ""
        for end in range(1, len(ids) + 1):
            # Differences of whole texts: a token by itself loses its space, or is half a character.
            text = self._models[0].tokenizer.decode(ids[:end]).removesuffix("\ufffd")
            pieces.append(text[len(before) :] if text.startswith(before) else "")
            before = text if text.startswith(before) else before
        return list(zip(pieces, scored.advantages, strict=False))

    def _score_missing(self, model: LanguageModel, cache: LineCache, todo: dict[Any, Any]) -> None:
        order = sorted(todo, key=lambda key: sum(map(len, todo[key])))
        for start in range(0, len(order), _ANSWERS_AT_ONCE):
            batch = order[start : start + _ANSWERS_AT_ONCE]
            prompts, responses = zip(*(todo[key] for key in batch), strict=True)
            scores = model.score(prompts, responses, [ids[:, None] for ids in responses])
            for key, score in zip(batch, scores, strict=True):
                if isinstance(score, str):
                    cache.add(key, {"problem": score})
                else:
                    values = [round(value, 4) for value in score.token_logprobs.astype(float).tolist()]
                    cache.add(key, {"token_logprobs": values})

    def _scored(self, key: str | None, ids: tuple[np.ndarray, np.ndarray] | str) -> ScoredAnswer:
        if isinstance(ids, str) or key is None:
            return ScoredAnswer(None, str(ids))
        found = [cache[key] for cache in self._caches]
        if problems := [entry["problem"] for entry in found if "problem" in entry]:
            return ScoredAnswer(None, problems[0])
        teacher, reference = (np.array(entry["token_logprobs"]) for entry in found)
        advantages = tuple(np.round(teacher - reference, 4).tolist())
        return ScoredAnswer(math.fsum(advantages), token_ids=tuple(ids[1].tolist()), advantages=advantages)

    def close(self) -> None:
        """See `Scorer.close`."""
        for model in self._models:
            model.close()
