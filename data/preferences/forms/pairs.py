"""Forms whose rows hold a preferred and another answer."""

from collections.abc import Iterator, Mapping
from typing import Any

from data.preferences.forms.columns import RowError, given, listed, parsed
from data.preferences.forms.content import Content, pair_content
from data.preferences.forms.form import Form, Kind, Pairing, has, prompt_of, text_or_messages
from data.preferences.forms.turns import column_kind, is_transcript, read_column, read_turns, transcript_turns

__all__ = ["PAIR_FORMS"]


def _answers(row: Mapping[str, Any]) -> str | None:
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


def _is_whole(row: Mapping[str, Any]) -> bool:
    return column_kind(row, "chosen") == "whole conversation"


def _describe_pairs(row: Mapping[str, Any]) -> str | None:
    answers = _answers(row)
    if answers is None or not given(row, "prompt") or _is_whole(row) or is_transcript(row["chosen"]):
        return None
    return f"prompt as {text_or_messages(row, 'prompt')}, {answers}"


def _describe_conversations(row: Mapping[str, Any]) -> str | None:
    answers = _answers(row)
    return f"{answers}s" if answers is not None and _is_whole(row) else None


def _parse_conversations(row: Mapping[str, Any], _: Pairing) -> Iterator[Content]:
    prompt = read_column(row, "prompt") if given(row, "prompt") else None
    if isinstance(prompt, tuple) and not prompt:
        prompt = None
    yield _pair(row, prompt)


def _pair(row: Mapping[str, Any], prompt: Any) -> Content:
    rejected = read_column(row, "rejected") if given(row, "rejected") else None
    return pair_content(row, prompt, read_column(row, "chosen"), rejected)


def _describe_transcripts(row: Mapping[str, Any]) -> str | None:
    if is_transcript(row.get("chosen")) and (not given(row, "rejected") or is_transcript(row["rejected"])):
        return "HH-RLHF transcripts (Human: and Assistant: in one text)"
    return None


def _parse_transcripts(row: Mapping[str, Any], _: Pairing) -> Iterator[Content]:
    rejected = transcript_turns(row["rejected"], "rejected") if given(row, "rejected") else None
    yield pair_content(row, None, transcript_turns(row["chosen"], "chosen"), rejected)


def _beside(name: str, prompt: str, title: str, used_by: str, example: dict[str, Any], *more: str) -> Form:
    """A form whose prompt is in the column `prompt`, beside `chosen` and `rejected`."""

    def describe(row: Mapping[str, Any]) -> str | None:
        if (
            not given(row, prompt)
            or not given(row, "chosen")
            or _is_whole(row)
            or is_transcript(row["chosen"])
        ):
            return None
        return f"{title}, {_answers(row)}"

    def parse(row: Mapping[str, Any], _: Pairing) -> Iterator[Content]:
        yield _pair(row, prompt_of(row, prompt))

    columns = (prompt, "chosen", "rejected", *more)
    return Form(
        name=name,
        kind=Kind.PAIR,
        columns=columns,
        describe=describe,
        parse=parse,
        used_by=used_by,
        examples=(example,),
    )


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
    "prompt",
    "instruction",
    "question",
    "query",
    "problem",
    "input",
    "messages",
    "conversations",
    "context",
)


def _prompt_column(row: Mapping[str, Any]) -> str | None:
    return next((column for column in _PROMPTS if given(row, column)), None)


