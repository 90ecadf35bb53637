"""`signals translate`: its options, and what they lead to."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.errors import ConfigurationError
from data.model_identity import resolve_model
from data.options.fields import check_options, option
from data.storage.transfer import open_signals
from data.translation.dataset import TranslationResult, translate_dataset

__all__ = ["SignalsTranslateOptions", "translate_signals"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsTranslateOptions:
    """Put a signal dataset on another tokenizer's ids. No model and no GPU: bytes of tokens are aligned."""

    signals: str = option(
        help="folder, name in the store, or address of a signal dataset with conversations", positional=True
    )
    tokenizer: str = option(help="the student, or a folder with its tokenizer: a local folder or a hub name")
    out: str | None = option(None, help="folder of the translated dataset [one in the store]")
    workers: int = option(
        1, help="processes that translate shards side by side", minimum=1, determining=False
    )
    max_length: int | None = option(
        None, help="leave out pairs with a longer response with its prompt, student tokens", minimum=2
    )
    template_arg: tuple[str, ...] = option(
        (), help="KEY=VALUE for the student's chat template, repeatable; values may be JSON"
    )
    thinking: str = option(
        "auto", help="what becomes of thoughts, as for score-teacher", choices=("auto", "keep", "none")
    )
    trust_remote_code: bool = option(False, help="run code that comes with the tokenizer")

    def __post_init__(self) -> None:
        check_options(self)
        for pair in self.template_arg:
            if not pair.partition("=")[0] or "=" not in pair:
                raise ConfigurationError(f"--template-arg: {pair!r} is not KEY=VALUE")


def translate_signals(
    options: SignalsTranslateOptions, load_tokenizer: Callable[[Path], Any]
) -> TranslationResult:
    """Translate a dataset as the options say.

    Args:
        options: what to translate, and for whom.
        load_tokenizer: loads a tokenizer of `transformers` from a folder; picklable.
    Raises:
        ConfigurationError: a tokenizer that is not there.
        DataError, ShardError: as `translate_dataset`.
    """
    folder = Path(options.tokenizer)
    if not (folder / "tokenizer.json").is_file():
        folder, _ = resolve_model(options.tokenizer, option="--tokenizer", need_weights=False)
    return translate_dataset(
        open_signals(options.signals),
        folder,
        load_tokenizer=load_tokenizer,
        out=options.out,
        workers=options.workers,
        max_length=options.max_length,
        template_args={
            name: _value(text) for name, _, text in (pair.partition("=") for pair in options.template_arg)
        },
        thinking=options.thinking,
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
