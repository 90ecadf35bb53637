"""Forms with a preferred and a rejected answer in each row."""

from collections.abc import Callable
from typing import Any

from data.preferences.forms.columns import RowError, given, parsed
from data.preferences.forms.content import Content, pair_content
from data.preferences.forms.form import (
    ASKED,
    BAD,
    GOOD,
    QUESTION,
    Form,
    Found,
    Kind,
    Row,
    first_given,
    has,
    prompt_of,
    text_or_messages,
)
from data.preferences.forms.turns import column_kind, is_transcript, read_column, read_turns, transcript_turns


def _pair(row: Row, prompt: Any, names: tuple[str, str] = ("chosen", "rejected")) -> list[Content]:
    """The pair of two answer columns; the second may hold nothing."""
    rejected = read_column(row, names[1]) if given(row, names[1]) else None
    return [pair_content(row, prompt, read_column(row, names[0]), rejected, names=names)]


def _answers(row: Row) -> str | None:
    """How `chosen` and `rejected` are written; None where there is no `chosen`.

    Raises:
        RowError: when the two are written differently.
    """
    if not given(row, "chosen"):
        return None
    kind = column_kind(row, "chosen")
    if not given(row, "rejected"):
        return f"chosen as {kind}"
    if (other := column_kind(row, "rejected")) != kind:
        raise RowError(
            "answers of two kinds", f"`chosen` is {kind} and `rejected` is {other}; write both alike"
        )
    return f"chosen and rejected as {kind}"


def _is_whole(row: Row) -> bool:
    return column_kind(row, "chosen") == "whole conversation"


def _read_conversations(row: Row) -> Found | None:
    answers = _answers(row)
    if answers is None or not _is_whole(row):
        return None

    def said(_: str) -> list[Content]:
        prompt = read_column(row, "prompt") if given(row, "prompt") else None
        return _pair(row, None if prompt == () else prompt)

    return Found(f"{answers}s", said)


def _read_transcripts(row: Row) -> Found | None:
    given_names = [name for name in ("chosen", "rejected") if given(row, name)]
    if given_names[:1] != ["chosen"] or not all(is_transcript(row[name]) for name in given_names):
        return None

    def said(_: str) -> list[Content]:
        chosen, *rejected = (transcript_turns(row[name], name) for name in given_names)
        return [pair_content(row, None, chosen, rejected[0] if rejected else None)]

    return Found("HH-RLHF transcripts (Human: and Assistant: in one text)", said)


def _with_prompt(prompt: str, title: Callable[[Row], str]) -> Callable[[Row], Found | None]:
    """Reads rows with the prompt in a separate column, beside `chosen` and `rejected`."""

    def read(row: Row) -> Found | None:
        if not has(row, prompt, "chosen") or _is_whole(row) or is_transcript(row["chosen"]):
            return None
        return Found(f"{title(row)}, {_answers(row)}", lambda _: _pair(row, prompt_of(row, prompt)))

    return read


# Names of the better and the other answer, beside `chosen` and `rejected` themselves.
_ANSWER_NAMES = (
    ("chosen_response", "rejected_response"),
    ("chosen_answer", "rejected_answer"),
    ("response_chosen", "response_rejected"),
    ("answer_chosen", "answer_rejected"),
    ("preferred_response", "dispreferred_response"),
    ("preferred_response", "rejected_response"),
    ("preferred", "dispreferred"),
    ("preferred", "rejected"),
    ("accepted", "rejected"),
    ("better", "worse"),
    ("better_response", "worse_response"),
    ("positive", "negative"),
    ("winner_response", "loser_response"),
    ("y_w", "y_l"),
)

_PROMPTS = (
    *("prompt", "instruction", "question", "query", "problem", "input"),
    *("messages", "conversations", "context"),
)


def _read_renamed(row: Row) -> Found | None:
    names = next((names for names in _ANSWER_NAMES if has(row, *names)), None)
    if names is None or given(row, "chosen"):
        return None
    column = first_given(row, _PROMPTS)
    if column is not None:
        description = f"two named responses ({column}, {', '.join(names)})"
        return Found(description, lambda _: _pair(row, prompt_of(row, column), names))
    if not all(column_kind(row, name) == "whole conversation" for name in names):
        return None
    return Found(f"whole conversations ({', '.join(names)})", lambda _: _pair(row, None, names))


def _read_alpaca_list(row: Row) -> Found | None:
    outputs = row.get("output")
    if not isinstance(outputs, list | tuple) or not has(row, "output", "instruction"):
        return None

    def said(_: str) -> list[Content]:
        if len(outputs) != 2 or not all(isinstance(output, str) for output in outputs):
            raise RowError(
                "not two outputs",
                f"`output` has {len(outputs)} items; it must have two texts, the better one first",
            )
        return [pair_content(row, prompt_of(row, "instruction"), *outputs, names=("output 1", "output 2"))]

    return Found("Alpaca rows with two outputs, the better one first", said)


_OPENAI = ("preferred_output", "non_preferred_output")