def _answer_names(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((names for names in _ANSWER_NAMES if has(row, *names)), None)


def _describe_renamed(row: Mapping[str, Any]) -> str | None:
    names = _answer_names(row)
    if names is None or given(row, "chosen"):
        return None
    if (column := _prompt_column(row)) is None:
        whole = all(column_kind(row, name) == "whole conversation" for name in names)
        return f"whole conversations ({', '.join(names)})" if whole else None
    return f"two named responses ({column}, {', '.join(names)})"


def _parse_renamed(row: Mapping[str, Any], _: Pairing) -> Iterator[Content]:
    names, column = _answer_names(row), _prompt_column(row)
    if names is None:
        raise RowError("an answer is missing", "one of the two answers holds nothing; remove the row")
    prompt = None if column is None else prompt_of(row, column)
    yield pair_content(row, prompt, read_column(row, names[0]), read_column(row, names[1]), names=names)


def _describe_alpaca_list(row: Mapping[str, Any]) -> str | None:
    is_list = isinstance(row.get("output"), list | tuple) and given(row, "output")
    return (
        "Alpaca rows with two outputs, the better one first" if is_list and has(row, "instruction") else None
    )


def _parse_alpaca_list(row: Mapping[str, Any], _: Pairing) -> Iterator[Content]:
    outputs = row["output"]
    if len(outputs) != 2 or not all(isinstance(output, str) for output in outputs):
        raise RowError(
            "not two outputs",
            f"`output` has {len(outputs)} items; it must have two texts, the better one first",
        )
    names = ("output 1", "output 2")
    yield pair_content(row, prompt_of(row, "instruction"), outputs[0], outputs[1], names=names)


def _openai_input(row: Mapping[str, Any]) -> Any:
    value = row.get("input")
    if isinstance(value, str) and value.lstrip().startswith('{"messages"'):
        value = parsed(value, "input")
    return value if isinstance(value, dict) and value.get("messages") else None


def _describe_openai(row: Mapping[str, Any]) -> str | None:
    if not has(row, "preferred_output") or _openai_input(row) is None:
        return None
    return "OpenAI preferences (input, preferred_output, non_preferred_output)"


def _parse_openai(row: Mapping[str, Any], _: Pairing) -> Iterator[Content]:
    asked = _openai_input(row)
    if asked is None:
        raise RowError("no prompt", f"`input` has {listed(row['input'] or ())}; it must have messages")
    names = ("preferred_output", "non_preferred_output")
    rejected = read_column(row, names[1]) if given(row, names[1]) else None
    with_tools = {**row, "tools": row.get("tools") or asked.get("tools")}
    prompt = read_turns(asked["messages"], "input.messages")
    yield pair_content(with_tools, prompt, read_column(row, names[0]), rejected, names=names)


_PAIR = {"chosen": "The Danube.", "rejected": "Water."}

_QUESTION = {"role": "user", "content": "Name a river."}

_GOOD, _BAD = (
    {"role": "assistant", "content": "The Danube."},
    {"role": "assistant", "content": "Water."},
)

PAIR_FORMS: tuple[Form, ...] = (
    Form(
        name="pairs",
        kind=Kind.PAIR,
        columns=("prompt", "chosen", "rejected"),
        describe=_describe_pairs,
        parse=lambda row, _: [_pair(row, prompt_of(row, "prompt"))],
        used_by="TRL's explicit prompts; the form that `data convert` writes",
        examples=(
            {"prompt": "Name a river.", **_PAIR},
            {"prompt": [_QUESTION], "chosen": [_GOOD], "rejected": [_BAD]},
            {"system": "Be brief.", "prompt": "Name a river.", **_PAIR},
        ),
    ),
    Form(
        name="conversations",
        kind=Kind.PAIR,
        columns=("prompt", "chosen", "rejected"),
        describe=_describe_conversations,
        parse=_parse_conversations,
        used_by="argilla/dpo-mix-7k, HuggingFaceH4/ultrafeedback_binarized, TRL's implicit prompts",
        examples=({"chosen": [_QUESTION, _GOOD], "rejected": [_QUESTION, _BAD]},),
    ),
    Form(
        name="hh-rlhf",
        kind=Kind.PAIR,
        columns=("chosen", "rejected"),
        describe=_describe_transcripts,
        parse=_parse_transcripts,
        used_by="Anthropic/hh-rlhf",
        examples=(
            {
                "chosen": "\n\nHuman: Name a river.\n\nAssistant: The Danube.",
                "rejected": "\n\nHuman: Name a river.\n\nAssistant: Water.",
            },
        ),
    ),
    _beside(
        "orca",
        "question",
        "question",
        "Intel/orca_dpo_pairs",
        {"system": "Be brief.", "question": "Name a river.", **_PAIR},
    ),
    _beside(
        "alpaca-pairs",
        "instruction",
        "Alpaca instruction",
        "LLaMA-Factory (alpaca, ranking)",
        {"instruction": "Name this.", "input": "A river in Vienna.", **_PAIR},
        "input",
        "history",
    ),
    Form(
        name="alpaca-outputs",
        kind=Kind.PAIR,
        columns=("instruction", "input", "history", "output"),
        describe=_describe_alpaca_list,
        parse=_parse_alpaca_list,
        used_by="older LLaMA-Factory files",
        examples=({"instruction": "Name a river.", "input": "", "output": ["The Danube.", "Water."]},),
    ),
    _beside(
        "input-pairs",
        "input",
        "input",
        "argilla/distilabel-intel-orca-dpo-pairs",
        {"system": "Be brief.", "input": "Name a river.", **_PAIR},
    ),
    _beside(
        "query-pairs", "query", "query", "retrieval and reward sets", {"query": "Name a river.", **_PAIR}
    ),
    _beside("problem-pairs", "problem", "problem", "mathematics sets", {"problem": "Name a river.", **_PAIR}),
    _beside(
        "context-pairs",
        "context",
        "context",
        "dialogue sets",
        {"context": [_QUESTION], "chosen": _GOOD, "rejected": _BAD},
    ),
    _beside(
        "messages-pairs",
        "messages",
        "messages",
        "axolotl (chat_template)",
        {"messages": [_QUESTION], "chosen": _GOOD, "rejected": _BAD},
    ),
    _beside(
        "sharegpt-pairs",
        "conversations",
        "ShareGPT conversations",
        "LLaMA-Factory (sharegpt, ranking)",
        {
            "conversations": [{"from": "human", "value": "Name a river."}],
            "chosen": {"from": "gpt", "value": "The Danube."},
            "rejected": {"from": "gpt", "value": "Water."},
        },
    ),
    Form(
        name="openai",
        kind=Kind.PAIR,
        columns=("input", "preferred_output", "non_preferred_output"),
        describe=_describe_openai,
        parse=_parse_openai,
        used_by="OpenAI's preference fine-tuning",
        examples=(
            {"input": {"messages": [_QUESTION]}, "preferred_output": [_GOOD], "non_preferred_output": [_BAD]},
        ),
    ),
    Form(
        name="responses",
        kind=Kind.PAIR,
        columns=(*_PROMPTS, "history", *dict.fromkeys(name for names in _ANSWER_NAMES for name in names)),
        describe=_describe_renamed,
        parse=_parse_renamed,
        used_by="argilla/ultrafeedback-binarized-preferences, axolotl (chatml.argilla)",
        examples=(
            {"instruction": "Name a river.", "chosen_response": "The Danube.", "rejected_response": "Water."},
            {"query": "Name a river.", "better": "The Danube.", "worse": "Water."},
        ),
    ),
)
