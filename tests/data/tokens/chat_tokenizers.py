"""Tokenizers and chat templates of the kinds people use, trained on a few words."""

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

from data.preferences.messages import Message, PreferenceRow

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
# As the public templates of these families have it, without their handling of tools.
MISTRAL_03 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}{% if m['role'] == 'user' %}"
    "{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}"
    "{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
QWEN_3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m['content'] %}{% set thought = '' %}"
    "{% if m['role'] == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
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


def mistral_03():
    return llama_2(template=MISTRAL_03)


def qwen_3():
    return chatml(QWEN_3)


def phi_3():
    tokenizer = wrap(
        metaspace(["<unk>", "<s>", "<|endoftext|>"], dummy_prefix=True),
        bos="<s>",
        eos="<|endoftext|>",
        adds_bos=True,
        template=PHI_3,
    )
    # These include the newline after them.
    tokenizer.add_tokens(
        [
            AddedToken(f"<|{name}|>", rstrip=True, special=True)
            for name in ("user", "assistant", "system", "end")
        ]
    )
    return tokenizer


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
    "mistral-0.3": (mistral_03(), "</s>"),
    "plain byte-level": (plain_byte_level(), "<|endoftext|>"),
    "plain metaspace": (plain_metaspace(), "</s>"),
}
TEMPLATED = [style for style in STYLES if not style.startswith("plain")]


def row(prompt="How are you?", chosen="I am fine.", rejected="the dog", location="pairs.jsonl line 1"):
    return PreferenceRow("id", prompt, chosen, rejected, location)


def conversation(*texts):
    return tuple(Message(("user", "assistant")[place % 2], text) for place, text in enumerate(texts))


def dicts(turns):
    return [turn.as_dict() for turn in turns]
