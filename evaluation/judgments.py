"""Judgments as they are stored: one JSON line each, after a manifest that says what determined them.

A judgment is kept whole (verdict, log-probabilities, facts of both answers), so that every figure can be computed again
without asking a judge. Lines are appended as they come; a run that was killed continues after the last whole line.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from data.errors import ConfigurationError, EvaluationError
from data.files import make_folder, write_atomic
from data.signals.fingerprint import explain_differences, fingerprint

Order = Literal["model_first", "baseline_first", "separate"]

JudgmentKey = tuple[str, str, str, str]

MANIFEST_FILE = "manifest.json"
JUDGMENTS_FILE = "judgments.jsonl"
JUDGE_CHECK_FILE = "judge_check.jsonl"

_FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeIdentity:
    """Which judge gave the verdicts, and everything that can change them.

    Attributes:
        kind: `endpoint`, `local-model`, `reward-model`, `implicit-reward` or `function`.
        name: the model or function, as the user named it.
        details: what else determines a verdict: hash of weights, hash of the prompt, temperature, served model's
            name. Never a key or a password.
    """

    kind: str
    name: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Short form for tables and judgment lines."""
        return f"{self.kind}:{self.name}"

    def as_dict(self) -> dict[str, Any]:
        """The identity as it goes into manifests and results."""
        return {"kind": self.kind, "name": self.name, "details": dict(self.details)}


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFacts:
    """What the figures need to know of an answer; the text is stored with the answers.

    Attributes:
        chars: length, characters.
        cut: whether it was cut at the limit of new tokens; None where that is unknown.
        refused: whether it counts as a refusal (`evaluation.metrics.refusals`); None where that is unknown.
    """

    chars: int
    cut: bool | None = None
    refused: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgment:
    """One verdict on one prompt's two answers in one order.

    Attributes:
        prompt_id: which prompt.
        instruction: its text, for people and for joining with other files.
        model: name of the model whose win rate is wanted.
        baseline: name of what it is compared with.
        order: which answer the judge saw first; `separate` for a judge that scores each answer alone.
        preference: for the model's answer, 0 to 1, whatever the order; None for a malformed verdict.
        judge: `str` of the judge's identity.
        verdict: what the judge wrote; empty for a judge that gives numbers only.
        logprobs: log-probabilities of the verdict tokens, nats, where the judge gave them.
        scores: the judge's scores of the model's and the baseline's answer, where it scores them separately.
        identical: whether the answers are equal, character for character; such pairs are ties and are not judged.
        model_answer: facts of the model's answer.
        baseline_answer: facts of the baseline's.
    """

    prompt_id: str
    instruction: str
    model: str
    baseline: str
    order: Order
    preference: float | None
    judge: str
    model_answer: AnswerFacts
    baseline_answer: AnswerFacts
    verdict: str = ""
    logprobs: Mapping[str, float] | None = None
    scores: tuple[float, float] | None = None
    identical: bool = False

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise ValueError(f"order {self.order!r} is not one of {', '.join(get_args(Order))}")
        if self.preference is not None and not 0 <= self.preference <= 1:
            raise ValueError(f"preference {self.preference} is not between 0 and 1")

    @property
    def key(self) -> JudgmentKey:
        """What no second judgment may share: model, baseline, prompt, order."""
        return (self.model, self.baseline, self.prompt_id, self.order)

    def as_dict(self) -> dict[str, Any]:
        """The judgment as one JSON object; fields without content are left out."""
        values = dataclasses.asdict(self)
        optional = ("verdict", "logprobs", "scores", "identical")
        return {name: value for name, value in values.items() if name not in optional or value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Judgment":
        """The inverse of `as_dict`; fields that a later version may add are ignored.

        Raises:
            KeyError, TypeError, ValueError: for an object that is not a judgment.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        arguments = {name: value for name, value in values.items() if name in known}
        for name in ("model_answer", "baseline_answer"):
            arguments[name] = AnswerFacts(**arguments[name])
        if arguments.get("scores") is not None:
            model_score, baseline_score = arguments["scores"]
            arguments["scores"] = (float(model_score), float(baseline_score))
        return cls(**arguments)


def claim_folder(folder: Path, request: Mapping[str, Any]) -> None:
    """Make an evaluation's folder, or check that it is the one of this request.

    Further models may be added to a folder; everything else has to be the same.

    Args:
        folder: where the judgments go.
        request: what determines them, JSON values: `judge`, `data`, `sampling`, versions, and under `models` each
            model's name with its identity.
    Raises:
        ConfigurationError: when the folder holds an evaluation with another request; the fields are named.
        ShardError: when the folder or manifest cannot be written.
    """
    found = read_request(folder) if (folder / MANIFEST_FILE).exists() else None
    models = dict(request.get("models", {}))
    if found is not None:
        earlier = found.get("models", {})
        common = {name: identity for name, identity in earlier.items() if name in models}
        difference = explain_differences(
            {**found, "models": common}, {**request, "models": {name: models[name] for name in common}}
        )
        if difference:
            raise ConfigurationError(
                f"{folder} holds an evaluation with another request ({difference}); choose another output folder"
            )
        models = {**earlier, **models}
        if models == earlier:
            return
    make_folder(folder)
    whole = {**request, "models": models}
    manifest = {"format_version": _FORMAT_VERSION, "fingerprint": fingerprint(whole), "request": whole}
    write_atomic(folder / MANIFEST_FILE, json.dumps(manifest, indent=2) + "\n")


def read_request(folder: Path) -> dict[str, Any]:
    """What determined the judgments in a folder, as `claim_folder` was given it.

    Raises:
        EvaluationError: for a folder without a manifest, or with one that cannot be read.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_bytes())
        version, request = manifest["format_version"], manifest["request"]
    except OSError as error:
        raise EvaluationError(
            f"{folder} is not the folder of an evaluation: {MANIFEST_FILE}: {error.strerror}; "
            "name a folder that `adpa evaluate` has written"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} is not the manifest of an evaluation; name a folder that `adpa evaluate` has written"
        ) from error
    if version != _FORMAT_VERSION:
        raise EvaluationError(
            f"{path}: format version {version}, this version of adpa reads {_FORMAT_VERSION}; update adpa"
        )
    return request


