"""What a judge is: something that prefers one of two answers, and can be identified.

There are two kinds below this surface. A `ChatModel` is asked in words and replies with a word or a text; it sees
both answers, so their order matters and both orders are judged (`evaluation.judges.pairwise`). A scorer values
each answer by itself (`evaluation.judges.scorers`); order cannot matter to it and its judgments say `separate`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from data.preferences.messages import PreferenceRow
from evaluation.answers import Answer
from evaluation.judgments import JudgeIdentity, Order

BOTH_ORDERS: tuple[Order, ...] = ("model_first", "baseline_first")

SEPARATE: tuple[Order, ...] = ("separate",)


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """Two answers to one prompt, in the order in which the judge sees them."""

    row: PreferenceRow
    first: Answer
    second: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge says of two answers.

    Attributes:
        preference: for the first answer, 0 to 1; None for a verdict that is malformed.
        text: what the judge wrote, or what is wrong with the verdict.
        logprobs: of the words it could choose from, nats, where it gave them.
        scores: of the first and the second answer, where it values them separately.
    """

    preference: float | None
    text: str = ""
    logprobs: Mapping[str, float] | None = None
    scores: tuple[float, float] | None = None


class Judge(ABC):
    """Prefers one of two answers.

    Attributes:
        identity: which judge it is, and everything that can change its verdicts.
        orders: the orders in which a pair of answers is to be judged.
    """

    identity: JudgeIdentity
    orders: tuple[Order, ...]

    @abstractmethod
    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Verdict]]:
        """Judge pairs of answers.

        Yields:
            (index of the request, its verdict), as they become known, in any order.
        Raises:
            ConfigurationError: for a judge that cannot be used as it was named.
            EvaluationError: for a judge that stopped answering. What was judged until then is kept.
        """

    def plan(self, requests: Sequence[JudgeRequest]) -> str | None:
        """What judging would cost, in one line, before it begins; None where it costs nothing."""
        return None

    def spent(self) -> str | None:
        """What judging has cost so far, in one line; None where it costs nothing."""
        return None

    def token_advantages(self, row: PreferenceRow, answer: Answer) -> list[tuple[str, float]] | None:
        """The answer in pieces with what each adds to its score, nats; None for judges that do not score tokens."""
        return None

    def close(self) -> None:  # noqa: B027
        """Free memory and connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A chat model's choice between words.

    Attributes:
        logprobs: of each word that it gave a probability, nats; None where it gave no probabilities.
        word: the word that it wrote; None where it wrote something else.
        text: everything that it wrote, or why there is nothing.
    """

    logprobs: Mapping[str, float] | None
    word: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a chat model wrote.

    Attributes:
        text: the reply; None where there is none.
        problem: why there is none, or what is wrong with it; empty otherwise.
    """

    text: str | None
    problem: str = ""


class ChatModel(ABC):
    """A model that replies to questions; every reply is kept, so that the same question is asked once.

    Attributes:
        identity: which model it is, and everything that can change its replies.
    """

    identity: JudgeIdentity

    @abstractmethod
    def choose(self, questions: Sequence[str], words: Sequence[str]) -> Iterator[tuple[int, Choice]]:
        """Ask for one of a few words, as the first thing in the reply.

        Args:
            questions: each the text of one user turn.
            words: the words to choose from, such as A and B.
        Yields:
            (index of the question, the choice), as they become known, in any order.
        """

    @abstractmethod
    def write(self, questions: Sequence[str], *, max_new_tokens: int) -> Iterator[tuple[int, Reply]]:
        """Ask for a text, decoded greedily.

        Yields:
            (index of the question, the reply), as they become known, in any order.
        """

    def plan(self, questions: Sequence[str], *, max_new_tokens: int | None) -> str | None:
        """What asking would cost, see `Judge.plan`; `max_new_tokens` is None for `choose`."""
        return None

    def spent(self) -> str | None:
        """What asking has cost so far, see `Judge.spent`."""
        return None

    def close(self) -> None:  # noqa: B027
        """Free memory and connections."""
