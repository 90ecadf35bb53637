"""Chat templates of forty families, as small as they can be, and what becomes of four conversations under each.

They are built here from what tells the families apart: how turns begin and end, where a system turn goes, how a thought
is read and written and what the prompt begins of it, how tools are called and answered. None is the template of a
model, but each has the traits of the model family that it is named after.
"""

import dataclasses
import json
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from data.errors import DataError
from data.preferences.messages import Message, PreferenceRow
from data.tokens.encoder import PairEncoder
from tests.data.tokens.chat_tokenizers import byte_level


@dataclass(frozen=True, kw_only=True)
class Thoughts:
    """How a template treats thoughts.

    Attributes:
        begin, end: the tags, with the whitespace around what is between them.
        field: the field of a message that is read; None for none.
        splits: whether a thought is also found in the text, before the closing tag.
        writes: `given` (where there is one), `latest` (also an empty one, in turns after the last user's),
            `always`, or `never`: thoughts in the text are cut off.
        empty: what the template writes where there is no thought.
        prompt: what the generation prompt ends with.
        prompt_off: the same with the argument `switch` set to false; None where there is no such argument.
        switch: the argument's name.
        on: whether thinking is on unless the argument says otherwise.
        keeps_earlier: whether turns before the last user's keep their thoughts.
    """

    begin: str = "<think>\n"
    end: str = "\n</think>\n\n"
    field: str | None = "reasoning_content"
    splits: bool = True
    writes: str = "given"
    empty: str | None = None
    prompt: str = ""
    prompt_off: str | None = None
    switch: str = "enable_thinking"
    on: bool = True
    keeps_earlier: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """What tells a family of templates apart; headers by role."""

    user: str
    assistant: str
    end: str
    user_end: str | None = None
    system: str | None = None
    bos: str = ""
    eos: str
    specials: tuple[str, ...] = ()
    prompt: str | None = None
    trims: bool = False
    thoughts: Thoughts | None = None
    call: tuple[str, str] | None = None
    tool: tuple[str, str] | None = None
    earlier_end: str | None = None
    generation: bool = False

    def template(self) -> str:
        """The Jinja source."""
        q = json.dumps
        user_end = self.end if self.user_end is None else self.user_end
        content = "(m['content'] or '')" + (" | trim" if self.trims else "")
        end = q(self.end)
        if self.earlier_end is not None:
            end = f"({q(self.end)} if loop.last else {q(self.earlier_end)})"
        lines = [
            "{%- set ns = namespace(last=-1) -%}",
            "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}"
            "{%- endif -%}{%- endfor -%}",
            f"{{{{- {q(self.bos)} -}}}}" if self.bos else "",
        ]
        if self.call is not None:
            header = self.system if self.system is not None else self.user
            lines.append(
                f"{{%- if tools -%}}{{{{- {q(header)} + 'Tools: ' -}}}}{{%- for t in tools -%}}{{{{- t | tojson -}}}}"
                f"{{%- endfor -%}}{{{{- {q(user_end)} -}}}}{{%- endif -%}}"
            )
        lines.append("{%- for m in messages -%}")
        lines.append(f"{{%- set content = {content} -%}}")
        lines.append("{%- if m['role'] == 'assistant' -%}")
        lines += self._thought_lines()
        lines.append(f"{{{{- {q(self.assistant)} -}}}}")
        if self.generation:
            lines.append("{%- generation -%}")
        lines.append("{{- block + content -}}")
        if self.call is not None:
            begin, close = map(q, self.call)
            lines.append(
                f"{{%- if m['tool_calls'] -%}}{{%- for c in m['tool_calls'] -%}}{{%- set f = c['function'] or c -%}}"
                f"{{{{- {begin} + '{{\"name\": ' + (f['name'] | tojson) + ', \"arguments\": '"
                f" + (f['arguments'] | tojson) + '}}' + {close} -}}}}{{%- endfor -%}}{{%- endif -%}}"
            )
        lines.append(f"{{{{- {end} -}}}}")
        if self.generation:
            lines.append("{%- endgeneration -%}")
        if self.tool is not None:
            before, after = map(q, self.tool)
            lines.append(f"{{%- elif m['role'] == 'tool' -%}}{{{{- {before} + content + {after} -}}}}")
        lines.append("{%- elif m['role'] == 'system' -%}")
        if self.system is None:
            lines.append("{{- raise_exception('no system turns') -}}")
        else:
            lines.append(f"{{{{- {q(self.system)} + content + {q(user_end)} -}}}}")
        lines.append(f"{{%- else -%}}{{{{- {q(self.user)} + content + {q(user_end)} -}}}}{{%- endif -%}}")
        lines.append("{%- endfor -%}")
        prompt = self.assistant if self.prompt is None else self.prompt
        tail = self._prompt_tail()
        lines.append(f"{{%- if add_generation_prompt -%}}{{{{- {q(prompt)} + {tail} -}}}}{{%- endif -%}}")
        return "".join(lines)

    def _thought_lines(self) -> list[str]:
        q, thoughts = json.dumps, self.thoughts
        if thoughts is None:
            return ["{%- set block = '' -%}"]
        lines = ["{%- set thought = '' -%}"]
        if thoughts.field is not None:
            lines.append(
                f"{{%- if m['{thoughts.field}'] -%}}{{%- set thought = m['{thoughts.field}'] | trim -%}}{{%- endif -%}}"
            )
        begin, close = thoughts.begin.strip(), thoughts.end.strip()
        if thoughts.splits:
            lines.append(
                f"{{%- if {q(close)} in content -%}}"
                f"{{%- set thought = content.split({q(close)})[0].split({q(begin)})[-1] | trim -%}}"
                f"{{%- set content = content.split({q(close)})[-1].lstrip('\\n') -%}}{{%- endif -%}}"
            )
        written = f"{q(thoughts.begin)} + thought + {q(thoughts.end)}"
        empty = q(thoughts.begin + thoughts.end if thoughts.empty is None else thoughts.empty)
        is_late = "true" if thoughts.keeps_earlier else "loop.index0 > ns.last"
        lines.append("{%- set block = '' -%}")
        if thoughts.writes in ("given", "latest", "always"):
            lines.append(f"{{%- if thought and {is_late} -%}}{{%- set block = {written} -%}}")
            if thoughts.writes != "given":
                where = is_late if thoughts.writes == "latest" else "true"
                lines.append(f"{{%- elif {where} -%}}{{%- set block = {empty} -%}}")
            lines.append("{%- endif -%}")
        return lines

    def _prompt_tail(self) -> str:
        q, thoughts = json.dumps, self.thoughts
        if thoughts is None:
            return "''"
        if thoughts.prompt_off is None:
            return q(thoughts.prompt)
        default = "true" if thoughts.on else "false"
        return (
            f"({q(thoughts.prompt)} if {thoughts.switch} | default({default}) else {q(thoughts.prompt_off)})"
        )

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A byte-level tokenizer with the family's special tokens and template."""
        backend = byte_level([])
        specials = [self.eos, *((self.bos,) if self.bos else ()), *self.specials]
        backend.add_special_tokens(specials)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token=self.eos,
            bos_token=self.bos or None,
            clean_up_tokenization_spaces=False,
        )
        tokenizer.chat_template = self.template()
        return tokenizer


