"""`signals translate`: its options, and the translation that they ask for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.model_identity import resolve_model
from data.options.command_line import command_line
from data.options.fields import option
from data.storage.store import local_folder
from data.storage.transfer import open_signals
from data.tokens.options import parse_template_args, template_arg_option, thinking_option
from data.translation.dataset import TranslationResult, translate_dataset


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsTranslateOptions:
    """Put a signal dataset on another tokenizer's ids. No model and no GPU: bytes of tokens are aligned."""

    signals: str = option(
        help="folder, name in the store, or address of a signal dataset with conversations",
        positional=True,
        group="data",
    )
    tokenizer: str = option(
        help="the student, or a folder with its tokenizer: a local folder or a hub name", group="model"
    )
    out: str | None = option(
        None,
        folder=True,
        help="folder of the translated dataset [found or made in the store, by what determines it]",
        group="saving",
        aliases=("-o", "--output"),
    )
    rollouts: str | None = option(
        None,
        help="for signals on a student's own answers: what sample-student wrote; its token ids are kept",
        group="data",
    )
    max_length: int | None = option(
        None,
        help="leave out pairs with a longer response with its prompt, student tokens [no limit]",
        minimum=2,
        group="data",
    )
    template_arg: tuple[str, ...] = template_arg_option()
    thinking: str = thinking_option()
    workers: int = option(
        1,
        help="processes that translate shards side by side",
        minimum=1,
        determining=False,
        group="memory",
    )
    trust_remote_code: bool = option(
        False, help="run code that comes with the tokenizer", group="model", expert=True
    )


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
        rollouts=None if options.rollouts is None else local_folder(options.rollouts),
        workers=options.workers,
        max_length=options.max_length,
        template_args=parse_template_args(options.template_arg),
        thinking=options.thinking,
        command=command_line("signals translate", options, determining=True, without=("out",)),
    )
