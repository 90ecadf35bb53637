"""A chat model as a judge of two answers: the wording of the question, and how a reply becomes a preference."""

import math
import re
from collections.abc import Iterator, Sequence

from evaluation.answers import prompt_text
from evaluation.judges.contract import BOTH_ORDERS, ChatModel, Choice, Judge, JudgeRequest, Reply, Verdict
from evaluation.judgments import JudgeIdentity
from evaluation.line_cache import content_key

#: How the judge gives its verdict: one letter at once, or after a text that weighs both answers.
STYLES = ("letter", "reasoned")

_WORDS = ("A", "B")

_TASK = """\
Two assistants have answered the same request. Decide which answer the person who asked would rather have: the one \
that does what was asked, is correct, and is clear, with nothing missing and nothing superfluous. Do not prefer an \
answer for its length, for its place, or for how sure of itself it sounds.

[Request]
{prompt}
[End of request]

[Answer A]
{first}
[End of answer A]

[Answer B]
{second}
[End of answer B]

"""

_ENDINGS = {
    "letter": "Which answer is better? Reply with one letter and nothing else: A or B.",
    "reasoned": (
        "Weigh both answers in a few sentences. Then give your verdict on a last line of its own: [[A]] if answer A "
        "is better, [[B]] if answer B is better, [[C]] if they are equally good."
    ),
}

_REASONED_TOKENS = 768

_VERDICT = re.compile(r"\[\[([ABC])\]\]")

# Less than this on both letters together, and what the letters say of each other means nothing.
_LEAST_MASS = 0.05


class PairwiseJudge(Judge):
    """A chat model that is asked which of two answers is better."""

    orders = BOTH_ORDERS

    def __init__(self, model: ChatModel, *, style: str = "letter") -> None:
        """Make a judge of a chat model.

        Args:
            model: who is asked.
            style: one of `STYLES`.
        """
        self._model = model
        self._style = style
        self._wording = _TASK + _ENDINGS[style]
        details = {**model.identity.details, "style": style, "wording": content_key(self._wording)}
        self.identity = JudgeIdentity(kind=model.identity.kind, name=model.identity.name, details=details)

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Verdict]]:
        """See `Judge.judge`."""
        questions = [self.question(request) for request in requests]
        if self._style == "letter":
            for index, choice in self._model.choose(questions, _WORDS):
                yield index, _verdict_of_choice(choice)
        else:
            for index, reply in self._model.write(questions, max_new_tokens=_REASONED_TOKENS):
                yield index, _verdict_of_reply(reply)

    def question(self, request: JudgeRequest) -> str:
        """What the judge is asked about two answers."""
        # Not str.format on one after the other: answers may hold braces.
        return self._wording.format(
            prompt=prompt_text(request.row.prompt),
            first=request.first.text or "(empty)",
            second=request.second.text or "(empty)",
        )

    def plan(self, requests: Sequence[JudgeRequest]) -> str | None:
        """See `Judge.plan`."""
        limit = _REASONED_TOKENS if self._style == "reasoned" else None
        return self._model.plan([self.question(request) for request in requests], max_new_tokens=limit)

    def spent(self) -> str | None:
        """See `Judge.spent`."""
        return self._model.spent()

    def close(self) -> None:
        """See `Judge.close`."""
        self._model.close()


def choice_preference(choice: Choice, first: str, second: str) -> float | None:
    """Preference for `first` over `second`, 0 to 1; None for a choice that says neither.

    With probabilities it is P(first) / (P(first) + P(second)), a word without one counting as 0; words that hold
    less than 5% of the mass together say nothing. Without, it is 1 or 0 by the word that was written.
    """
    if choice.logprobs is None:
        return None if choice.word not in (first, second) else float(choice.word == first)
    one, other = (math.exp(choice.logprobs.get(word, -math.inf)) for word in (first, second))
    return one / (one + other) if one + other >= _LEAST_MASS else None


def _verdict_of_choice(choice: Choice) -> Verdict:
    return Verdict(preference=choice_preference(choice, *_WORDS), text=choice.text, logprobs=choice.logprobs)


def _verdict_of_reply(reply: Reply) -> Verdict:
    if reply.text is None:
        return Verdict(preference=None, text=reply.problem)
    verdicts = set(_VERDICT.findall(reply.text))
    # Two different verdicts in one reply are none.
    preference = {"A": 1.0, "B": 0.0, "C": 0.5}[verdicts.pop()] if len(verdicts) == 1 else None
    return Verdict(preference=preference, text=reply.text)
