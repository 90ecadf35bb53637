"""What surrounds the translation of rows: folders, interruptions, conversations, what is refused."""

import functools
import itertools
import logging
import multiprocessing

import numpy as np
import pytest
from transformers import AutoTokenizer

from data.checks.verify import repair_plan, verify_dataset
from data.errors import DataError, ShardError
from data.preferences.messages import Message
from data.report.summary import summarize_dataset
from data.report.verdicts import signal_verdicts
from data.signals.dataset import SignalDataset
from data.translation import dataset as translation
from data.translation import shard
from data.translation.dataset import WORK_NAME, translate_dataset
from tests.data.tokens.template_families import FAMILIES
from tests.data.translation.test_dataset import (
    CHATML,
    OTHER,
    TEXTS,
    save_source,
    student_folder,
    student_tokenizer,
    teacher_tokenizer,
    train_tokenizer,
)

__all__ = ["student_folder", "student_tokenizer", "teacher_tokenizer"]

load = AutoTokenizer.from_pretrained


@pytest.fixture
def source(tmp_path, teacher_tokenizer):
    return save_source(tmp_path / "source", teacher_tokenizer)


@pytest.fixture
def translate(source, student_folder, tmp_path):
    """Translate into a folder; settings are those of `translate_dataset`."""

    def run(out="out", **settings):
        settings = {"load_tokenizer": load, "out": str(tmp_path / out), **settings}
        return translate_dataset(source, student_folder, **settings)

    return run


def changed_template(student_folder, template):
    (student_folder / "chat_template.jinja").write_text(template)


def test_translation_of_a_shard_without_a_usable_row_is_an_empty_shard(translate, student_folder):
    # Both pairs of the first shard are lost.
    template = OTHER.replace("m.content", "m.content | replace('capital', 'CAPITAL') | replace('heißt', '')")
    changed_template(student_folder, template)
    result = translate()
    dataset = SignalDataset.open(result.path)
    assert [shard.rows for shard in dataset.manifest.shards] == [0, 4, 2]
    assert list(dataset.pair_ids) == ["p2", "p3", "p4"]
    assert list(verify_dataset(result.path)) == []


def test_translation_of_nothing_says_why_and_leaves_the_folder_free(translate, student_folder, tmp_path):
    changed_template(student_folder, OTHER.replace("m.content", "m.content ~ '.'"))
    with pytest.raises(DataError, match=r"no response could be translated \(.*bytes \(pair p0 first\)"):
        translate()
    assert not (tmp_path / "out").exists()
    changed_template(student_folder, OTHER)
    assert translate().rows == 2 * len(TEXTS)


def test_translation_that_fails_at_its_first_row_leaves_nothing(teacher_tokenizer, student_folder, tmp_path):
    plain = save_source(tmp_path / "plain", teacher_tokenizer, conversations=False)
    with pytest.raises(DataError, match="score the data again with --store-conversations"):
        translate_dataset(plain, student_folder, load_tokenizer=load, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_translation_makes_a_lost_shard_again_as_verify_says(translate):
    result = translate()
    shard = result.path / "shard-00001.parquet"
    before = shard.read_bytes(), (result.path / "manifest.json").read_bytes()
    shard.write_bytes(before[0][:500] + bytes([before[0][500] ^ 1]) + before[0][501:])
    findings = verify_dataset(result.path)
    assert [finding.file for finding in findings] == [shard.name]
    assert f"rm -f {shard}" in "\n".join(repair_plan(result.path, findings))
    shard.unlink()
    assert not translate().reused
    assert (shard.read_bytes(), (result.path / "manifest.json").read_bytes()) == before
    assert translate().reused


def test_translation_goes_on_where_it_was_killed_before_its_first_file(translate, tmp_path):
    (tmp_path / "out" / WORK_NAME).mkdir(parents=True)
    (finding,) = verify_dataset(tmp_path / "out")
    assert "adpa signals translate" in "\n".join(repair_plan(tmp_path / "out", [finding]))
    assert not translate().reused


def test_translation_that_is_killed_anywhere_ends_with_the_same_bytes(translate, tmp_path, monkeypatch):
    translate = functools.partial(translate, load_tokenizer=functools.cache(load))
    whole = translate("whole").path
    # Before and after each write: request, three shards and their records, tokenizer, card, manifest.
    for place in range(2 * 10):
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for module, name in _WRITERS:
                patch.setattr(module, name, _killed(getattr(module, name), calls, place))
            with pytest.raises(KeyboardInterrupt):
                translate(f"out-{place}")
        translate(f"out-{place}")
        assert files_in(tmp_path / f"out-{place}") == files_in(whole)
    assert next(calls) == place + 1


_WRITERS = (
    (translation, "write_atomic"),
    (shard, "write_signal_shard"),
    (shard, "save_tokenizer"),
    (translation, "write_card"),
    (translation, "write_manifest"),
)


def _killed(write, calls, place):
    """The function, killed before or after its work at the given moment of all."""

    def writes(*arguments, **settings):
        if next(calls) == place:
            raise KeyboardInterrupt
        result = write(*arguments, **settings)
        if next(calls) == place:
            raise KeyboardInterrupt
        return result

    return writes


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_translation_waits_for_the_process_that_makes_the_same_dataset(translate, student_folder, tmp_path):
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=translate) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert translate().reused
    assert list(verify_dataset(tmp_path / "out")) == []
    assert not (tmp_path / ".out.lock").exists()