def read_judgments(path: Path) -> list[Judgment]:
    """All judgments of a file in its order, each key once (the first line counts).

    A last line that a killed run left half written is ignored.

    Raises:
        EvaluationError: for a file that cannot be read, or a line that is not a judgment.
    """
    judgments: dict[JudgmentKey, Judgment] = {}
    for judgment in _read_lines(path):
        judgments.setdefault(judgment.key, judgment)
    return list(judgments.values())


def _read_lines(path: Path) -> Iterator[Judgment]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from error
    lines = content.split(b"\n")
    # What follows the last line break is empty, or half a line.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield Judgment.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"{path}: line {number} is not a judgment ({error}); delete that line to have it judged again"
            ) from error


class JudgmentFile:
    """A judgment file open for appending; what is already in it need not be judged again.

    Use it as a context manager. One process at a time may write to it.
    """

    def __init__(self, path: Path) -> None:
        """Open a file, or make an empty one.

        Raises:
            EvaluationError: for a file that is there and cannot be read or written.
        """
        self.path = path
        self.judgments: dict[JudgmentKey, Judgment] = {}
        if path.exists():
            self.judgments = {judgment.key: judgment for judgment in read_judgments(path)}
        try:
            self._file: BinaryIO = path.open("ab")
            _cut_half_line(path, self._file)
        except OSError as error:
            raise EvaluationError(f"{path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> "JudgmentFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __contains__(self, key: JudgmentKey) -> bool:
        """Whether the pair was judged, malformed verdicts included."""
        return key in self.judgments

    def append(self, judgments: Iterable[Judgment]) -> None:
        """Write judgments; they survive the process from here on. Keys that are already there are skipped.

        Raises:
            EvaluationError: when the system refuses (disk full).
        """
        try:
            for judgment in judgments:
                if judgment.key in self.judgments:
                    continue
                line = json.dumps(judgment.as_dict(), ensure_ascii=False, allow_nan=False)
                self._file.write(line.encode() + b"\n")
                self.judgments[judgment.key] = judgment
            self._file.flush()
        except OSError as error:
            raise EvaluationError(
                f"{self.path}: cannot be written: {error.strerror}; fix this and rerun the command"
            ) from error

    def close(self) -> None:
        """Bring everything to the disk and close the file."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def _cut_half_line(path: Path, file: BinaryIO) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        file.truncate(whole)
