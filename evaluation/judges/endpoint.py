"""A chat model at an OpenAI-compatible endpoint: concurrent requests, retries, costs, nothing asked twice.

Each reply is in the cache before the next step, so an endpoint that goes down, a key that expires or an interrupted
command loses nothing: the same line again asks only for what is missing. Servers differ in what they accept; a
parameter that one refuses is left out from then on, and the reply is read as text where it gives no
log-probabilities. The key comes from an environment variable and goes into the request's header, nowhere else.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Any, Self

from data.errors import AdpaError, ConfigurationError
from evaluation.judges.chat_api import Api, ApiSettings, Completion
from evaluation.judges.contract import ChatModel, Choice, Reply
from evaluation.judgments import JudgeIdentity
from evaluation.line_cache import LineCache, content_key

# A chat template's header and the first words of a reply; a letter needs one, but some begin with a space or a quote.
_CHOICE_TOKENS = 4

# English text in today's vocabularies; only for the estimate before asking.
_CHARS_PER_TOKEN = 4

# What models put around a word that they were asked for alone.
_AROUND = " \t\r\n\"'`*_.:,;()[]{}<>\u2581\u0120\u010a"


@dataclass(frozen=True, slots=True)
class Price:
    """What tokens cost.

    Attributes:
        read: dollars for a million prompt tokens.
        written: dollars for a million tokens of replies.
    """

    read: float
    written: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `READ:WRITTEN`.

        Raises:
            ConfigurationError: for anything else, and prices that are negative or not finite.
        """
        read, _, written = text.partition(":")
        try:
            price = cls(float(read), float(written))
        except ValueError:
            price = cls(-1, -1)
        if not (0 <= price.read < math.inf and 0 <= price.written < math.inf):
            raise ConfigurationError(
                f"--judge-price: {text!r} is not READ:WRITTEN, dollars for a million tokens, such as 0.15:0.6"
            )
        return price

    def of(self, read: float, written: float) -> float:
        """Dollars for these numbers of tokens."""
        return (read * self.read + written * self.written) / 1e6


def bare_word(text: str) -> str:
    """A word without the spaces, quotes and marks around it."""
    return text.strip(_AROUND)


