"""Answers of a student with another tokenizer, scored by a teacher on its own tokens and put back on the student's."""

import dataclasses
import functools
import json
import logging

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cli import commands
from data.checks.verify import verify_dataset
from data.errors import ConfigurationError, DataError
from data.signals.dataset import SignalDataset
from data.signals.manifest import describe_files, read_manifest, write_manifest
from data.signals.rollouts import RolloutDataset, write_rollout_shard
from data.translation import shard as translation
from data.translation.dataset import translate_dataset
from teacher_scoring.options import SampleOptions, ScoreOptions
from teacher_scoring.sample import sample_student
from teacher_scoring.score import score_teacher

PAIRS = [
    ("What is the capital of France?", "Paris is the capital of France.", "I do not know, sorry!"),
    ("Print one", "print(1)\n  # done", "return 0;  // nothing"),
    ("Say hi", "Hi there, you!", "hello hello hello"),
    ("Count", "1, 2, 3, 4, 5", "one two"),
    ("Name a river.", "The Danube is a river.", "There is the water of the river."),
    ("Tell me more", "There is more than that.", "no"),
]


def make_model(folder, *, vocab_size, template, end, seed, width=16):
    """A tiny model whose every token is printable: whatever is sampled from it is text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    letters = {letter for text in PAIRS for part in text for letter in part}
    alphabet = sorted(pre_tokenizers.ByteLevel().pre_tokenize_str("".join(sorted(letters)))[0][0])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([" ".join(text) for text in PAIRS] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


TEACHERS = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}<stop>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
STUDENTS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    teacher = {"vocab_size": 130, "template": TEACHERS, "end": "<stop>"}
    make_model(folder / "teacher", **teacher, seed=0)
    make_model(folder / "reference", **teacher, seed=1)
    make_model(folder / "student", vocab_size=90, template=STUDENTS, end="<end>", seed=2)
    names = ("prompt", "chosen", "rejected")
    rows = [{"id": f"p{i}", **dict(zip(names, pair, strict=True))} for i, pair in enumerate(PAIRS)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def sampled(world, out, **changes):
    chosen = {"student": str(world / "student"), "data": str(world / "pairs.jsonl"), "engine": "transformers"}
    chosen |= {"num_samples": 3, "max_new_tokens": 20, "out": str(out)}
    return sample_student(SampleOptions(**(chosen | changes))).path


@pytest.fixture(scope="module")
def rollouts(world):
    return sampled(world, world / "rollouts")


def scoring(world, rollouts, out, **changes):
    chosen = {"teacher": str(world / "teacher"), "reference": str(world / "reference")}
    chosen |= {"data": str(world / "pairs.jsonl"), "rollouts": str(rollouts), "engine": "transformers"}
    chosen |= {"out": str(out), "top_k": 8, "precision": "exact", "shard_pairs": 2, "translate": True}
    return ScoreOptions(**(chosen | changes))


def student_rows(dataset):
    return {
        (row.pair_id, row.sample_index): row
        for row in SignalDataset.open(dataset).iterate()
        if row.role == "student"
    }


def test_translated_scoring_keeps_the_sampled_ids(world, rollouts, tmp_path):
    result = score_teacher(scoring(world, rollouts, tmp_path / "signals"))
    assert list(verify_dataset(result.path)) == []
    given = {(row.pair_id, row.sample_index): row for row in RolloutDataset.open(rollouts).iterate()}
    # Answers that ended by themselves and answers that were cut are both among the samples.
    assert {row.finish_reason for row in given.values()} == {"stop", "length"}
    rows = student_rows(result.path)
    assert rows.keys() == given.keys()
    for key, row in rows.items():
        assert row.prompt_ids.tolist() == given[key].prompt_ids.tolist()
        assert row.response_ids.tolist() == given[key].response_ids.tolist()


def test_translated_scoring_keeps_the_log_probability_of_each_answer(world, rollouts, tmp_path):
    result = score_teacher(scoring(world, rollouts, tmp_path / "signals"))
    rows = student_rows(result.path)
    teacher = LlamaForCausalLM.from_pretrained(world / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(world / "teacher")
    student = AutoTokenizer.from_pretrained(world / "student")
    prompts = {f"p{i}": prompt for i, (prompt, _, _) in enumerate(PAIRS)}
    for (pair_id, _), row in rows.items():
        is_ended = row.response_ids[-1] == student.eos_token_id
        text = student.decode(row.response_ids, skip_special_tokens=True)
        asked = tokenizer.encode(f"[user] {prompts[pair_id]}<stop>[assistant] ")
        # What the template ends with is fixed when the answer begins: no token spans both.
        whole = asked + tokenizer.encode(text) + [tokenizer.eos_token_id] * bool(is_ended)
        with torch.no_grad():
            logprobs = teacher(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        expected = sum(logprobs[i - 1, whole[i]].item() for i in range(len(asked), len(whole)))
        # Sums of some 20 float32 numbers of size 10.
        assert row.teacher_token_logprobs.astype(np.float64).sum() == pytest.approx(expected, rel=1e-5)


def test_translated_scoring_names_both_tokenizers_in_its_request(world, rollouts, tmp_path):
    result = score_teacher(scoring(world, rollouts, tmp_path / "signals"))
    request = SignalDataset.open(result.path).manifest.request
    sampled_with = RolloutDataset.open(rollouts).manifest.request
    assert request["tokenizer"] == request["rollouts_tokenizer"] == sampled_with["tokenizer"]
    assert request["translation"]["source_tokenizer"] not in (None, request["tokenizer"])
    assert request["rollouts"] == RolloutDataset.open(rollouts).manifest.fingerprint


def test_translated_scoring_goes_on_after_a_kill_with_the_same_bytes(world, rollouts, tmp_path, monkeypatch):
    whole = score_teacher(scoring(world, rollouts, tmp_path / "whole"))
    write, calls = translation.write_signal_shard, []

    def broken(path, rows, **settings):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(path, rows, **settings)

    monkeypatch.setattr(translation, "write_signal_shard", broken)
    score = functools.partial(score_teacher, scoring(world, rollouts, tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        score()
    assert not (tmp_path / "out" / "manifest.json").exists()
    score()
    # The first shard of three is not translated again.
    assert [int(name[6:11]) for name in calls] == [0, 1, 1, 2]
    files = sorted(path for path in whole.path.rglob("*") if path.is_file())
    assert len(files) > 4
    for file in files:
        if file.name not in ("manifest.json", "README.md"):
            assert file.read_bytes() == (tmp_path / "out" / file.relative_to(whole.path)).read_bytes()
    assert read_manifest(whole.path) == read_manifest(tmp_path / "out")
    assert score().reused


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"translate": False}, DataError, "or add --translate"),
        ({"truncate": True}, ConfigurationError, "does not go with --truncate"),
        ({"rollouts": None}, ConfigurationError, "--translate needs --rollouts"),
    ],
)
def test_translated_scoring_refuses_what_it_cannot_do(world, rollouts, tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        score_teacher(dataclasses.replace(scoring(world, rollouts, tmp_path / "out"), **changes))


def test_translated_scoring_refuses_rollouts_in_the_teachers_own_ids(world, tmp_path):
    own = sampled(world, tmp_path / "own", student=str(world / "teacher"), num_samples=1)
    with pytest.raises(ConfigurationError, match="in the teacher's token ids already"):
        score_teacher(scoring(world, own, tmp_path / "out"))


def changed_rollouts(rollouts, folder, change):
    """The same rollouts with other answers, as a sampler might have written them."""
    rows = [change(row) for row in RolloutDataset.open(rollouts).iterate()]
    manifest = read_manifest(rollouts)
    manifest = dataclasses.replace(manifest, request={**manifest.request, "seed": 99})
    folder.mkdir()
    AutoTokenizer.from_pretrained(rollouts / "tokenizer").save_pretrained(folder / "tokenizer")
    entry = write_rollout_shard(folder / "shard-00000.parquet", rows, fingerprint=manifest.fingerprint)
    files = describe_files(folder, "tokenizer")
    write_manifest(folder, dataclasses.replace(manifest, shards=(entry,), files=files))
    return folder


def test_translated_scoring_counts_answers_that_are_no_text(world, rollouts, tmp_path, caplog):
    end = AutoTokenizer.from_pretrained(world / "student").eos_token_id

    def change(row):
        ids = row.response_ids.copy()
        if row.sample_index == 0:  # an end in the middle
            ids[3] = end
        if row.sample_index == 1:  # an end and nothing else
            ids = ids[:1] * 0 + end
        reason = "stop" if row.sample_index == 1 else "length"
        return dataclasses.replace(
            row, response_ids=ids, token_logprobs=row.token_logprobs[: len(ids)], finish_reason=reason
        )

    changed = changed_rollouts(sampled(world, tmp_path / "few", num_samples=2), tmp_path / "changed", change)
    with caplog.at_level(logging.INFO):
        result = score_teacher(scoring(world, changed, tmp_path / "out", score=("chosen", "rejected")))
    assert "rollouts dropped: 6 holds a special token, which is no text, 6 empty answer" in caplog.text
    assert not student_rows(result.path)


def test_translated_scoring_refuses_rollouts_of_another_prompt(world, rollouts, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text((world / "pairs.jsonl").read_text().replace("capital", "river"))
    with pytest.raises(DataError, match="sampled from another prompt"):
        score_teacher(scoring(world, rollouts, tmp_path / "out", data=str(other)))


def test_translation_of_sampled_answers_asks_for_their_rollouts(world, rollouts, tmp_path):
    scored = score_teacher(scoring(world, rollouts, tmp_path / "out"))
    source = SignalDataset.open(_source_of(scored))
    load = AutoTokenizer.from_pretrained
    with pytest.raises(DataError, match="whose ids must be kept; give --rollouts"):
        translate_dataset(source, world / "student", load_tokenizer=load, out=str(tmp_path / "again"))
    other = sampled(world, tmp_path / "other", seed=1)
    with pytest.raises(DataError, match="not the rollouts that"):
        translate_dataset(
            source, world / "student", load_tokenizer=load, out=str(tmp_path / "again"), rollouts=other
        )


def _source_of(result):
    """The dataset on the teacher's ids, which the store keeps by its fingerprint."""
    from data.storage.store import store_folder

    return next(
        path for path in store_folder().iterdir() if path.name.startswith(result.translation.source[:8])
    )