def test_translation_into_a_place_that_cannot_be_written_is_refused(source, student_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="cannot be written"):
        translate_dataset(source, student_folder, load_tokenizer=load, out=str(tmp_path / "file" / "out"))


def test_translation_of_a_translated_dataset_is_refused(translate, student_folder, tmp_path, source):
    first = SignalDataset.open(translate().path)
    with pytest.raises(DataError, match=f"translated already.*{source.manifest.fingerprint[:20]}"):
        translate_dataset(first, student_folder, load_tokenizer=load, out=str(tmp_path / "twice"))


def test_translation_for_another_template_is_another_dataset(translate, student_folder):
    names = [SignalDataset.open(translate(out).path).manifest.fingerprint for out in ("one", "two")]
    changed_template(student_folder, OTHER.replace("<end>{% endfor %}", "<end>\n{% endfor %}"))
    other = SignalDataset.open(translate("three").path).manifest.fingerprint
    assert names[0] == names[1] != other
    with pytest.raises(ShardError, match="holds another dataset"):
        translate("one")


def test_translation_warns_where_little_is_kept(tmp_path, teacher_tokenizer, caplog):
    # A student with single bytes begins few of its tokens where the teacher does.
    bytewise = train_tokenizer(257, "<end>", ["<end>"], OTHER)
    texts = [("Where?", "the capital of France is the capital", "Der Fluss heißt Donau")]
    with caplog.at_level(logging.WARNING):
        _, result, _ = conversations(tmp_path, teacher_tokenizer, bytewise, texts)
    assert 0 < result.aligned_share < 0.5
    assert f"{100 * result.aligned_share:.0f}% of the positions align" in caplog.text


def test_translation_saves_the_tokenizer_that_its_folder_had_in_other_files(
    source, student_tokenizer, tmp_path
):
    (tmp_path / "vocabulary").mkdir()
    tokenizers = {source.tokenizer_folder: load(source.tokenizer_folder)}
    result = translate_dataset(
        source,
        tmp_path / "vocabulary",
        load_tokenizer=lambda folder: tokenizers.get(folder, student_tokenizer),
        out=str(tmp_path / "out"),
    )
    saved = load(SignalDataset.open(result.path).tokenizer_folder)
    assert saved.get_vocab() == student_tokenizer.get_vocab()
    assert saved.chat_template == student_tokenizer.chat_template


def test_the_support_of_translated_signals_is_judged_where_there_is_one(source, tmp_path, translate):
    # The teacher's support is its whole vocabulary but for some thousandths; a third of the positions has none.
    result = translate()
    before, after = (
        summarize_dataset(dataset).roles[0] for dataset in (source, SignalDataset.open(result.path))
    )
    assert result.aligned_share < 0.9
    assert after.num_supported < after.num_positions
    assert after.coverage == pytest.approx(before.coverage, abs=0.02)
    assert after.mean_kl == pytest.approx(before.mean_kl, rel=0.2)
    verdicts = [
        signal_verdicts(summarize_dataset(one))[1] for one in (source, SignalDataset.open(result.path))
    ]
    assert verdicts[0].mark == verdicts[1].mark


# --- Conversations


def conversations(tmp_path, teacher, student, texts, **settings):
    source = save_source(tmp_path / "source", teacher, texts=texts, **settings)
    (tmp_path / "student").mkdir()
    tokenizers = {source.tokenizer_folder: teacher, tmp_path / "student": student}
    result = translate_dataset(
        source, tmp_path / "student", load_tokenizer=tokenizers.__getitem__, out=str(tmp_path / "out")
    )
    return source, result, list(SignalDataset.open(result.path).iterate())


