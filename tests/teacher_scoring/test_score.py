"""score-teacher from options to dataset: what it writes, what it refuses, what it finds again."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data.checks.verify import verify_dataset
from data.errors import ConfigurationError, DataError, ShardError
from data.signals.dataset import SignalDataset
from teacher_scoring.passes.run import PassCounts
from teacher_scoring.sample import SampleOptions, sample_student
from teacher_scoring.score import ScoreOptions, score_teacher


@pytest.fixture
def options(tiny_world, tmp_path):
    """Options that work, with some of them changed."""

    def make(**changed):
        given = {
            "teacher": str(tiny_world.teacher),
            "reference": str(tiny_world.reference),
            "data": str(tiny_world.pairs),
            "out": str(tmp_path / "out"),
            "engine": "transformers",
            "top_k": 8,
            "shard_pairs": 4,
        }
        return ScoreOptions(**{**given, **changed})

    return make


@pytest.fixture
def rollouts(tiny_world, tmp_path):
    folder = tmp_path / "rollouts"
    sample_student(
        SampleOptions(
            student=str(tiny_world.student),
            data=str(tiny_world.pairs),
            engine="transformers",
            max_new_tokens=6,
            num_samples=2,
            out=str(folder),
        )
    )
    return folder


def contents(folder):
    """Every file of a dataset."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def score(options):
    """Run and return the dataset with the result."""
    result = score_teacher(options)
    return result.open(), result


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROW = {"prompt": "w1 w2", "chosen": "w3 w4", "rejected": "w5"}


def test_a_finished_dataset_verifies_and_holds_every_response_in_order(options, tiny_world, caplog):
    with caplog.at_level("INFO", logger="teacher_scoring"):
        dataset, result = score(options())
    assert verify_dataset(dataset.path) == []
    assert [row.role for row in dataset.iterate()] == ["chosen", "rejected"] * 10
    assert len(dataset.manifest.shards) == 3
    assert (result.path, result.responses, result.pairs, result.positions) == (
        dataset.path, dataset.num_rows, dataset.num_pairs, dataset.num_positions,
    )  # fmt: skip
    assert result.teacher == result.reference == PassCounts(positions=dataset.num_positions)
    assert (result.lost, result.reused, result.part) == (0, False, None)
    rows, encoded, engine, *_ = caplog.messages
    # What became of the rows is said before a model is loaded, and then with what they are scored.
    assert "10 rows, 10 kept" in rows
    assert encoded.endswith("10 rows, 10 kept")
    version = dataset.manifest.request["engine"]["version"]
    assert engine == f"transformers {version} on cpu: teacher in float32, reference in float32; top-k 8"
    assert sorted(path.name for path in dataset.path.iterdir()) == [
        "README.md", "manifest.json", "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet", "tokenizer",
    ]  # fmt: skip


def test_the_same_request_again_changes_nothing(options):
    dataset, _ = score(options())
    before = contents(dataset.path)
    _, result = score(options())
    assert result.reused
    assert result.teacher is None
    assert result.positions == dataset.num_positions
    assert contents(dataset.path) == before


def test_top_p_keeps_the_fewest_tokens_that_hold_the_mass(options):
    whole, _ = score(options(precision="exact"))
    cut, result = score(options(precision="exact", top_p=0.5, out=options().out + "-cut"))
    assert result.teacher.found == whole.num_positions
    for full, row in zip(whole.iterate(), cut.iterate(), strict=True):
        assert (row.support_sizes >= 1).all()
        start = 0
        for position, size in enumerate(row.support_sizes):
            logprobs = full.teacher_logprobs.reshape(-1, 8)[position]
            np.testing.assert_array_equal(row.teacher_logprobs[start : start + size], logprobs[:size])
            assert np.exp(logprobs[: size - 1], dtype=np.float64).sum() < 0.5
            assert np.exp(logprobs[:size], dtype=np.float64).sum() >= 0.5 or size == 8
            start += size


