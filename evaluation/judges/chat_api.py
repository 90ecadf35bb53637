"""The chat completions of an OpenAI-compatible server: one request with its retries, and what went wrong with it.

The standard library's client is enough: a judge takes seconds a request, and how often and how long to wait has to be
decided here anyway.
"""

import json
import logging
import math
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from data.errors import ConfigurationError, EvaluationError

logger = logging.getLogger(__name__)

_TOP_LOGPROBS = 5

_LONGEST_PAUSE_S = 60.0

# What a server asks for with Retry-After; beyond this it is better to stop and say so.
_LONGEST_WISH_S = 300.0

#: Parameters that some servers refuse, and what to do without them.
_OPTIONAL = {
    "max_completion_tokens": None,
    "max_tokens": "max_completion_tokens",
    "top_logprobs": None,
    "logprobs": None,
    "temperature": None,
    "seed": None,
}

_TOO_LONG = (
    "context length",
    "context_length",
    "maximum model length",
    "max_model_len",
    "too long",
    "too many tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Where a model is served.

    Attributes:
        url: address of the API up to `/v1`.
        model: name that the server knows it by.
        key_variable: environment variable that holds the key; no key is sent where it is not set.
        timeout_s: how long one attempt may take, seconds.
        attempts: how often a request is tried.
        seed: sent with every request.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    attempts: int = 6
    seed: int = 0

    @property
    def public_url(self) -> str:
        """The address without user, password and query, which may be secrets."""
        parts = urllib.parse.urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return urllib.parse.urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply, and the most probable ones in its place as (text, probability)."""

    text: str
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A reply.

    Attributes:
        text: None where the question cannot be answered at all (too long).
        problem: why not.
        tokens: with their alternatives, where the server gives them.
        prompt_tokens: tokens read, as the server counts.
        reply_tokens: tokens written.
    """

    text: str | None
    problem: str = ""
    tokens: tuple[Token, ...] = ()
    prompt_tokens: int = 0
    reply_tokens: int = 0


@dataclass(slots=True)
class _Refusal(Exception):
    """An answer with an error status: whether to try again, when, and what the server said."""

    status: int
    message: str
    wish_s: float | None = field(default=None)


class Api:
    """One server, seen by several threads."""

    def __init__(
        self, settings: ApiSettings, *, key: str | None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        """Remember where to ask; nothing is sent yet.

        Args:
            settings: where, and whom.
            key: sent as the bearer token; None for a server that wants none.
            pause: waits between attempts, seconds.
        Raises:
            ConfigurationError: for an address that is not one.
        """
        parts = urllib.parse.urlsplit(settings.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigurationError(
                f"--judge-url: {settings.public_url!r} is not an address; give one such as http://localhost:8000/v1"
            )
        self._settings = settings
        self._key = key
        self._pause = pause
        self._stopped = threading.Event()
        self._refused: set[str] = set()

    def give_up(self) -> None:
        """Let requests that are being tried again fail at their next pause, until `begin`."""
        self._stopped.set()

    def begin(self) -> None:
        """Try requests as often as the settings say."""
        self._stopped.clear()

    def check_model(self) -> None:
        """Ask which models there are, where the server tells, and check that the wanted one is among them.

        Raises:
            ConfigurationError: for a refused key, or a model that is not served.
            EvaluationError: for a server that does not answer.
        """
        try:
            listed = self._try_often("/models", None)
        except _Refusal as refusal:
            if refusal.status in (401, 403):
                raise self._wrong_key(refusal) from refusal
            # Not every server lists its models; asking one of them will tell.
            return
        names = [str(entry.get("id")) for entry in listed.get("data") or [] if isinstance(entry, dict)]
        if names and not any(_same_model(self._settings.model, name) for name in names):
            raise ConfigurationError(
                f"--judge-model: {self._settings.public_url} does not serve {self._settings.model!r}; it serves "
                f"{', '.join(sorted(names)[:10])}"
            )

    def complete(self, question: str, *, max_tokens: int, with_logprobs: bool) -> Completion:
        """One reply to one question.

        Raises:
            ConfigurationError: for a refused key, a model that is not served, or another model's reply.
            EvaluationError: for a server that does not answer, or refuses the request.
        """
        while True:
            wanted: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0, "seed": self._settings.seed}
            if with_logprobs:
                wanted |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
            request = self._without_refused(wanted)
            request["model"] = self._settings.model
            request["messages"] = [{"role": "user", "content": question}]
            try:
                return self._read(self._try_often("/chat/completions", request))
            except _Refusal as refusal:
                if refusal.status in (401, 403):
                    raise self._wrong_key(refusal) from refusal
                if any(sign in refusal.message.lower() for sign in _TOO_LONG):
                    return Completion(text=None, problem=f"too long for the judge: {refusal.message}")
                if refusal.status in (400, 422) and self._leave_out(refusal.message, request):
                    continue
                hint = ""
                if refusal.status == 404:
                    hint = "; check --judge-model, and that --judge-url ends before /chat/completions"
                raise EvaluationError(
                    f"--judge-url: {self._settings.public_url} refuses the request (status {refusal.status}: "
                    f"{refusal.message}){hint}"
                ) from refusal

    def _without_refused(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        request = {}
        for name, value in wanted.items():
            while name in self._refused and (other := _OPTIONAL[name]) is not None:
                name = other  # noqa: PLW2901  (the same value by its other name)
            if name not in self._refused:
                request[name] = value
        return request

    def _leave_out(self, message: str, request: Mapping[str, Any]) -> bool:
        """Find the parameter that the server complains about, and send it no more; whether there was one."""
        named = [name for name in _OPTIONAL if name in request and name in message]
        if not named:
            return False
        # `logprobs` is part of the longer name: the longest that fits is meant, and one goes with the other.
        name = max(named, key=len) if named != ["logprobs"] else "logprobs"
        self._refused |= {"logprobs", "top_logprobs"} if "logprobs" in name else {name}
        logger.info("the judge's server does not take %s; going on without it", name)
        return True

    def _read(self, reply: Mapping[str, Any]) -> Completion:
        served = reply.get("model")
        if isinstance(served, str) and not _same_model(self._settings.model, served):
            raise ConfigurationError(
                f"--judge-model: asked {self._settings.public_url} for {self._settings.model!r}, and {served!r} "
                "answered; name the model that is served, since verdicts of another judge would go under its name"
            )
        try:
            choice = reply["choices"][0]
            text = choice["message"].get("content") or ""
            usage = reply.get("usage") or {}
            content = (choice.get("logprobs") or {}).get("content") or []
            tokens = tuple(
                Token(
                    entry["token"],
                    tuple(
                        (top["token"], math.exp(top["logprob"])) for top in entry.get("top_logprobs") or ()
                    ),
                )
                for entry in content
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"--judge-url: {self._settings.public_url} answers, but not with a chat completion "
                f"({str(reply)[:120]}); is it an OpenAI-compatible API?"
            ) from error
        return Completion(
            text=text,
            tokens=tuple(token for token in tokens if token.alternatives),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            reply_tokens=int(usage.get("completion_tokens") or 0),
        )

    def _try_often(self, path: str, request: Mapping[str, Any] | None) -> dict[str, Any]:
        """Send a request until it is answered.

        Raises:
            _Refusal: for an error that trying again would not change.
            EvaluationError: when the attempts are used up.
        """
        reason = ""
        for attempt in range(1, self._settings.attempts + 1):
            wish_s = None
            try:
                return self._send(path, request)
            except _Refusal as refusal:
                if refusal.status not in (408, 409, 429) and refusal.status < 500:
                    raise
                reason, wish_s = f"status {refusal.status}: {refusal.message}", refusal.wish_s
            except (OSError, HTTPException, ValueError) as error:
                cause = getattr(error, "reason", error)
                reason = str(getattr(cause, "strerror", None) or cause or type(error).__name__)
            if self._stopped.is_set() or attempt == self._settings.attempts:
                break
            if wish_s is not None and wish_s > _LONGEST_WISH_S:
                reason += f", and it asks to wait {wish_s:,.0f} s"
                break
            # Full jitter: clients that were refused together do not come back together.
            wait_s = min(_LONGEST_PAUSE_S, 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            if attempt == 1:
                logger.info("the judge's server: %s; trying again", reason)
            self._pause(max(wait_s, wish_s or 0.0))
        what = "is limiting the rate" if reason.startswith("status 429") else "does not answer"
        raise EvaluationError(
            f"--judge-url: {self._settings.public_url} {what} ({reason}; {attempt} attempts); start the server, check "
            "the address, lower --judge-concurrency or wait"
        )

    def _send(self, path: str, request: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        parts = urllib.parse.urlsplit(self._settings.url)
        url = urllib.parse.urlunsplit(parts._replace(path=parts.path.rstrip("/") + path))
        body = None if request is None else json.dumps(request).encode()
        question = urllib.request.Request(url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(question, timeout=self._settings.timeout_s) as response:
                reply = json.load(response)
        except urllib.error.HTTPError as error:
            raise _Refusal(error.code, self._message(error), _wish(error)) from None
        if not isinstance(reply, dict):
            raise ValueError(f"a JSON {type(reply).__name__} instead of an object")
        return reply

    def _message(self, error: urllib.error.HTTPError) -> str:
        """What the server says is wrong, in one line, without the key that some repeat."""
        try:
            body = error.read().decode("utf-8", "replace")
        except (OSError, HTTPException):
            body = ""
        try:
            said = json.loads(body)
            said = said.get("error", said) if isinstance(said, dict) else said
            said = (said.get("message") or said) if isinstance(said, dict) else said
        except ValueError:
            said = body
        text = " ".join(str(said).split())[:300] or str(error.reason)
        return text if self._key is None else text.replace(self._key, "***")

    def _wrong_key(self, refusal: _Refusal) -> ConfigurationError:
        variable = self._settings.key_variable
        state = "is not set" if self._key is None else "holds a key that it does not accept"
        return ConfigurationError(
            f"--judge-url: {self._settings.public_url} refuses access (status {refusal.status}: {refusal.message}); "
            f"the environment variable {variable} {state}; set it, or name another with --judge-key-variable"
        )


def _wish(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server asks to wait; dates are left alone."""
    try:
        return float(error.headers.get("Retry-After") or "")
    except ValueError:
        return None


def _same_model(asked: str, served: str) -> bool:
    """Whether a server's name is that of the model asked for: the same, a dated snapshot, or with its owner."""
    asked, served = (name.rstrip("/").lower() for name in (asked, served))
    return (
        served == asked
        or served.startswith(f"{asked}-20")
        or served.rpartition("/")[2] == asked.rpartition("/")[2]
    )