class EndpointChatModel(ChatModel):
    """A chat model that a server answers for; a connection is open for one request only."""

    def __init__(
        self,
        settings: ApiSettings,
        *,
        concurrency: int = 8,
        price: Price | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Reach the endpoint and check that it serves the model.

        Args:
            settings: where, which model, and which environment variable has the key.
            concurrency: requests under way at a time.
            price: of tokens; None where nothing is to be said of money.
            pause: waits between attempts, seconds.
        Raises:
            ConfigurationError: for a wrong key, address or model.
            EvaluationError: for an endpoint that does not answer.
        """
        self._settings = settings
        self._api = Api(settings, key=os.environ.get(settings.key_variable) or None, pause=pause)
        self._api.check_model()
        self._concurrency = concurrency
        self._price = price
        self.identity = JudgeIdentity(
            kind="endpoint", name=settings.model, details={"url": settings.public_url, "temperature": 0}
        )
        self._cache = LineCache("verdicts", self.identity.as_dict())
        self._lock = threading.Lock()
        self._read = self._written = self._asked = 0

    def choose(self, questions: Sequence[str], words: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        """See `ChatModel.choose`; without log-probabilities the reply's first word counts, if it is one of `words`."""

        def ask(question: str) -> Choice:
            reply = self._ask(question, _CHOICE_TOKENS, with_logprobs=True)
            return read_choice(reply, words)

        keys = [content_key(["choose", question, list(words)]) for question in questions]
        for i, found in self._answers(questions, keys, ask):
            yield i, Choice(**found)

    def write(self, questions: Sequence[str], *, max_new_tokens: int) -> Iterator[tuple[int, Reply]]:
        """See `ChatModel.write`."""

        def ask(question: str) -> Reply:
            reply = self._ask(question, max_new_tokens, with_logprobs=False)
            return Reply(text=reply.text, problem=reply.problem)

        keys = [content_key(["write", question, max_new_tokens]) for question in questions]
        for i, found in self._answers(questions, keys, ask):
            yield i, Reply(**found)

    def plan(self, questions: Sequence[str], *, max_new_tokens: int | None) -> str | None:
        """See `ChatModel.plan`; replies that are kept cost nothing again, so this is the most that it can be."""
        read = sum(len(question) for question in questions) / _CHARS_PER_TOKEN
        written = len(questions) * (_CHOICE_TOKENS if max_new_tokens is None else max_new_tokens)
        line = (
            f"{len(questions):,} questions of about {read:,.0f} tokens, at most {written:,} tokens of replies"
        )
        return line if self._price is None else f"{line}: at most about ${self._price.of(read, written):,.4f}"

    def spent(self) -> str | None:
        """See `ChatModel.spent`; tokens as the endpoint counted them."""
        line = f"{self._asked:,} questions asked: {self._read:,} tokens read, {self._written:,} written"
        return line if self._price is None else f"{line}: ${self._price.of(self._read, self._written):,.4f}"

    def _ask(self, question: str, max_tokens: int, *, with_logprobs: bool) -> Completion:
        completion = self._api.complete(question, max_tokens=max_tokens, with_logprobs=with_logprobs)
        with self._lock:
            self._asked += 1
            self._read += completion.prompt_tokens
            self._written += completion.reply_tokens
        return completion

    def _answers(
        self, questions: Sequence[str], keys: Sequence[str], ask: Callable[[str], Choice | Reply]
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        return self._cache.results(keys, lambda missing: self._ask_all(questions, keys, missing, ask))

    def _ask_all(
        self,
        questions: Sequence[str],
        keys: Sequence[str],
        missing: Mapping[str, int],
        ask: Callable[[str], Choice | Reply],
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Ask side by side; (key, reply) as they come."""
        todo = iter(missing.items())
        failure = None
        self._api.begin()
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="judge") as pool:
            running: dict[Future[Choice | Reply], str] = {}
            try:
                while True:
                    while failure is None and len(running) < self._concurrency:
                        if (entry := next(todo, None)) is None:
                            break
                        running[pool.submit(ask, questions[entry[1]])] = entry[0]
                    if not running:
                        break
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        key = running.pop(future)
                        try:
                            reply = asdict(future.result())
                        except AdpaError as error:
                            # Those under way are paid for: they are kept before the error is raised.
                            failure = failure or error
                            self._api.give_up()
                            continue
                        yield key, reply
            finally:
                self._api.give_up()
        if failure is not None:
            kept = sum(key in self._cache for key in keys)
            raise type(failure)(
                f"{failure}; {kept:,} of {len(keys):,} replies are kept, and the same command asks only for the others"
            ) from failure


def read_choice(reply: Completion, words: Sequence[str]) -> Choice:
    """The choice in a reply.

    The first token that is one of the words, after nothing but spaces and marks, decides; its log-probabilities are
    summed over spellings ("A", " A"). Anything else is no choice.
    """
    if reply.text is None:
        return Choice(logprobs=None, word=None, text=reply.problem)
    for token in reply.tokens:
        bare = bare_word(token.text)
        if not bare:
            continue
        mass = dict.fromkeys(words, 0.0)
        for text, probability in token.alternatives:
            if bare_word(text) in mass:
                mass[bare_word(text)] += probability
        logprobs = {word: math.log(value) for word, value in mass.items() if value > 0}
        return Choice(logprobs=logprobs, word=bare if bare in words else None, text=reply.text)
    first = bare_word(reply.text.split(maxsplit=1)[0]) if reply.text.strip() else ""
    # A reply that goes on after the word may take it back; one word alone is a verdict.
    alone = bare_word(reply.text) == first
    return Choice(logprobs=None, word=first if alone and first in words else None, text=reply.text)
