"""Two turns with a tool between them whose answer matters: what training on the right mask is worth.

A question names a town; the student has to call the tool with that town, and then to answer with what the one
reading among the noise of the tool's result stands for. `sft` trains the same small model on the same conversations
with `--train-on` turns, last and all: the assistant's turns, the answer alone, or the tool's noise as well. What
counts is how often a held-out question ends in the right call and, after the tool's result, in the right answer.

    python benchmarks/tool_world.py [--steps 150] [--seeds 3] [--out FOLDER]
"""

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from student_training.options import TrainOptions
from student_training.run import train_student

TOWNS = [f"town{n}" for n in range(12)]
READINGS = [f"reading{n}" for n in range(8)]
MEANINGS = [f"meaning{n}" for n in range(8)]
NOISE = [f"noise{n}" for n in range(64)]
SPECIAL = ["<pad>", "</s>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>", "<|call|>"]
NUM_NOISE = 24
TRAIN_ON = ("turns", "last", "all")

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
TEMPLATE = (
    "{%- if tools %}<|tools|> {{ tools[0]['function']['name'] }}{% endif -%}"
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'assistant' %} <|assistant|>"
    "{%- for c in m['tool_calls'] or [] %} <|call|> {{ c['function']['name'] }}"
    " {{ c['function']['arguments']['town'] }}"
    "{%- endfor -%}"
    "{%- if m['content'] %} {{ m['content'] }}{% endif %} </s>"
    "{%- else %} <|{{ m['role'] }}|> {{ m['content'] }}{% endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %} <|assistant|>{% endif -%}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = [*SPECIAL, "what", "weather", *TOWNS, *READINGS, *MEANINGS, *NOISE]
    backend = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[2:],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def run_tool(draw: random.Random) -> tuple[str, int]:
    """What the tool says: noise with one reading somewhere in it; and which reading."""
    reading = draw.randrange(len(READINGS))
    words = [draw.choice(NOISE) for _ in range(NUM_NOISE)]
    words.insert(draw.randint(0, NUM_NOISE), READINGS[reading])
    return " ".join(words), reading


def conversation(draw: random.Random) -> dict:
    """A question, the right call, a result, the right answer."""
    town, (result, reading) = draw.choice(TOWNS), run_tool(draw)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"town": town}}}
    return {
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": f"what {town}"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": result},
            {"role": "assistant", "content": MEANINGS[reading]},
        ],
    }


@torch.inference_mode()
def evaluate(folder: Path, *, num_questions: int, seed: int) -> tuple[float, float]:
    """Shares of held-out questions with the right call, and with the right call and the right answer."""
    tokenizer, model = make_tokenizer(), AutoModelForCausalLM.from_pretrained(folder).eval()
    draw = random.Random(f"held-out {seed}")
    called = answered = 0
    for _ in range(num_questions):
        said = conversation(draw)
        asked = said["messages"][:1]
        if _generate(model, tokenizer, asked) != f"<|call|> weather {asked[0]['content'].split()[1]} </s>":
            continue
        called += 1
        answer = _generate(model, tokenizer, said["messages"][:3])
        answered += answer == f"{said['messages'][3]['content']} </s>"
    return called / num_questions, answered / num_questions


def _generate(model, tokenizer, messages) -> str:
    ids = tokenizer.apply_chat_template(
        messages, tools=TOOLS, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    out = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=1)
    return tokenizer.decode(out[0, ids.shape[1] :])


def main() -> None:
    """Train and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=2000, help="conversations to train on")
    parser.add_argument("--questions", type=int, default=200, help="held-out questions")
    parser.add_argument("--out", help="folder to keep the models in")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(arguments.out or temporary)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in TRAIN_ON}
        for seed in range(arguments.seeds):
            student = _make_student(out / f"start-{seed}", seed)
            data = out / f"conversations-{seed}.jsonl"
            draw = random.Random(seed)
            data.write_text("".join(json.dumps(conversation(draw)) + "\n" for _ in range(arguments.pairs)))
            for train_on in TRAIN_ON:
                folder = out / f"{train_on}-{seed}"
                train_student(
                    TrainOptions(
                        student=str(student),
                        data=str(data),
                        method="sft",
                        train_on=train_on,
                        max_steps=arguments.steps,
                        batch_size=32,
                        learning_rate=2e-3,
                        seed=seed,
                        out=str(folder),
                    )
                )
                results[train_on].append(evaluate(folder, num_questions=arguments.questions, seed=seed))
    print("| --train-on | right call | right call and answer | each seed |\n| --- | --- | --- | --- |")
    for name, shares in results.items():
        calls, answers = (statistics.mean(column) for column in zip(*shares, strict=True))
        each = ", ".join(f"{share:.1%}" for _, share in shares)
        print(f"| {name} | {calls:.1%} | {answers:.1%} | {each} |")


def _make_student(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
