"""`adpa chat`: what one or several checkpoints answer to what one types, side by side.

Every model has a separate conversation: it sees its own earlier answers, not those of the others. All models stay in
memory. On a terminal answers are in columns where they fit; elsewhere one after another, for pipes and scripts.
"""

import contextlib
import functools
import logging
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.errors import ConfigurationError, DataError
from data.preferences.messages import Message, PreferenceRow
from data.tokens.encoder import PairEncoder
from evaluation.answers import Answer, GenerationSettings
from evaluation.language_model import LanguageModel, ModelOpener, model_labels
from evaluation.options import ChatOptions

logger = logging.getLogger(__name__)

_HELP = "/new starts a new conversation, /quit ends (so does the end of the input)"

_NARROWEST_COLUMN = 28


@dataclass(slots=True)
class _Talker:
    """A model with its conversation."""

    label: str
    model: LanguageModel
    encoder: PairEncoder
    turns: list[Message] = field(default_factory=list)

    def answer(self, text: str, system: str | None, settings: GenerationSettings, number: int) -> Answer:
        self.turns.append(Message("user", text))
        encoded = self._fitting_prompt(system, self.model.max_length - settings.max_new_tokens)
        [drawn] = self.model.sample(
            [encoded],
            [settings.seed + number],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop_token_ids=sorted({self.encoder.terminator_id, self.model.tokenizer.eos_token_id} - {None}),
        )
        if isinstance(drawn, str):
            return Answer(f"(no answer: {drawn})", 0, "stop")
        ids = drawn.response_ids.tolist()
        said = self.model.tokenizer.decode(ids, skip_special_tokens=True).strip()
        self.turns.append(Message("assistant", said))
        return Answer(said, len(ids), drawn.finish_reason)

    def _fitting_prompt(self, system: str | None, room: int) -> np.ndarray:
        """The conversation's token ids; the oldest turns are forgotten where it has no room for all."""
        first = () if system is None else (Message("system", system),)
        while True:
            row = PreferenceRow("chat", (*first, *self.turns), None, None, "the conversation")
            encoded = self.encoder.encode(row)
            if encoded is not None and len(encoded.prompt_ids) <= room:
                return encoded.prompt_ids
            if len(self.turns) < 3:
                length = 0 if encoded is None else len(encoded.prompt_ids)
                self.turns.clear()
                raise DataError(
                    f"{self.label}: the message has {length:,} tokens, there is room for {max(room, 0):,}; lower "
                    "--max-new-tokens, or write less"
                )
            del self.turns[:2]
            logger.info("%s: the conversation is too long; its oldest turns are forgotten", self.label)


def run_chat(
    options: ChatOptions,
    open_model: ModelOpener,
    *,
    lines: Iterable[str],
    write: Callable[[str], None],
    columns: int | None,
) -> int:
    """Answer line by line, until the lines end.

    Args:
        options: the command's.
        open_model: finds checkpoints and holds them in an engine.
        lines: what is typed.
        write: shows one text.
        columns: width of the terminal, characters; None for plain output.
    Returns:
        How many lines were answered.
    Raises:
        AdpaError: for a checkpoint that cannot be used. A line that cannot be answered is said to be so, and the next
            one is read.
    """
    labels = model_labels(options.model)
    settings = options.generation
    with contextlib.ExitStack() as stack:
        talkers = []
        for name in options.model:
            model = stack.enter_context(contextlib.closing(open_model(name, option="--model")))
            if settings.max_new_tokens >= model.max_length:
                raise ConfigurationError(
                    f"--max-new-tokens: {settings.max_new_tokens:,} leaves no room for a prompt within the "
                    f"{model.max_length:,} positions of {labels[name]}"
                )
            talkers.append(
                _Talker(labels[name], model, PairEncoder(model.tokenizer, thinking=settings.thinking))
            )
            if talkers[-1].encoder.template_hash is None:
                logger.warning("%s has no chat template: it continues your text", labels[name])
        if columns is not None:
            write(f"{', '.join(talker.label for talker in talkers)}: {_HELP}")
        number = 0
        for line in _messages(lines):
            if line == "/quit":
                break
            if line == "/new" or options.single_turn:
                for talker in talkers:
                    talker.turns.clear()
            if line == "/new":
                continue
            answers = []
            for talker in talkers:
                try:
                    answers.append(talker.answer(line, options.system, settings, number))
                except DataError as error:
                    answers.append(Answer(f"({error})", 0, "stop"))
            number += 1
            write(_shown(line, talkers, answers, columns))
    return number


def chat_here(options: ChatOptions, open_model: ModelOpener) -> None:
    """Talk on standard input and output: at a terminal in columns, elsewhere as plain text.

    Args:
        options: the command's.
        open_model: finds checkpoints and holds them in an engine.
    Raises:
        AdpaError: for a checkpoint that cannot be used.
    """
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    run_chat(
        options,
        open_model,
        lines=_typed_lines() if on_terminal else sys.stdin,
        write=functools.partial(print, flush=True),
        columns=shutil.get_terminal_size().columns if on_terminal else None,
    )


def _typed_lines() -> Iterator[str]:
    """What is typed at the terminal, line by line, with the arrow keys for earlier lines where readline is there."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415  (changes what `input` does, so only here)
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _messages(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if text := line.strip():
            yield text


def _shown(line: str, talkers: Sequence[_Talker], answers: Sequence[Answer], columns: int | None) -> str:
    texts = [
        (answer.text or "(empty)") + (" … (cut at the limit)" if answer.is_cut else "") for answer in answers
    ]
    labels = [talker.label for talker in talkers]
    if columns is not None:
        return side_by_side(labels, texts, columns)
    said = [f"> {line}"]
    said += [
        text if len(texts) == 1 else f"{label}: {text}" for label, text in zip(labels, texts, strict=True)
    ]
    return "\n".join([*said, ""])


def side_by_side(labels: Sequence[str], texts: Sequence[str], columns: int) -> str:
    """Texts in columns under their labels; one below another where the columns would be too narrow.

    Args:
        labels: headings.
        texts: one for each heading.
        columns: width to fill, characters.
    """
    width = (columns - 3 * (len(texts) - 1)) // len(texts)
    if len(texts) == 1 or width < _NARROWEST_COLUMN:
        return "\n".join(
            f"{label}\n{textwrap.indent(_wrapped(text, columns - 2), '  ')}\n"
            for label, text in zip(labels, texts, strict=True)
        )
    blocks = [
        [label[:width], "─" * width, *_wrapped(text, width).splitlines()]
        for label, text in zip(labels, texts, strict=True)
    ]
    height = max(map(len, blocks))
    rows = zip(*(block + [""] * (height - len(block)) for block in blocks), strict=True)
    return "\n".join(" │ ".join(cell.ljust(width) for cell in row).rstrip() for row in rows) + "\n"


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.fill(line, max(width, 10)) for line in text.splitlines()) or text