def chatml(**traits) -> Family:
    """`<|im_start|>role` and `<|im_end|>`."""
    return Family(
        **{
            "user": "<|im_start|>user\n",
            "assistant": "<|im_start|>assistant\n",
            "system": "<|im_start|>system\n",
            "end": "<|im_end|>\n",
            "eos": "<|im_end|>",
            "specials": ("<|im_start|>",),
            **traits,
        }
    )


HERMES = {
    "call": ("<tool_call>\n", "\n</tool_call>"),
    "tool": ("<|im_start|>user\n<tool_response>\n", "\n</tool_response><|im_end|>\n"),
}


def llama_3(**traits) -> Family:
    """`<|start_header_id|>role<|end_header_id|>` and `<|eot_id|>`."""
    head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    return Family(
        **{
            "user": head("user"),
            "assistant": head("assistant"),
            "system": head("system"),
            "end": "<|eot_id|>",
            "bos": "<|begin_of_text|>",
            "eos": "<|eot_id|>",
            "specials": ("<|start_header_id|>", "<|end_header_id|>"),
            "trims": True,
            **traits,
        }
    )


def bars(**traits) -> Family:
    """`<|role|>` lines."""
    return Family(
        **{
            "user": "<|user|>\n",
            "assistant": "<|assistant|>\n",
            "system": "<|system|>\n",
            "end": "<|end|>\n",
            "eos": "<|end|>",
            "specials": ("<|user|>", "<|assistant|>", "<|system|>"),
            **traits,
        }
    )


