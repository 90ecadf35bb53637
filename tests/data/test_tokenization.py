import datetime

import numpy as np
import pytest
import transformers.utils.chat_template_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from data.conversations import Message, PreferenceRow
from data.errors import DataError
from data.tokenization import PairEncoder

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog\n\n",
    "Hello there, how are you? I am fine.\n",
    "a  b   c, system user assistant",
    "question answer [INST] [/INST] <|user|>\n",
    "1234567890 !?.,;:()[]{}<>|'\"",
]


def byte_level(special):
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def metaspace(special, *, dummy_prefix):
    """BPE over whole texts with spaces spelled ▁ and bytes to fall back on, as Llama 2 and Gemma have it."""
    letters = sorted(set("".join(CORPUS)) - {" ", "\n"})
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("▁", "▁"), ("l", "l"), ("▁", "[")]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if dummy_prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    steps = [decoders.Strip(" ", 1, 0)] if dummy_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *steps]
    )
    return backend


def wrap(backend, *, bos=None, eos=None, template=None, adds_bos=False, adds_eos=False):
    backend.add_special_tokens([token for token in (bos, eos) if token])
    if adds_bos or adds_eos:
        pieces = [bos] * adds_bos + ["$A"] + [eos] * adds_eos
        special = [(token, backend.token_to_id(token)) for token in (bos, eos) if token]
        backend.post_processor = processors.TemplateProcessing(single=pieces, special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = template
    return tokenizer


def chatml(template=CHATML):
    backend = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return wrap(backend, eos="<|im_end|>", template=template)


def llama_2(template=LLAMA_2):
    backend = metaspace(["<unk>", "<s>", "</s>"], dummy_prefix=True)
    return wrap(backend, bos="<s>", eos="</s>", adds_bos=True, template=template)


def llama_3():
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return wrap(byte_level(names), bos=names[0], eos=names[1], adds_bos=True, template=LLAMA_3)


def gemma():
    backend = metaspace(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"], dummy_prefix=False
    )
    backend.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    return wrap(backend, bos="<bos>", eos="<eos>", adds_bos=True, template=GEMMA)


def zephyr():
    return llama_2(template=ZEPHYR)


def plain_byte_level():
    return wrap(byte_level(["<|endoftext|>"]), eos="<|endoftext|>")


def plain_metaspace():
    return llama_2(template=None)


STYLES = {
    "chatml": (chatml(), "<|im_end|>"),
    "llama-2": (llama_2(), "</s>"),
    "llama-3": (llama_3(), "<|eot_id|>"),
    "gemma": (gemma(), "<end_of_turn>"),
    "zephyr": (zephyr(), "</s>"),
    "plain byte-level": (plain_byte_level(), "<|endoftext|>"),
    "plain metaspace": (plain_metaspace(), "</s>"),
}
TEMPLATED = [style for style in STYLES if not style.startswith("plain")]


def row(prompt="How are you?", chosen="I am fine.", rejected="the dog", location="pairs.jsonl line 1"):
    return PreferenceRow("id", prompt, chosen, rejected, location)


def conversation(*texts):
    return tuple(Message(("user", "assistant")[place % 2], text) for place, text in enumerate(texts))


def dicts(turns):
    return [turn._asdict() for turn in turns]


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


@pytest.mark.parametrize(
    ("style", "cut"), [("chatml", "\n"), ("llama-2", ""), ("llama-3", ""), ("gemma", "\n"), ("zephyr", "\n")]
)
def test_what_a_template_writes_behind_the_terminator_is_cut(style, cut):
    tokenizer, _ = STYLES[style]
    encoded = PairEncoder(tokenizer).encode(row())
    text = tokenizer.apply_chat_template(dicts(conversation("How are you?", "I am fine.")), tokenize=False)
    kept = tokenizer.decode([*encoded.prompt_ids, *encoded.chosen_ids])
    # Llama 2's normalizer puts a space behind every special token, which decoding shows.
    assert kept.replace(" ", "") + cut == text.replace(" ", "")


def test_both_answers_follow_the_same_prompt():
    tokenizer, _ = STYLES["chatml"]
    encoded = PairEncoder(tokenizer).encode(row())
    assert tokenizer.decode(encoded.chosen_ids) == "I am fine.<|im_end|>"
    assert tokenizer.decode(encoded.rejected_ids) == "the dog<|im_end|>"


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


def test_without_a_template_turns_are_joined_as_they_stand():
    tokenizer, _ = STYLES["plain byte-level"]
    encoder = PairEncoder(tokenizer)
    encoded = encoder.encode(row(conversation("one ", "two ", "three ")))
    assert tokenizer.decode(encoded.prompt_ids) == "one two three "
    assert encoder.template_hash is None
    assert "no chat template, turns are joined as they stand; answers end with '<|endoftext|>', appended" in (
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


# --- The terminator


def test_a_template_without_an_end_of_turn_gets_the_end_of_sequence_token():
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = chatml(template)
    encoder = PairEncoder(tokenizer)
    assert tokenizer.decode(encoder.encode(row()).chosen_ids) == "I am fine.<|im_end|>"
    assert "'<|im_end|>', appended" in encoder.describe()


def test_an_end_of_turn_need_not_be_the_end_of_sequence():
    tokenizer = chatml(CHATML + "{% if not add_generation_prompt %}{{ '<|endoftext|>' }}{% endif %}")
    encoder = PairEncoder(tokenizer)
    assert tokenizer.decode(encoder.encode(row()).chosen_ids) == "I am fine.<|im_end|>"
    assert PairEncoder(STYLES["llama-3"][0]).terminator_id != STYLES["llama-3"][0].eos_token_id


def test_a_special_token_that_no_attribute_names_ends_the_turn():
    tokenizer = wrap(byte_level(["<|endoftext|>"]), eos="<|endoftext|>", template=CHATML)
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True)])
    encoder = PairEncoder(tokenizer)
    assert tokenizer.convert_ids_to_tokens(encoder.terminator_id) == "<|im_end|>"