@pytest.mark.slow
def test_a_student_of_another_family_learns_from_its_own_answers_by_the_command_line(world, tmp_path):
    def adpa(*arguments):
        result = CliRunner().invoke(commands, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    data = ("--data", world / "pairs.jsonl", "--engine", "transformers")
    adpa("sample-student", "--student", world / "student", *data, "-n", 2, "--max-new-tokens", 16,
         "--out", tmp_path / "rollouts")  # fmt: skip
    said = adpa("score-teacher", "--teacher", world / "teacher", "--reference", world / "reference", *data,
                "--rollouts", tmp_path / "rollouts", "--translate", "--top-k", 8,
                "--out", tmp_path / "signals")  # fmt: skip
    assert "aligned positions" in said
    # The second half by itself: the dataset on the teacher's ids is in the store, named by its fingerprint.
    source = read_manifest(tmp_path / "signals").request["translation"]["source"]
    again = adpa("signals", "translate", source[:12], "--tokenizer", world / "student",
                 "--rollouts", tmp_path / "rollouts", "--out", tmp_path / "again", "--json")  # fmt: skip
    result = json.loads(again)
    assert (result["path"], result["source"]) == (str(tmp_path / "again"), source)
    for file in sorted((tmp_path / "signals").glob("*.parquet")):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    common = ("--signals", tmp_path / "signals", "--student", world / "student", "--batch-size", 4)
    for method, more in (
        ("adpa", ()),
        ("dppo-sequence", ("--rollouts", tmp_path / "rollouts")),
    ):
        out = tmp_path / method
        adpa("train-student", *common, "--method", method, "--max-steps", 2, "--out", out, *more)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    # Behaviour log-probabilities are of exactly the stored ids, so the first step's ratio is 1.
    first = next(line for line in lines if "loss" in line)
    assert first["ratio"] == pytest.approx(1.0, abs=1e-4)
