"""A Python function as a judge."""

import hashlib
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

from data.errors import ConfigurationError, EvaluationError
from data.options.addresses import load_address
from evaluation.answers import prompt_messages
from evaluation.judges.contract import BOTH_ORDERS, Judge, JudgeRequest, Verdict
from evaluation.judgments import JudgeIdentity


class FunctionJudge(Judge):
    """A Python function as a judge.

    The function takes `(messages, first, second)`: the prompt as a list of `{"role": ..., "content": ...}` and both
    answers as text. It returns the preference for the first answer, 0 to 1 (or True and False), or None for no
    verdict. Its verdicts are not kept outside the output folder: a function may read what its source does not show.
    """

    orders = BOTH_ORDERS

    def __init__(self, name: str) -> None:
        """Import the function.

        Args:
            name: `module:function`; the module may be a file in the current folder.
        Raises:
            ConfigurationError: for a name that leads to no function.
        """
        self._function = load_address(name, "--judge-function")
        if not callable(self._function):
            kind = type(self._function).__name__
            raise ConfigurationError(f"--judge-function: {name} is a {kind}, not a function")
        try:
            source = inspect.getsource(inspect.getmodule(self._function) or self._function)
        except (OSError, TypeError):
            source = ""
        self._name = name
        details = {"source_sha256": hashlib.sha256(source.encode()).hexdigest() if source else None}
        self.identity = JudgeIdentity(kind="function", name=name, details=details)

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Verdict]]:
        """See `Judge.judge`.

        Raises:
            EvaluationError: where the function raises, or returns something else than a preference.
        """
        for index, request in enumerate(requests):
            messages = prompt_messages(request.row.prompt)
            try:
                said = self._function(messages, request.first.text, request.second.text)
            except Exception as error:
                # The user's code may raise anything; the cause keeps its traceback.
                raise EvaluationError(
                    f"--judge-function: {self._name} raised {type(error).__name__}: {error} "
                    f"(prompt {request.row.pair_id})"
                ) from error
            yield index, Verdict(preference=self._preference(said, request))

    def _preference(self, said: Any, request: JudgeRequest) -> float | None:
        if said is None:
            return None
        try:
            preference = float(said)
        except (TypeError, ValueError):
            preference = math.nan
        if not 0 <= preference <= 1:
            raise EvaluationError(
                f"--judge-function: {self._name} returned {said!r} for prompt {request.row.pair_id}; it has to return "
                "the preference for the first answer, from 0 to 1, or None for no verdict"
            )
        return preference