def test_an_answer_that_holds_the_terminator_is_dropped_and_counted():
    tokenizer, _ = STYLES["chatml"]
    encoder = PairEncoder(tokenizer)
    assert encoder.encode(row(rejected="the <|im_end|> dog")) is None
    assert encoder.encode(row()) is not None
    assert encoder.counts.dropped == {"answer holds '<|im_end|>'": 1}
    assert (encoder.counts.read, encoder.counts.kept) == (2, 1)


def test_an_answer_that_the_tokenizer_swallows_is_dropped_and_counted():
    backend = Tokenizer(models.BPE({"y": 0, "e": 1, "s": 2, "</s>": 3}, []))
    encoder = PairEncoder(wrap(backend, eos="</s>"))
    assert encoder.encode(row("yes", "no", "yes")) is None
    assert encoder.counts.dropped == {"answer has no tokens": 1}


def test_nothing_to_end_an_answer_with_is_refused():
    with pytest.raises(DataError, match=r"no end-of-sequence token.*set eos_token"):
        PairEncoder(wrap(byte_level(["<|endoftext|>"])))


# --- Templates that do not fit


@pytest.mark.parametrize("style", ["llama-2", "gemma"])
def test_a_system_turn_that_the_template_refuses_is_a_clear_error(style):
    prompt = (Message("system", "Be brief."), Message("user", "Why?"))
    with pytest.raises(
        DataError, match=r"line 7: the chat template refuses a conversation of system, user: .*system"
    ):
        PairEncoder(STYLES[style][0]).encode(row(prompt, location="pairs.jsonl line 7"))


def test_a_generation_prompt_that_answers_do_not_begin_with_is_a_clear_error():
    tokenizer = chatml(CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}"))
    with pytest.raises(
        DataError, match=r"line 1: the chat template writes an answered conversation differently"
    ):
        PairEncoder(tokenizer).encode(row())


def test_a_template_that_ends_answers_unlike_is_a_clear_error():
    tokenizer = chatml(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
        "{% if 'fine' in m['content'] %}{{ '!' }}{% endif %}"
        "{{ '<|im_end|>' if 'fine' not in m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    with pytest.raises(DataError, match=r"others with '<\|im_end\|>'"):
        PairEncoder(tokenizer).encode(row())


def test_a_broken_template_is_a_clear_error():
    with pytest.raises(DataError, match="the chat template refuses a conversation of user, assistant"):
        PairEncoder(chatml("{{ messages.nothing.there }}"))


def test_a_template_that_prints_the_date_prints_the_same_one_every_day(monkeypatch):
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 1)

    tokenizer = chatml("{{ strftime_now('%d %b %Y') + '\n' }}" + CHATML)
    today = PairEncoder(tokenizer).encode(row()).prompt_ids
    monkeypatch.setattr(transformers.utils.chat_template_utils, "datetime", Tomorrow)
    assert "2031" in tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    tomorrow = PairEncoder(tokenizer).encode(row()).prompt_ids
    assert tokenizer.decode(today).startswith("26 Jul 2024\n")
    assert today.tolist() == tomorrow.tolist()


# --- Lengths


def lengths(encoded):
    return [len(encoded.prompt_ids), len(encoded.chosen_ids), len(encoded.rejected_ids)]


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
    total = len(whole.prompt_ids) + max(len(whole.chosen_ids), len(whole.rejected_ids))
    encoder = PairEncoder(tokenizer, max_length=total - 3, truncate=True)
    cut = encoder.encode(row())
    assert cut.chosen_ids.tolist() == whole.chosen_ids.tolist()
    assert cut.rejected_ids.tolist() == whole.rejected_ids.tolist()
    bos = int(whole.prompt_ids[0] == tokenizer.bos_token_id)
    assert cut.prompt_ids[:bos].tolist() == whole.prompt_ids[:bos].tolist()
    assert cut.prompt_ids[bos:].tolist() == whole.prompt_ids[bos + 3 :].tolist()
    assert encoder.num_truncated == encoder.counts.kept == 1
    assert "1 prompts cut from the left" in encoder.describe()


@pytest.mark.parametrize("style", ["llama-3", "chatml"])
def test_truncation_leaves_a_token_of_the_prompt_or_drops_the_row(style):
    tokenizer, _ = STYLES[style]
    whole = PairEncoder(tokenizer).encode(row())
    longest = max(len(whole.chosen_ids), len(whole.rejected_ids))
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
    assert encoded.rejected_ids is None
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