def test_translation_counts_conversations_that_the_students_template_refuses(
    tmp_path, teacher_tokenizer, student_tokenizer
):
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    student = train_tokenizer(290, "<end>", ["<end>"], refusing + OTHER)
    with_system = (Message("system", "Be brief."), Message("user", "Hi"))
    texts = [*TEXTS[:2], (with_system, "Hello", "No")]
    _, result, rows = conversations(tmp_path, teacher_tokenizer, student, texts)
    assert {row.pair_id for row in rows} == {"p0", "p1"}
    ((reason, count),) = result.dropped.items()
    assert "no system turns" in reason
    assert (count, result.first_dropped[reason]) == (2, "p2")
    assert "(pair p2 first)" in str(result)


def test_translation_aligns_each_turn_of_an_answer_by_itself(tmp_path, teacher_tokenizer, student_tokenizer):
    answer = (Message("assistant", "One, two"), Message("user", "And?"), Message("assistant", "three"))
    source, _, rows = conversations(
        tmp_path, teacher_tokenizer, student_tokenizer, [("Count", answer, "No, sorry")]
    )
    old, new = next(source.iterate()), rows[0]
    assert student_tokenizer.decode(new.response_ids[new.response_mask]) == "One, two<end>three<end>"
    assert new.response_ids[new.response_mask][-1] == student_tokenizer.eos_token_id
    # Each end of turn is aligned with the teacher's: their own numbers are there, not a sum's.
    ends = [
        row.teacher_token_logprobs[row.scored_ids == tokenizer.eos_token_id]
        for row, tokenizer in ((old, teacher_tokenizer), (new, student_tokenizer))
    ]
    assert len(ends[0]) == 2
    assert ends[0].tolist() == ends[1].tolist()


def test_translation_keeps_turns_that_the_teachers_template_writes_anew_as_rows(tmp_path, student_tokenizer):
    answer = (Message("assistant", "It is"), Message("user", "Why?"), Message("assistant", "There is more"))
    source, result, rows = conversations(
        tmp_path, FAMILIES["qwen3"].tokenizer(), student_tokenizer, [("Is it?", answer, "No")]
    )
    assert [row.sample_index for row in source.iterate()] == [0, 1, 0]
    assert not result.dropped
    first, second, _ = rows
    assert student_tokenizer.decode(first.response_ids) == "It is<end>"
    assert student_tokenizer.decode(second.response_ids) == "There is more<end>"
    assert "It is<end><user> Why?" in student_tokenizer.decode(second.prompt_ids)


def test_translation_separates_turns_that_the_students_template_writes_anew(tmp_path, teacher_tokenizer):
    answer = (Message("assistant", "It is"), Message("user", "Why?"), Message("assistant", "There is more"))
    student = FAMILIES["qwen3"].tokenizer()
    source, result, rows = conversations(
        tmp_path, teacher_tokenizer, student, [("Is it?", answer, "No, sorry")]
    )
    assert not result.dropped
    assert [(row.role, row.sample_index) for row in rows] == [("chosen", 0), ("chosen", 1), ("rejected", 0)]
    assert student.decode(rows[0].scored_ids) == "It is<|im_end|>"
    assert student.decode(rows[1].scored_ids) == "There is more<|im_end|>"
    assert "Why?" in student.decode(rows[1].prompt_ids)
    # Each turn has what the teacher said of it, its end last.
    whole = next(source.iterate())
    ends = np.flatnonzero(whole.scored_ids == teacher_tokenizer.eos_token_id)
    values = [part.astype(np.float64).sum() for part in np.split(whole.teacher_token_logprobs, [ends[0] + 1])]
    for row, value, end in zip(rows, values, ends, strict=False):
        # float32 sums of some ten numbers.
        assert row.teacher_token_logprobs.astype(np.float64).sum() == pytest.approx(value, rel=1e-6)
        assert row.teacher_token_logprobs[-1] == whole.teacher_token_logprobs[end]
        assert row.teacher_tail_logprobs[-1] >= whole.teacher_tail_logprobs[end]
    assert list(verify_dataset(result.path)) == []


def test_translation_gives_the_students_template_the_arguments_that_it_reads(tmp_path, teacher_tokenizer):
    told = "{% if city is defined %}City: {{ city }} {% endif %}"
    teacher = train_tokenizer(
        330, "<|im_end|>", ["<|im_start|>", "<|im_end|>"], "{{ day | default('') }}" + told + CHATML
    )
    student = train_tokenizer(290, "<end>", ["<end>"], told + OTHER)
    arguments = {"city": "Paris", "day": "Monday"}
    _, _, rows = conversations(tmp_path, teacher, student, TEXTS[:1], template_args=arguments)
    assert student.decode(rows[0].prompt_ids).startswith("City: Paris <user>")
