"""Loading a causal language model with transformers, and refusing what is not a whole one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from data.errors import ScoringError
from teacher_scoring.engines.checkpoint import LOAD_FAILURES, load_failure, one_line
from teacher_scoring.engines.contract import EngineOptions, parse_engine_args

__all__ = ["load_model"]


def load_model(options: EngineOptions) -> PreTrainedModel:
    """Load a causal language model onto its device, its adapter on top.

    Raises:
        ConfigurationError: an engine argument that transformers does not know.
        ScoringError: a model or adapter that does not load, or loads with weights missing.
    """
    arguments = {"dtype": options.dtype, **parse_engine_args(options.engine_args)}
    source = {"trust_remote_code": options.trust_remote_code}
    with _quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(options.model, **source)
            text: Any = config.get_text_config()
            if not 0 <= (text.pad_token_id or 0) < text.vocab_size:
                # A padding token without an embedding; no answer depends on what is at padded places.
                text.pad_token_id = None
            if getattr(text, "attn_logit_softcapping", None):
                # The fused kernels leave the soft cap out without a word.
                arguments.setdefault("attn_implementation", "eager")
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                options.model, config=config, output_loading_info=True, **source, **arguments
            )
        except LOAD_FAILURES as error:
            raise load_failure(options, "transformers", error) from error
        model, report = loaded
        if report["missing_keys"]:
            names = sorted(report["missing_keys"])
            raise ScoringError(
                f"{options.model}: {len(names)} weights are missing, the first {names[0]}; transformers "
                "would draw them at random. Save the checkpoint again with all of them"
            )
        if options.adapter is not None:
            model = _with_adapter(model, options.adapter, options.model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _with_adapter(model: PreTrainedModel, adapter: str, label: str) -> Any:
    from peft import PeftModel  # noqa: PLC0415  (half a second, and only adapters need it)

    try:
        # The adapter's layers replace the model's own in place; peft's wrapper around it is not needed.
        return PeftModel.from_pretrained(model, adapter).base_model.model
    except LOAD_FAILURES as error:
        raise ScoringError(f"{adapter}: does not fit {label}: {one_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading without transformers' progress bars and reports."""
    had_bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
