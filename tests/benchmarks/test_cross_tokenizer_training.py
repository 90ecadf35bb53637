"""The training comparison across tokenizers: its pairs, its figures, and all of it on tiny random models."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from benchmarks.cross_tokenizer.held_out import HELD_OUT
from benchmarks.cross_tokenizer.making import Making
from benchmarks.cross_tokenizer.measures import Measured, differences, measure, table
from benchmarks.cross_tokenizer.plan import Plan
from benchmarks.cross_tokenizer.preferences import matched_pair, matched_pairs
from benchmarks.cross_tokenizer.training import write_tables
from benchmarks.real_text.worlds.friendly import FRIENDLY
from benchmarks.real_text.worlds.pairs import Answer

_PROMPT = FRIENDLY.prompts(0, 1)[0]

#: Rewards 0.75 (one warm word), 0.625 (none) and 0.5 (a cold one), finished; 43, 41 and 40 bytes.
_WARM, _PLAIN, _COLD = (
    "You can write a lovely note to them tonight.",
    "You can write a little note to them today.",
    "You can write an angry note to them today.",
)


def _answers(*texts: str, finished: bool = True) -> list[Answer]:
    return [Answer(text, finished, 10, 1.0) for text in texts]


def test_matched_pair_takes_the_answers_furthest_apart_in_reward() -> None:
    found = matched_pair(FRIENDLY, _PROMPT, _answers(_PLAIN, _WARM, _COLD))
    assert found == (_WARM, _COLD)


def test_matched_pair_refuses_answers_of_different_lengths() -> None:
    longer = _COLD + " And then you can go for a walk."
    assert matched_pair(FRIENDLY, _PROMPT, _answers(_WARM, longer)) is None
    assert matched_pair(FRIENDLY, _PROMPT, _answers(_WARM, longer, _PLAIN)) == (_WARM, _PLAIN)


def test_matched_pair_uses_finished_answers_only() -> None:
    answers = _answers(_WARM) + _answers(_COLD, finished=False)
    assert matched_pair(FRIENDLY, _PROMPT, answers) is None


def test_matched_pair_needs_a_difference_of_rewards() -> None:
    assert matched_pair(FRIENDLY, _PROMPT, _answers(_PLAIN, _PLAIN.replace("today", "later"))) is None


def test_matched_pairs_share_no_answer() -> None:
    colder = _COLD.replace("today", "tonight")
    found = list(matched_pairs(FRIENDLY, _PROMPT, _answers(_PLAIN, _WARM, _COLD, colder)))
    assert len(found) == 2
    assert len({text for pair in found for text in pair}) == 4


def test_held_out_prompts_are_about_what_no_other_prompt_is_about() -> None:
    held_out = {prompt.text for prompt in HELD_OUT.prompts(0, 1144)}
    assert held_out.isdisjoint(prompt.text for prompt in FRIENDLY.prompts(0, 1144))


def _measured(chosen: list[float], rejected: list[float]) -> Measured:
    sizes = np.array([10, 30])
    return Measured(
        parameters=2_000_000,
        chosen=np.array(chosen),
        rejected=np.array(rejected),
        chosen_bytes=sizes,
        rejected_bytes=sizes + 10,
        prompts=np.arange(2),
    )


def test_table_has_likelihood_and_preferences_against_the_start() -> None:
    measured = {
        "start": [_measured([-10.0, -30.0], [-8.0, -40.0])],
        # Margins go from -2 and 10 to 0 and 7: one pair gains two nats, the other loses three.
        "trained": [_measured([-6.0, -26.0], [-6.0, -33.0])],
    }
    lines = table(measured, {"trained": "start"}).splitlines()
    assert (
        lines[0]
        == "2 pairs of 2 prompts, 40 bytes of chosen answers; the chosen answer is the shorter one in 100%"
    )
    start, trained = (line.split(" | ") for line in lines[-2:])
    assert [cell.partition(" (")[0] for cell in start] == [
        "| start",
        "2.0 M",
        "1.000",
        "",
        "",
        "",
        "",
        "50.0",
    ]
    # 32 nats on 40 bytes; 8 fewer than before.
    figures = [cell.partition(" (")[0] for cell in trained]
    assert figures == ["| trained", "2.0 M", "0.800", "-0.200", "50.0", "", "-0.50", "50.0"]


def test_table_has_means_over_the_orders_of_the_rows() -> None:
    start = _measured([-10.0, -30.0], [-8.0, -40.0])
    # The margin grows in both pairs in one order and in the second pair in the other: by 4, 4, -2 and 2 nats.
    orders = [_measured([-6.0, -26.0], [-8.0, -40.0]), _measured([-12.0, -28.0], [-8.0, -40.0])]
    line = table({"start": [start], "trained": orders}, {"trained": "start"}).splitlines()[-1]
    figures = [cell.partition(" (")[0] for cell in line.split(" | ")]
    # 36 nats on 40 bytes; margins of 2, 14, -4 and 12 nats.
    assert figures == ["| trained", "2.0 M", "0.900", "-0.100", "75.0", "100.0 50.0", "+2.00", "75.0"]


def test_differences_are_between_two_models_of_one_start() -> None:
    measured = {
        "start": [_measured([-10.0, -30.0], [-8.0, -40.0])],
        "one": [_measured([-6.0, -26.0], [-8.0, -40.0])],
        "other": [_measured([-10.0, -34.0], [-8.0, -40.0])],
    }
    line = differences(measured, [("one", "other")], {"one": "start", "other": "start"}).splitlines()[-1]
    cells = [cell.partition(" (")[0] for cell in line.split(" | ")]
    # 12 nats on 40 bytes; both pairs gain under the one, none under the other; 4 and 8 nats.
    assert cells == ["| one − other", "-0.300", "+100.0", "+6.00"]


def test_intervals_are_over_prompts_not_pairs() -> None:
    start = dataclasses.replace(_measured([0.0, 0.0], [0.0, 0.0]), prompts=np.array([0, 0]))
    trained = dataclasses.replace(_measured([2.0, -2.0], [0.0, 0.0]), prompts=np.array([0, 0]))
    # Both pairs are of one prompt: drawing prompts again always gives both.
    line = table({"start": [start], "trained": [trained]}, {"trained": "start"}).splitlines()[-1]
    assert "| 50.0 (50.0 to 50.0) |" in line


def test_measure_is_the_log_probability_of_both_answers(chat_model: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        '{"prompt": [{"role": "user", "content": "Hi"}], "chosen": "Good day.", "rejected": "No, not at all."}\n'
        '{"prompt": [{"role": "user", "content": "What now?"}], "chosen": "Rest.", "rejected": "Run."}\n'
    )
    measured = measure(chat_model, pairs, tmp_path / "kept.json")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(chat_model),
        AutoModelForCausalLM.from_pretrained(chat_model),
    )
    prompt = tokenizer(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt"
    ).input_ids
    answer = tokenizer("No, not at all.<|im_end|>", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(torch.cat([prompt, answer], 1)).logits[0, prompt.shape[1] - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, answer.T).sum()
    # Float32 against float64 sums of ten terms.
    assert measured.rejected[0] == pytest.approx(float(expected), rel=1e-5)
    assert measured.chosen_bytes.tolist() == [9, 5]
    assert measured.prompts.tolist() == [0, 1]
    again = measure(tmp_path / "no model is needed", pairs, tmp_path / "kept.json")
    assert np.array_equal(again.rejected, measured.rejected)


_TINY: dict[str, Any] = {
    "train_prompts": 12,
    "tuning_prompts": 2,
    "teacher_prompts": 4,
    "held_out_prompts": 12,
    "samples": 6,
    "max_new_tokens": 12,
    "common_tokens": 40,
    "teacher_steps": 2,
    "heal_steps": 2,
    "steps": 2,
    "gemma_layers": (0, 2),
    "own_layers": (0, 2),
}


def test_plan_is_what_its_flags_give() -> None:
    parser = argparse.ArgumentParser()
    Plan.add_flags(parser)
    assert Plan.of(parser.parse_args([])) == Plan()
    given = parser.parse_args(["--gemma-layers", "0", "17", "--rate", "1e-3"])
    assert Plan.of(given) == Plan(gemma_layers=(0, 17), rate=1e-3)


def test_making_refuses_the_folder_of_another_plan(chat_model: Path, tmp_path: Path) -> None:
    Making(tmp_path / "run", Plan(**_TINY), weights=tmp_path / "weights", source=chat_model)
    with pytest.raises(SystemExit, match="holds a comparison of other sizes"):
        Making(tmp_path / "run", Plan(), weights=tmp_path / "weights", source=chat_model)


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    """A random model with the special tokens of Gemma's template and other pieces than the teacher's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([prompt.text for prompt in FRIENDLY.prompts(0, 100)], trainer)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=330, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, **sizes)
    folder = tmp_path / "gemma"
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    ).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_training_comparison_ends_with_tables_and_does_nothing_twice(
    chat_model: Path, gemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random answers are alike in reward.
    monkeypatch.setattr("benchmarks.cross_tokenizer.preferences.GAP", 0.005)
    making = Making(
        tmp_path / "run",
        Plan(**_TINY),
        weights=tmp_path / "weights",
        source=chat_model,
        gemma=gemma,
        engine="transformers",
    )
    text = write_tables(making, "held-out")
    commands = (making.out / "commands.sh").read_text()
    assert "| Gemma: boosted KD − Gemma: SFT on chosen | " in text
    assert "| SmolLM2: boosted KD " in text
    assert write_tables(making, "held-out") == text
    assert (making.out / "commands.sh").read_text() == commands