def test_without_a_reference_there_are_no_advantages(options):
    dataset, result = score(options(reference=None))
    assert not dataset.has_advantages
    assert dataset.roles == ("chosen", "rejected")
    assert verify_dataset(dataset.path) == []
    assert all(row.advantages is None and row.reference_tail_logprobs is None for row in dataset.iterate())
    assert result.reference is None


def test_roles_that_were_not_asked_for_carry_ids_only(options, rollouts):
    dataset, _ = score(options(rollouts=str(rollouts), score=("student",)))
    rows = list(dataset.iterate())
    assert [row.role for row in rows[:4]] == ["chosen", "rejected", "student", "student"]
    assert [row.sample_index for row in rows[:4]] == [0, 0, 0, 1]
    for row in rows:
        assert row.is_scored == (row.role == "student")
        assert len(row.response_ids)


def test_a_support_of_the_whole_vocabulary_has_no_tail(options, tiny_world):
    dataset, _ = score(options(top_k=tiny_world.vocab_size))
    for row in dataset.iterate():
        assert np.isneginf(row.teacher_tail_logprobs).all()
        assert np.isneginf(row.reference_tail_logprobs).all()


def test_ids_that_a_smaller_reference_lacks_fold_into_both_tails(options, tiny_world, tmp_path):
    """The reference's embedding ends at 110; the teacher's has 128, the tokenizer uses 106."""
    smaller = tmp_path / "smaller"
    shutil.copytree(tiny_world.reference, smaller)
    model = AutoModelForCausalLM.from_pretrained(smaller)
    model.resize_token_embeddings(110)
    model.save_pretrained(smaller)
    dataset, _ = score(options(reference=str(smaller), top_k=32, precision="exact"))
    assert verify_dataset(dataset.path) == []
    teacher = AutoModelForCausalLM.from_pretrained(tiny_world.teacher)
    cut = 0
    for row in dataset.iterate():
        assert row.topk_ids.max() < 110
        assert np.isfinite(row.advantages).all()
        cut += int((row.support_sizes < 32).sum())
        ids = torch.from_numpy(np.concatenate([row.prompt_ids, row.response_ids])).long()[None]
        with torch.inference_mode():
            dense = teacher(ids).logits[0, len(row.prompt_ids) - 1 : -1].double().log_softmax(-1)
        start = 0
        for position, size in enumerate(row.support_sizes):
            kept = torch.tensor(row.topk_ids[start : start + size], dtype=torch.long)
            tail = torch.log1p(-dense[position][kept].exp().sum())
            # Float32 log-probabilities of a float32 model: 1e-6 in mass, and the tails here hold 1e-2 or more.
            assert abs(float(tail) - row.teacher_tail_logprobs[position]) < 1e-3
            start += size
    assert cut > 0


def test_rows_whose_answers_are_the_same_are_dropped_and_counted(options, tmp_path, caplog):
    data = write_rows(tmp_path / "d.jsonl", [ROW, {**ROW, "rejected": ROW["chosen"]}])
    with caplog.at_level("INFO", logger="teacher_scoring"):
        dataset, _ = score(options(data=data))
    assert dataset.num_pairs == 1
    assert "dropped: 1 chosen equals rejected" in caplog.text


BAD_ROWS = {
    "not JSON": ('{"prompt": "w1", "chosen": "w2", "rejected": "w3"}\nnot json\n', "line 2: not JSON"),
    "without chosen": ('{"prompt": "w1", "rejected": "w3"}\n', "line 1: .*chosen"),
    "later row without chosen": (
        '{"prompt": "w1", "chosen": "w2", "rejected": "w3"}\n{"prompt": "w1", "rejected": "w3"}\n',
        "line 2: .*chosen",
    ),
    "empty response": ('{"prompt": "w1", "chosen": "", "rejected": "w3"}\n', "line 1: .*empty"),
    "no row": ("", "nothing to use"),
    "too long": (json.dumps({**ROW, "prompt": "w1 " * 300}) + "\n", "no row is left.*raise --max-length"),
    "all the same": (json.dumps({**ROW, "rejected": ROW["chosen"]}) + "\n", "chosen equals rejected"),
}


