"""Scores checkpoints with vLLM in a separate process: `python score_with_vllm.py QUESTIONS.npz`.

It is separate because vLLM's backend for models that it has no code for alters transformers' classes for
good. It is not a test, but what the exactness tests run.

With ADPA_TRITON naming a folder that holds the triton package, vLLM runs the model runner that it has for GPUs, its
kernels interpreted: slow, and the same arithmetic.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from data.errors import AdpaError
from teacher_scoring.engines.contract import EngineOptions, TokenSequence
from teacher_scoring.engines.open import open_engine


def score(folder: Path) -> None:
    """Answer the questions in a folder: `questions.npz` and `options.json` -> `answers.npz` or `error.txt`."""
    questions = np.load(folder / "questions.npz")
    settings = json.loads((folder / "options.json").read_text())
    top_k, num = settings.pop("top_k"), settings.pop("num_sequences")
    sequences = [TokenSequence(questions[f"prompt{i}"], questions[f"response{i}"]) for i in range(num)]
    answers = {}
    try:
        engine = open_engine("vllm", EngineOptions(**settings))
        for i, scores in enumerate(engine.score_support(sequences, top_k)):
            answers |= {f"ids{i}": scores.topk_ids, f"support{i}": scores.logprobs}
            answers[f"support_tokens{i}"] = scores.token_logprobs
        given = [questions[f"given{i}"] for i in range(num)]
        for i, scores in enumerate(engine.score_given(sequences, given)):
            answers |= {f"given{i}": scores.logprobs, f"given_tokens{i}": scores.token_logprobs}
        # Which of the two ways to score this was.
        answers["way"] = np.array(type(engine.backend._requests).__name__)
        engine.close()
    except AdpaError as error:
        (folder / "error.txt").write_text(str(error))
    else:
        np.savez(folder / "answers.npz", **answers)


class _InterpretedDriver:
    """Replaces Triton's CPU driver, which PyPI's build lacks; vLLM only asks whether there is one."""

    @staticmethod
    def is_active() -> bool:
        return True


def interpret_gpu_kernels(folder: str) -> None:
    """Make vLLM take its V2 model runner; before anything imports vLLM."""
    os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")
    sys.path.append(folder)
    from triton.backends import Backend, backends

    backends["cpu"] = Backend(compiler=None, driver=_InterpretedDriver)


if __name__ == "__main__":
    if "ADPA_TRITON" in os.environ:
        interpret_gpu_kernels(os.environ["ADPA_TRITON"])
    for argument in sys.argv[1:]:
        score(Path(argument))
