import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.preferences.messages import Message
from data.tokens.encoder import PairEncoder
from tests.data.tokens.chat_tokenizers import (
    CHATML,
    LLAMA_2,
    STYLES,
    TEMPLATED,
    chatml,
    conversation,
    dicts,
    metaspace,
    plain_metaspace,
    row,
    wrap,
)

# ▁ is how these tokenizers spell a space; it cannot come back as itself.
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="▁\x00"), st.sampled_from("the\n  [a")
    ),
    min_size=1,
    max_size=30,
).filter(str.strip)
with_tokens = st.one_of(
    texts,
    st.lists(
        st.one_of(
            texts, st.sampled_from(["</s>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>"])
        ),
        min_size=1,
        max_size=4,
    ).map("".join),
)
quick = settings(max_examples=40)


@pytest.mark.parametrize("style", STYLES)
@given(prompt=texts, answer=texts)
@quick
def test_an_answer_decodes_to_its_text_and_ends_with_the_terminator_once(style, prompt, answer):
    tokenizer, terminator = STYLES[style]
    encoder = PairEncoder(tokenizer)
    encoded = encoder.encode(row(prompt, answer, None))
    assert encoded is not None
    assert tokenizer.convert_ids_to_tokens(encoder.terminator_id) == terminator
    ids = encoded.chosen_ids.tolist()
    assert ids[-1] == encoder.terminator_id
    assert ids.count(encoder.terminator_id) == 1
    # Templates trim answers or set them off with spaces and newlines; decoders drop a leading space.
    assert tokenizer.decode(ids[:-1]).strip() == answer.strip()
    assert encoded.prompt_ids.tolist().count(tokenizer.bos_token_id) <= 1
    assert encoded.prompt_ids.dtype == encoded.chosen_ids.dtype == np.int32


@pytest.mark.parametrize("style", ["chatml", "plain byte-level"])
@given(prompt=texts, answer=texts)
@quick
def test_byte_level_answers_decode_to_exactly_their_text(style, prompt, answer):
    tokenizer, _ = STYLES[style]
    encoded = PairEncoder(tokenizer).encode(row(prompt, answer, None))
    assert tokenizer.decode(encoded.chosen_ids[:-1]) == answer


@pytest.mark.parametrize("style", TEMPLATED)
@given(turns=st.lists(texts, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2), answer=with_tokens)
@quick
def test_prompt_and_answer_are_the_template_s_own_tokens(style, turns, answer):
    tokenizer, terminator = STYLES[style]
    prompt = conversation(*turns)
    encoded = PairEncoder(tokenizer).encode(row(prompt, answer, None))
    if encoded is None:
        assert terminator in answer
        return
    options = {"tokenize": True, "return_dict": False}
    expected = tokenizer.apply_chat_template(dicts(prompt), add_generation_prompt=True, **options)
    assert encoded.prompt_ids.tolist() == expected
    full = tokenizer.apply_chat_template(dicts((*prompt, Message("assistant", answer))), **options)
    ids = [*expected, *encoded.chosen_ids.tolist()]
    if full[: len(expected)] == expected:
        assert ids == full[: len(ids)]
    assert tokenizer.decode(full).startswith(tokenizer.decode(ids))


def test_both_answers_follow_the_same_prompt():
    tokenizer, _ = STYLES["chatml"]
    encoded = PairEncoder(tokenizer).encode(row())
    assert tokenizer.decode(encoded.chosen_ids) == "I am fine.<|im_end|>"
    assert tokenizer.decode(encoded.rejected[-1].ids) == "the dog<|im_end|>"


@pytest.mark.parametrize("style", ["llama-2", "llama-3", "gemma", "plain metaspace"])
@pytest.mark.parametrize("prompt", ["How are you?", conversation("a", "b", "c")])
def test_there_is_one_bos_and_it_comes_first(style, prompt):
    tokenizer, _ = STYLES[style]
    ids = PairEncoder(tokenizer).encode(row(prompt)).prompt_ids.tolist()
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_plain_text_that_brings_its_own_bos_gets_no_second_one():
    ids = PairEncoder(plain_metaspace()).encode(row("<s>How are you?")).prompt_ids.tolist()
    assert ids.count(1) == 1


def test_an_eos_that_the_tokenizer_appends_to_texts_is_not_in_the_prompt():
    backend = metaspace(["<unk>", "<s>", "</s>"], dummy_prefix=True)
    tokenizer = wrap(backend, bos="<s>", eos="</s>", adds_bos=True, adds_eos=True)
    encoded = PairEncoder(tokenizer).encode(row())
    assert tokenizer.decode([*encoded.prompt_ids, *encoded.chosen_ids]) == "<s> How are you?I am fine.</s>"


def test_without_a_template_turns_are_joined_as_they_are():
    tokenizer, _ = STYLES["plain byte-level"]
    encoder = PairEncoder(tokenizer)
    encoded = encoder.encode(row(conversation("one ", "two ", "three ")))
    assert tokenizer.decode(encoded.prompt_ids) == "one two three "
    assert encoder.template_hash is None
    assert "no chat template, turns are joined as they are; answers end with '<|endoftext|>', appended" in (
        encoder.describe()
    )


def test_a_token_that_would_span_the_boundary_is_not_made():
    tokenizer, _ = STYLES["plain byte-level"]
    joint = tokenizer.encode("the fox", add_special_tokens=False)
    prompt_ids = tokenizer.encode("the f", add_special_tokens=False)
    assert joint[: len(prompt_ids)] != prompt_ids, "the texts no longer show the case"
    encoded = PairEncoder(tokenizer).encode(row("the f", "ox"))
    assert encoded.prompt_ids.tolist() == prompt_ids
    assert encoded.chosen_ids.tolist()[:-1] == tokenizer.encode("ox", add_special_tokens=False)