# Sampling needs prompts alone.
BAD_CASES = [("score-teacher", name) for name in BAD_ROWS] + [
    ("sample-student", name) for name in BAD_ROWS if "without chosen" not in name
]


@pytest.mark.parametrize(("command", "name"), BAD_CASES)
def test_bad_rows_are_one_error_and_leave_nothing_behind(command, name, options, tiny_world, tmp_path):
    text, message = BAD_ROWS[name]
    data = tmp_path / "d.jsonl"
    data.write_text(text)
    if command == "sample-student":
        run, given = sample_student, SampleOptions(
            student=str(tiny_world.student), data=str(data), out=str(tmp_path / "out"), engine="transformers",
            max_length=200, max_new_tokens=4,
        )  # fmt: skip
    else:
        run, given = score_teacher, options(data=str(data), max_length=200)
    with pytest.raises(DataError, match=message):
        run(given)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_or_does_not_fit_is_refused_before_any_work(options, tiny_world, tmp_path):
    no_model = tmp_path / "no-model"
    no_model.mkdir()
    chosen_only = write_rows(tmp_path / "c.jsonl", [{"prompt": "w1", "chosen": "w2"}])
    refused = [
        (options(data=str(tmp_path / "nowhere.jsonl")), DataError, "nowhere.jsonl: no such file"),
        (options(teacher=str(no_model)), ConfigurationError, "--teacher: .*no-model is not a model folder"),
        (
            options(reference=str(tmp_path / "gone")),
            ConfigurationError,
            "--reference: .*gone: no such folder",
        ),
        (options(top_k=129), ConfigurationError, "--top-k: 129 is above the teacher's vocabulary of 128"),
        (options(rollouts=str(tmp_path / "gone")), ShardError, "gone: no such dataset folder"),
        (options(data=chosen_only), DataError, "no rejected response to score; give --score chosen"),
    ]
    for given, kind, message in refused:
        with pytest.raises(kind, match=message):
            score_teacher(given)
        assert not (tmp_path / "out").exists()


