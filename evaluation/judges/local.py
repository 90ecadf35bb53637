"""A causal language model on this machine as a chat model, through an engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from data.errors import ConfigurationError
from data.preferences.messages import PreferenceRow
from data.tokens.encoder import PairEncoder
from evaluation.judges.contract import ChatModel, Choice, Reply
from evaluation.judgments import JudgeIdentity
from evaluation.language_model import LanguageModel
from evaluation.line_cache import LineCache, content_key

_QUESTIONS_AT_ONCE = 64


def model_details(model: LanguageModel, encoder: PairEncoder) -> dict[str, Any]:
    """What determines a local model's replies: weights, arithmetic, tokenizer, chat template."""
    return {
        "model": dict(model.identity),
        "arithmetic": dict(model.arithmetic),
        "tokenizer": encoder.tokenizer_hash,
        "chat_template": encoder.template_hash,
    }


class LocalChatModel(ChatModel):
    """A causal language model as a chat model.

    A choice is read off the log-probabilities of the words' first tokens after the question: nothing is sampled,
    so a choice can only fail where the question is too long.
    """

    def __init__(self, model: LanguageModel, *, option: str = "--judge-model") -> None:
        """Take over an opened model.

        Raises:
            ConfigurationError: for a model without a chat template: it has not learned to answer questions.
        """
        self._model = model
        self._option = option
        # A verdict is read from the next token: a model that thinks first is asked for an answer without a thought.
        self._encoder = PairEncoder(model.tokenizer, thinking="none")
        if self._encoder.template_hash is None:
            raise ConfigurationError(
                f"{option}: {model.name} has no chat template, so it cannot be asked for a verdict; give an "
                "instruction-tuned model, or judge with --judge-reward-model or --judge-teacher"
            )
        self.identity = JudgeIdentity(
            kind="local-model", name=model.name, details=model_details(model, self._encoder)
        )
        # Not by its name: a checkpoint that was moved is the same judge.
        self._cache = LineCache("verdicts", {"chat_model": dict(self.identity.details)})

    def choose(self, questions: Sequence[str], words: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        """See `ChatModel.choose`.

        Raises:
            ConfigurationError: for words that the tokenizer begins with the same token.
        """
        keys = [content_key(["choose", question, list(words)]) for question in questions]

        def ask(missing: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
            ids = np.array([list(self._word_ids(words).values())], np.int32)
            for batch in self._batches(questions, missing):
                fitting = {key: found for key, found in batch.items() if len(found) < self._model.max_length}
                scores = self._model.score(
                    list(fitting.values()), [ids[0, :1]] * len(fitting), [ids] * len(fitting)
                )
                said = {key: self._too_long(found) for key, found in batch.items()}
                for key, score in zip(fitting, scores, strict=True):
                    if isinstance(score, str):
                        said[key] = score
                        continue
                    del said[key]
                    logprobs = dict(zip(words, score.logprobs[0].astype(float).tolist(), strict=True))
                    word = max(logprobs, key=logprobs.__getitem__)
                    yield key, asdict(Choice(logprobs=logprobs, word=word, text=""))
                for key, problem in said.items():
                    yield key, asdict(Choice(logprobs=None, word=None, text=problem))

        return ((i, Choice(**found)) for i, found in self._cache.results(keys, ask))

    def write(self, questions: Sequence[str], *, max_new_tokens: int) -> Iterator[tuple[int, Reply]]:
        """See `ChatModel.write`."""
        keys = [content_key(["write", question, max_new_tokens]) for question in questions]

        def ask(missing: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
            stop = {self._encoder.terminator_id, self._model.tokenizer.eos_token_id} - {None}
            room = self._model.max_length - max_new_tokens
            for batch in self._batches(questions, missing):
                fitting = {key: ids for key, ids in batch.items() if len(ids) <= room}
                drawn = self._model.sample(
                    list(fitting.values()),
                    [0] * len(fitting),
                    max_new_tokens=max_new_tokens,
                    temperature=0.0,
                    top_p=1.0,
                    stop_token_ids=sorted(stop),
                )
                replies = {key: Reply(text=None, problem=self._too_long(ids)) for key, ids in batch.items()}
                for key, reply in zip(fitting, drawn, strict=True):
                    if isinstance(reply, str):
                        replies[key] = Reply(text=None, problem=reply)
                    else:
                        replies[key] = Reply(text=self._text(reply.response_ids))
                yield from ((key, asdict(reply)) for key, reply in replies.items())

        return ((i, Reply(**found)) for i, found in self._cache.results(keys, ask))

    def close(self) -> None:
        """See `ChatModel.close`."""
        self._model.close()

    def _batches(
        self, questions: Sequence[str], missing: Mapping[str, int]
    ) -> Iterator[dict[str, np.ndarray]]:
        """Token ids of the questions that have no reply yet, by key, short questions first."""
        ids = {key: self._prompt_ids(questions[place]) for key, place in missing.items()}
        todo = sorted(ids, key=lambda key: len(ids[key]))
        for start in range(0, len(todo), _QUESTIONS_AT_ONCE):
            yield {key: ids[key] for key in todo[start : start + _QUESTIONS_AT_ONCE]}

    def _prompt_ids(self, question: str) -> np.ndarray:
        encoded = self._encoder.encode(
            PreferenceRow("question", question, None, None, "the judge's question")
        )
        assert encoded is not None, "without a limit of length no prompt is dropped"
        return encoded.prompt_ids

    def _word_ids(self, words: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for word in words:
            encoded = self._encoder.encode(
                PreferenceRow("question", "Which?", word, None, "the judge's question")
            )
            if encoded is None or encoded.chosen_ids is None:
                raise ConfigurationError(
                    f"{self._option}: the tokenizer of {self._model.name} has no tokens for {word!r}, so this model "
                    "cannot give a verdict; take another judge"
                )
            found[word] = int(encoded.chosen_ids[0])
        if len(set(found.values())) < len(words):
            raise ConfigurationError(
                f"{self._option}: the tokenizer of {self._model.name} begins {' and '.join(map(repr, words))} with the "
                "same token, so their probabilities cannot be distinguished; take another judge, or --judge-style "
                "reasoned"
            )
        return found

    def _too_long(self, ids: np.ndarray) -> str:
        return f"the question has {len(ids):,} tokens, more than the judge's {self._model.max_length:,} leave room for"

    def _text(self, ids: np.ndarray) -> str:
        return self._model.tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip()