def test_an_answer_behind_a_spanned_boundary_gets_no_space_of_its_own():
    tokenizer = plain_metaspace()
    encoded = PairEncoder(tokenizer).encode(row("Say t", "he word"))
    ids = [*encoded.prompt_ids, *encoded.chosen_ids]
    assert encoded.prompt_ids.tolist() != tokenizer.encode("Say the word")[: len(encoded.prompt_ids)]
    assert tokenizer.decode(ids) == "<s> Say the word</s>"


# --- Lengths


def lengths(encoded):
    return [len(encoded.prompt_ids), len(encoded.chosen_ids), len(encoded.rejected[-1].ids)]


@pytest.mark.parametrize("style", STYLES)
def test_a_row_fits_exactly_up_to_its_prompt_and_longest_answer(style):
    tokenizer, _ = STYLES[style]
    prompt, chosen, rejected = lengths(PairEncoder(tokenizer).encode(row()))
    total = prompt + max(chosen, rejected)
    assert lengths(PairEncoder(tokenizer, max_length=total).encode(row())) == [prompt, chosen, rejected]
    encoder = PairEncoder(tokenizer, max_length=total - 1)
    assert encoder.encode(row()) is None
    assert encoder.counts.dropped == {f"longer than {total - 1} tokens": 1}


@pytest.mark.parametrize("style", STYLES)
def test_truncation_cuts_the_prompt_from_the_left_behind_its_bos_and_answers_never(style):
    tokenizer, _ = STYLES[style]
    whole = PairEncoder(tokenizer).encode(row())
    total = len(whole.prompt_ids) + max(len(whole.chosen_ids), len(whole.rejected[-1].ids))
    encoder = PairEncoder(tokenizer, max_length=total - 3, truncate=True)
    cut = encoder.encode(row())
    assert cut.chosen_ids.tolist() == whole.chosen_ids.tolist()
    assert cut.rejected[-1].ids.tolist() == whole.rejected[-1].ids.tolist()
    bos = int(whole.prompt_ids[0] == tokenizer.bos_token_id)
    assert cut.prompt_ids[:bos].tolist() == whole.prompt_ids[:bos].tolist()
    assert cut.prompt_ids[bos:].tolist() == whole.prompt_ids[bos + 3 :].tolist()
    assert encoder.num_truncated == encoder.counts.kept == 1
    assert "1 prompts cut from the left" in encoder.describe()


@pytest.mark.parametrize("style", ["llama-3", "chatml"])
def test_truncation_leaves_a_token_of_the_prompt_or_drops_the_row(style):
    tokenizer, _ = STYLES[style]
    whole = PairEncoder(tokenizer).encode(row())
    longest = max(len(whole.chosen_ids), len(whole.rejected[-1].ids))
    bos = int(whole.prompt_ids[0] == tokenizer.bos_token_id)
    least = PairEncoder(tokenizer, max_length=longest + bos + 1, truncate=True).encode(row())
    assert least.prompt_ids.tolist() == [*whole.prompt_ids[:bos], whole.prompt_ids[-1]]
    encoder = PairEncoder(tokenizer, max_length=longest + bos, truncate=True)
    assert encoder.encode(row()) is None
    assert encoder.num_truncated == 0


def test_when_every_row_is_too_long_the_shortest_is_named():
    encoder = PairEncoder(STYLES["chatml"][0], max_length=5)
    encoder.require_rows()  # no row came yet
    sizes = []
    for answer in ("I am fine.", "the quick brown fox jumps over the lazy dog"):
        encoded = PairEncoder(STYLES["chatml"][0]).encode(row(chosen=answer, rejected=None))
        sizes.append(len(encoded.prompt_ids) + len(encoded.chosen_ids))
        assert encoder.encode(row(chosen=answer, rejected=None)) is None
    with pytest.raises(DataError) as raised:
        encoder.require_rows()
    assert str(raised.value) == (
        "no row is left: 2 rows, 0 kept, dropped: 2 longer than 5 tokens; the shortest of the long ones has "
        f"{min(sizes)}: raise --max-length, or --truncate prompts"
    )


def test_rows_without_answers_are_encoded_and_measured_by_their_prompt():
    tokenizer, _ = STYLES["chatml"]
    encoded = PairEncoder(tokenizer).encode(row(chosen=None, rejected=None))
    assert encoded.chosen_ids is None
    assert encoded.rejected == ()
    assert PairEncoder(tokenizer, max_length=len(encoded.prompt_ids)).encode(row(chosen=None, rejected=None))
    assert (
        PairEncoder(tokenizer, max_length=len(encoded.prompt_ids) - 1).encode(row(chosen=None, rejected=None))
        is None
    )


# --- Hashes


def test_hashes_tell_templates_and_tokenizers_apart_and_nothing_else():
    reference = PairEncoder(chatml())
    again = PairEncoder(chatml())
    assert (again.template_hash, again.tokenizer_hash) == (reference.template_hash, reference.tokenizer_hash)
    used = chatml()
    used("a b c d", truncation=True, max_length=2)
    assert PairEncoder(used).tokenizer_hash == reference.tokenizer_hash, (
        "truncation set by a call is not identity"
    )
    other_template = PairEncoder(chatml(CHATML + " "))
    assert other_template.template_hash != reference.template_hash
    assert other_template.tokenizer_hash == reference.tokenizer_hash
    several = PairEncoder(chatml({"default": CHATML, "tool_use": LLAMA_2}))
    assert several.template_hash == reference.template_hash, "the other templates are not used"
    grown = chatml()
    grown.add_tokens(["brownfox"])
    assert PairEncoder(grown).tokenizer_hash != reference.tokenizer_hash