def test_a_model_of_another_kind_is_named_with_what_to_give_instead(options, tiny_world, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    (adapter / "adapter_model.safetensors").write_bytes(b"not read before it is refused")
    quantised = tmp_path / "model.gguf"
    quantised.write_bytes(b"GGUF")
    folder = tmp_path / "quantised"
    folder.mkdir()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    sample = SampleOptions(student=str(adapter), data=str(tiny_world.pairs), out=str(tmp_path / "out"))
    refused = [
        (score_teacher, options(teacher=str(adapter)), r"--teacher: .*adapter is a LoRA adapter for org/base, not a "
         r"whole model; give its base as --teacher and this folder as --teacher-adapter$"),
        (score_teacher, options(reference=str(adapter)), r"this folder as --reference-adapter$"),
        (sample_student, sample, r"give its base as --student and this folder as --adapter$"),
        (score_teacher, options(teacher=str(quantised)), r"--teacher: .*model\.gguf: GGUF is not read here; give the "),
        (score_teacher, options(teacher=str(folder)), r"--teacher: .*quantised: GGUF is not read here; give the "),
    ]  # fmt: skip
    for run, given, message in refused:
        with pytest.raises(ConfigurationError, match=message):
            run(given)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("state", ["finished", "begun"])
def test_auto_over_a_folder_is_the_engine_that_made_it(options, tmp_path, monkeypatch, state):
    result = score_teacher(options())
    out = result.path
    if state == "begun":
        (out / ".work").mkdir()
        request = json.loads((out / "manifest.json").read_text())["request"]
        del request["data"]
        (out / ".work" / "request.json").write_text(json.dumps(request))
        (out / "manifest.json").unlink()
    # The best one installed would be another one.
    monkeypatch.setattr("teacher_scoring.request.is_installed", lambda name: True)
    again = score_teacher(options(engine="auto"))
    assert again.reused == (state == "finished")
    manifest = again.open().manifest
    assert manifest.request["engine"]["name"] == "transformers"
    assert "--engine transformers" in manifest.created["command"]


def test_auto_over_a_folder_without_its_engine_installed_changes_nothing(options, monkeypatch):
    out = score_teacher(options()).path
    (out / "shard-00000.parquet").unlink()
    before = contents(out)
    monkeypatch.setattr("teacher_scoring.request.is_installed", lambda name: name != "transformers")
    with pytest.raises(
        ConfigurationError, match=r"out is made with transformers \S+, which is not installed here; install"
    ):
        score_teacher(options(engine="auto"))
    assert contents(out) == before


def test_a_reference_with_another_tokenizer_is_refused(options, tiny_world, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_world.reference, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["w0"], vocabulary["w1"] = vocabulary["w1"], vocabulary["w0"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DataError, match=r"tokenizers of .* differ: the id of 'w0'"):
        score_teacher(options(reference=str(other)))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_a_different_dataset_is_left_alone(options, tiny_world, tmp_path):
    dataset, _ = score(options())
    before = contents(dataset.path)
    fewer = write_rows(tmp_path / "fewer.jsonl", [ROW])
    for changed, difference in (
        ({"top_k": 4}, r"top_k is \d+ there, 4 here"),
        ({"reference": None}, "reference is reference there, none here"),
        ({"data": fewer}, r"data is \w{20}\.\.\. there, \w{20}\.\.\. here"),
    ):
        with pytest.raises(ShardError, match=f"holds a different dataset: {difference}; choose"):
            score_teacher(options(**changed))
        assert contents(dataset.path) == before


def test_a_folder_with_foreign_files_is_left_alone(options, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with pytest.raises(ShardError, match="not empty and holds no dataset"):
        score_teacher(options())
    assert [path.name for path in out.iterdir()] == ["letter.txt"]


def test_an_unfinished_dataset_of_another_request_is_left_alone(options, tiny_world, tmp_path):
    """The reference's weights cannot be read, so the teacher's pass is done and the dataset is not."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_world.reference, broken)
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Exception, match="broken"):
        score_teacher(options(reference=str(broken)))
    assert (tmp_path / "out" / ".work").is_dir()
    with pytest.raises(ShardError, match=r"another, unfinished dataset: top_k is \d+ there, 4 here"):
        score_teacher(options(reference=str(broken), top_k=4))


def test_rollouts_of_other_prompts_are_refused(options, rollouts, tmp_path):
    other = write_rows(tmp_path / "other.jsonl", [ROW])
    with pytest.raises(DataError, match=r"none of its pairs is in .*other\.jsonl; sample from the same data"):
        score_teacher(options(rollouts=str(rollouts), data=other))
    assert not (tmp_path / "out").exists()


def test_incomplete_rollouts_are_refused(options, rollouts, tmp_path):
    (rollouts / "manifest.json").unlink()
    with pytest.raises(ShardError, match="the dataset is incomplete"):
        score_teacher(options(rollouts=str(rollouts)))
    assert not (tmp_path / "out").exists()


def test_options_that_contradict_each_other_are_refused(options):
    with pytest.raises(ConfigurationError, match="--score student needs --rollouts"):
        options(score=("student",))
    with pytest.raises(ConfigurationError, match="need --reference"):
        dataclasses.replace(options(), reference=None, reference_revision="main")


def test_a_cache_that_cannot_be_written_is_refused_before_any_work(options, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="file/passes: no folder can be made there"):
        score(options(out=str(tmp_path / "out"), pass_cache=str(tmp_path / "file" / "passes")))
    assert not (tmp_path / "out").exists()


def test_nothing_in_a_dataset_says_when_or_on_which_machine_it_was_made(options, tmp_path):
    dataset, _ = score(options(out=str(tmp_path / "a")))
    other, _ = score(options(out=str(tmp_path / "b"), pass_cache=str(tmp_path / "other-cache")))
    assert contents(dataset.path) == contents(other.path)
    assert SignalDataset.open(other.path, check_shards=True).num_rows == 20