def _read_openai(row: Row) -> Found | None:
    asked = row.get("input")
    if isinstance(asked, str) and asked.lstrip().startswith('{"messages"'):
        asked = parsed(asked, "input")
    if not has(row, _OPENAI[0]) or not isinstance(asked, dict) or not asked.get("messages"):
        return None

    def said(_: str) -> list[Content]:
        with_tools = {**row, "tools": row.get("tools") or asked.get("tools")}
        return _pair(with_tools, read_turns(asked["messages"], "input.messages"), _OPENAI)

    return Found("OpenAI preferences (input, preferred_output, non_preferred_output)", said)


_PAIR = {"chosen": GOOD["content"], "rejected": BAD["content"]}
_TURNS = {"chosen": GOOD, "rejected": BAD}
_BRIEF = {"system": "Be brief."}
_SHAREGPT = {
    "conversations": [{"from": "human", "value": ASKED}],
    "chosen": {"from": "gpt", "value": GOOD["content"]},
    "rejected": {"from": "gpt", "value": BAD["content"]},
}

# Forms with the prompt in a separate column: name, that column, title, who uses them, an example.
_WITH_PROMPT = (
    ("orca", "question", "question", "Intel/orca_dpo_pairs", {**_BRIEF, "question": ASKED, **_PAIR}),
    (
        *("alpaca-pairs", "instruction", "Alpaca instruction", "LLaMA-Factory (alpaca, ranking)"),
        {"instruction": "Name this.", "input": "A river in Vienna.", **_PAIR},
    ),
    (
        *("input-pairs", "input", "input", "argilla/distilabel-intel-orca-dpo-pairs"),
        {**_BRIEF, "input": ASKED, **_PAIR},
    ),
    ("query-pairs", "query", "query", "retrieval and reward sets", {"query": ASKED, **_PAIR}),
    ("problem-pairs", "problem", "problem", "mathematics sets", {"problem": ASKED, **_PAIR}),
    ("context-pairs", "context", "context", "dialogue sets", {"context": [QUESTION], **_TURNS}),
    ("messages-pairs", "messages", "messages", "axolotl (chat_template)", {"messages": [QUESTION], **_TURNS}),
    (
        *("sharegpt-pairs", "conversations", "ShareGPT conversations", "LLaMA-Factory (sharegpt, ranking)"),
        _SHAREGPT,
    ),
)


def _form_with_prompt(name: str, prompt: str, title: str, used_by: str, example: dict[str, Any]) -> Form:
    more = ("input", "history") if prompt == "instruction" else ()
    return Form(
        name=name,
        kind=Kind.PAIR,
        columns=(prompt, "chosen", "rejected", *more),
        read=_with_prompt(prompt, lambda _: title),
        used_by=used_by,
        examples=(example,),
    )


PAIR_FORMS: tuple[Form, ...] = (
    Form(
        name="pairs",
        kind=Kind.PAIR,
        columns=("prompt", "chosen", "rejected"),
        read=_with_prompt("prompt", lambda row: f"prompt as {text_or_messages(row, 'prompt')}"),
        used_by="TRL's explicit prompts; the form that `data convert` writes",
        examples=(
            {"prompt": ASKED, **_PAIR},
            {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD]},
            {**_BRIEF, "prompt": ASKED, **_PAIR},
        ),
    ),
    Form(
        name="conversations",
        kind=Kind.PAIR,
        columns=("prompt", "chosen", "rejected"),
        read=_read_conversations,
        used_by="argilla/dpo-mix-7k, HuggingFaceH4/ultrafeedback_binarized, TRL's implicit prompts",
        examples=({"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},),
    ),
    Form(
        name="hh-rlhf",
        kind=Kind.PAIR,
        columns=("chosen", "rejected"),
        read=_read_transcripts,
        used_by="Anthropic/hh-rlhf",
        examples=({name: f"\n\nHuman: {ASKED}\n\nAssistant: {answer}" for name, answer in _PAIR.items()},),
    ),
    *(_form_with_prompt(*described) for described in _WITH_PROMPT),
    Form(
        name="alpaca-outputs",
        kind=Kind.PAIR,
        columns=("instruction", "input", "history", "output"),
        read=_read_alpaca_list,
        used_by="older LLaMA-Factory files",
        examples=({"instruction": ASKED, "input": "", "output": [*_PAIR.values()]},),
    ),
    Form(
        name="openai",
        kind=Kind.PAIR,
        columns=("input", *_OPENAI),
        read=_read_openai,
        used_by="OpenAI's preference fine-tuning",
        examples=(
            {"input": {"messages": [QUESTION]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        ),
    ),
    Form(
        name="responses",
        kind=Kind.PAIR,
        columns=(*_PROMPTS, "history", *dict.fromkeys(name for names in _ANSWER_NAMES for name in names)),
        read=_read_renamed,
        used_by="argilla/ultrafeedback-binarized-preferences, axolotl (chatml.argilla)",
        examples=(
            {"instruction": ASKED, "chosen_response": "The Danube.", "rejected_response": "Water."},
            {"query": ASKED, "better": "The Danube.", "worse": "Water."},
        ),
    ),
)