def deepseek(**traits) -> Family:
    """`<｜User｜>` and `<｜Assistant｜>`."""
    return Family(
        **{
            "user": "<｜User｜>",
            "assistant": "<｜Assistant｜>",
            "system": "",
            "user_end": "",
            "end": "<｜end▁of▁sentence｜>",
            "bos": "<｜begin▁of▁sentence｜>",
            "eos": "<｜end▁of▁sentence｜>",
            "specials": ("<｜User｜>", "<｜Assistant｜>"),
            **traits,
        }
    )


def instruct(**traits) -> Family:
    """`[INST]` and `</s>`."""
    return Family(
        **{
            "user": "[INST] ",
            "user_end": " [/INST]",
            "assistant": "",
            "prompt": "",
            "end": "</s>",
            "bos": "<s>",
            "eos": "</s>",
            **traits,
        }
    )


QWEN_3 = Thoughts(writes="latest", prompt="", prompt_off="<think>\n\n</think>\n\n")
OPENED = Thoughts(writes="latest", prompt="<think>\n", prompt_off="<think>\n\n</think>\n\n")
NEMOTRON_3 = Thoughts(
    writes="always",
    empty="<think></think>",
    prompt="<think>\n",
    prompt_off="<think></think>",
    end="\n</think>\n",
)

FAMILIES = {
    "chatml": chatml(),
    "qwen2.5": chatml(**HERMES),
    "qwen3": chatml(thoughts=QWEN_3, **HERMES),
    "qwen3-thinking-2507": chatml(thoughts=Thoughts(prompt="<think>\n"), **HERMES),
    "qwen3.5-think": chatml(thoughts=OPENED, **HERMES),
    "qwen3.5-nothink": chatml(thoughts=dataclasses.replace(OPENED, on=False), **HERMES),
    "qwen3.6": chatml(thoughts=dataclasses.replace(OPENED, keeps_earlier=True, writes="always"), **HERMES),
    "qwen3.8": chatml(thoughts=dataclasses.replace(OPENED, splits=False), **HERMES),
    "qwq": chatml(thoughts=Thoughts(prompt="<think>\n", field=None, writes="never"), **HERMES),
    "nemotron-3-nano": chatml(thoughts=NEMOTRON_3, **HERMES),
    "nemotron-3-super": chatml(thoughts=dataclasses.replace(NEMOTRON_3, splits=False), **HERMES),
    "nemotron-3-ultra": chatml(thoughts=dataclasses.replace(NEMOTRON_3, keeps_earlier=True), **HERMES),
    "nemotron-3.5": chatml(thoughts=dataclasses.replace(NEMOTRON_3, writes="latest"), **HERMES),
    "smollm3": chatml(thoughts=dataclasses.replace(QWEN_3, field=None), **HERMES),
    "hermes-4": chatml(thoughts=Thoughts(field=None, splits=False, keeps_earlier=True), **HERMES),
    "lfm2": chatml(
        bos="<|startoftext|>",
        call=("<|tool_call_start|>", "<|tool_call_end|>"),
        tool=("<|im_start|>tool\n", "<|im_end|>\n"),
    ),
    "chatml with generation marks": chatml(generation=True, **HERMES),
    "llama-3": llama_3(),
    "llama-3.1": llama_3(
        call=("", ""), tool=("<|start_header_id|>ipython<|end_header_id|>\n\n", "<|eot_id|>")
    ),
    "nemotron-nano-2": llama_3(thoughts=Thoughts(field=None, writes="never", prompt="<think>\n")),
    "llama-2": instruct(end=" </s>"),
    "mistral-0.3": instruct(
        user="[INST]",
        user_end="[/INST]",
        call=("[TOOL_CALLS]", ""),
        tool=("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        system="[AVAILABLE_TOOLS]",
    ),
    "magistral": instruct(
        user="[INST]",
        user_end="[/INST]",
        system="[SYSTEM_PROMPT]",
        specials=("[THINK]", "[/THINK]"),
        thoughts=Thoughts(begin="[THINK]", end="[/THINK]", field="reasoning_content", keeps_earlier=True),
        call=("[TOOL_CALLS]", ""),
        tool=("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ),
    "gemma-2": Family(
        user="<start_of_turn>user\n",
        assistant="<start_of_turn>model\n",
        end="<end_of_turn>\n",
        bos="<bos>",
        eos="<end_of_turn>",
        specials=("<start_of_turn>",),
        trims=True,
    ),
    "gemma-3": Family(
        user="<start_of_turn>user\n",
        assistant="<start_of_turn>model\n",
        system="<start_of_turn>user\n",
        end="<end_of_turn>\n",
        bos="<bos>",
        eos="<end_of_turn>",
        specials=("<start_of_turn>",),
        trims=True,
    ),
    "gemma-4": Family(
        user="<|turn>user\n",
        assistant="<|turn>model\n",
        system="<|turn>system\n",
        end="<turn|>\n",
        bos="<bos>",
        eos="<turn|>",
        specials=("<|turn>", "<|channel>", "<channel|>"),
        thoughts=Thoughts(begin="<|channel>thought\n", end="\n<channel|>", field="reasoning"),
        call=("<|tool_call>", "<tool_call|>"),
        tool=("<|turn>tool\n", "<turn|>\n"),
    ),
    "phi-3": bars(),
    "phi-4-reasoning": chatml(
        user="<|im_start|>user<|im_sep|>",
        assistant="<|im_start|>assistant<|im_sep|>",
        system="<|im_start|>system<|im_sep|>",
        end="<|im_end|>",
        thoughts=Thoughts(field=None, splits=False, keeps_earlier=True),
    ),
    "zephyr": bars(end="</s>\n", eos="</s>"),
    "tulu-3": bars(end="<|endoftext|>\n", user_end="\n", eos="<|endoftext|>"),
    "granite-3": bars(
        user="<|start_of_role|>user<|end_of_role|>",
        assistant="<|start_of_role|>assistant<|end_of_role|>",
        system="<|start_of_role|>system<|end_of_role|>",
        end="<|end_of_text|>\n",
        eos="<|end_of_text|>",
        specials=("<|start_of_role|>", "<|end_of_role|>"),
        call=("<|tool_call|>", ""),
        tool=("<|start_of_role|>tool_response<|end_of_role|>", "<|end_of_text|>\n"),
    ),
    "glm-4.5": bars(
        end="",
        user_end="",
        eos="<|endoftext|>",
        thoughts=Thoughts(
            begin="<think>",
            end="</think>\n",
            writes="always",
            empty="<think></think>\n",
            prompt_off="<think></think>\n",
        ),
        call=("\n<tool_call>", "</tool_call>"),
        tool=("<|observation|>\n", ""),
    ),
    "deepseek-v3": deepseek(),
    "deepseek-v3.1": deepseek(
        thoughts=Thoughts(
            begin="<think>",
            end="</think>",
            field=None,
            writes="always",
            empty="</think>",
            prompt="<think>",
            prompt_off="</think>",
            switch="thinking",
            on=False,
            keeps_earlier=True,
        ),
        call=("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
        tool=("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    ),
    "deepseek-r1-distill": deepseek(thoughts=Thoughts(field=None, writes="never", prompt="<think>\n")),
    "kimi-k2": chatml(
        user="<|im_user|>user<|im_middle|>",
        assistant="<|im_assistant|>assistant<|im_middle|>",
        system="<|im_system|>system<|im_middle|>",
        end="<|im_end|>",
        specials=("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
        thoughts=Thoughts(begin="◁think▷", end="◁/think▷", splits=False),
        call=("<|tool_call_begin|>", "<|tool_call_end|>"),
        tool=("<|im_system|>tool<|im_middle|>", "<|im_end|>"),
    ),
    "gpt-oss": Family(
        user="<|start|>user<|message|>",
        user_end="<|end|>",
        assistant="<|start|>assistant",
        system="<|start|>developer<|message|>",
        end="<|return|>",
        earlier_end="<|end|>",
        eos="<|return|>",
        specials=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"),
        thoughts=Thoughts(
            begin="<|channel|>analysis<|message|>",
            end="<|end|><|start|>assistant<|channel|>final<|message|>",
            field="thinking",
            splits=False,
            writes="always",
            empty="<|channel|>final<|message|>",
        ),
        call=("<|channel|>commentary<|message|>", ""),
        tool=("<|start|>functions<|message|>", "<|end|>"),
    ),
    "seed-oss": chatml(
        user="<seed:bos>user\n",
        assistant="<seed:bos>assistant\n",
        system="<seed:bos>system\n",
        end="<seed:eos>",
        eos="<seed:eos>",
        specials=("<seed:bos>",),
        thoughts=Thoughts(begin="<seed:think>", end="</seed:think>", keeps_earlier=True),
        call=("<seed:tool_call>", "</seed:tool_call>"),
        tool=("<seed:bos>tool\n", "<seed:eos>"),
    ),
    "command-a-reasoning": chatml(
        user="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
        assistant="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>",
        end="<|END_OF_TURN_TOKEN|>",
        eos="<|END_OF_TURN_TOKEN|>",
        specials=("<|START_OF_TURN_TOKEN|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        thoughts=Thoughts(
            begin="<|START_THINKING|>",
            end="<|END_THINKING|>",
            field="thinking",
            writes="latest",
            splits=False,
        ),
        call=("<|START_ACTION|>", "<|END_ACTION|>"),
        tool=("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    "exaone-4": bars(
        user="[|user|]\n",
        assistant="[|assistant|]\n",
        system="[|system|]\n",
        end="[|endofturn|]\n",
        eos="[|endofturn|]",
        specials=("[|user|]", "[|assistant|]"),
        thoughts=dataclasses.replace(QWEN_3, prompt="<think>\n"),
        call=("<tool_call>", "</tool_call>"),
        tool=("[|tool|]\n", "[|endofturn|]\n"),
    ),
    "h2o-danube": Family(
        user="<|prompt|>",
        assistant="<|answer|>",
        end="</s>",
        eos="</s>",
        specials=("<|prompt|>", "<|answer|>"),
    ),
    "vicuna": Family(
        user="USER: ", user_end=" ", assistant="ASSISTANT: ", system="", end="</s>", bos="<s>", eos="</s>"
    ),
    "alpaca": Family(
        user="### Instruction:\n",
        user_end="\n\n",
        assistant="### Response:\n",
        system="",
        end="\n\n",
        eos="<|endoftext|>",
    ),
}

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Ulm"}}}
TOOLS = ({"type": "function", "function": {"name": "weather", "description": "The weather of a town"}},)
ASKED = (Message("user", "Is it wet in Ulm?"),)
THOUGHT = {"reasoning_content": "Rivers are wet."}

#: What a response is made of, by the name of its kind.
KINDS = {
    "plain": (Message("assistant", "It is fine."),),
    "thought": (Message("assistant", "It is fine.", THOUGHT),),
    "thought in the text": (Message("assistant", "<think>\nRivers are wet.\n</think>\n\nIt is fine."),),
    "tools": (
        Message("assistant", "", {"tool_calls": [CALL]}),
        Message("tool", "Rain until noon."),
        Message("assistant", "It rains."),
    ),
    "two turns": (
        Message("assistant", "It is fine."),
        Message("user", "And in Bonn?"),
        Message("assistant", "It is cloudy."),
    ),
}


def conversation_row(kind: str) -> PreferenceRow:
    """A row whose chosen answer is of that kind."""
    answer = KINDS[kind]
    said = answer[0].content if len(answer) == 1 and not answer[0].extra else answer
    return PreferenceRow(kind, ASKED, said, None, kind, TOOLS if kind == "tools" else None)


def outcome(name: str, kind: str) -> str:
    """What becomes of a conversation under a family's template, in words."""
    encoder = PairEncoder(FAMILIES[name].tokenizer())
    try:
        encoded = encoder.encode(conversation_row(kind))
    except DataError as error:
        return f"refused: {str(error).partition(': ')[2]}"
    if encoded is None:
        (reason,) = encoder.counts.dropped
        return f"dropped: {reason}"
    if len(encoded.chosen) > 1:
        return "right, each turn on its own"
    (response,) = encoded.chosen
    if response.mask is not None:
        return "masked"
    if len(response.prompt_ids) == len(encoded.prompt_ids):
        return "right"
    return "right, thinking on" if kind.startswith("thought") else "right, empty thought in the prompt"
