"""Forms whose rows hold several answers with scores or labels, or one answer with a rating or a label."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.preferences.forms.columns import RowError, given, number, parsed
from data.preferences.forms.content import (
    Dropped,
    LabelledAnswer,
    Rating,
    Said,
    conversation_content,
    pair_content,
    prompt_content,
)
from data.preferences.forms.form import Form, Kind, Pairing, has, prompt_of
from data.preferences.forms.turns import (
    column_kind,
    helpsteer_prompt,
    is_messages_text,
    read_column,
    read_turns,
)
from data.preferences.messages import Prompt

__all__ = ["SCORED_FORMS"]


_PROMPTS = ("prompt", "instruction", "question", "context", "messages", "input")

_LISTS = ("responses", "completions", "answers", "generations", "candidates", "all_generated_responses")

_SCORES = ("scores", "ratings", "rewards", "rating", "all_rm_scores", "ranks")

# In an item of a list: the answer, and what it is worth.
_TEXTS = ("response", "answer", "text", "completion", "content", "output", "generation")

_SCORE = ("overall_score", "score", "rating", "reward", "rank", "fine-grained_score")

_GOOD = ("true", "1", "good", "chosen", "desirable", "positive", "thumbs_up", "yes")

_BAD = ("false", "0", "-1", "bad", "rejected", "undesirable", "negative", "thumbs_down", "no")


def _first(row: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    return next((column for column in columns if given(row, column)), None)


# --- Lists of answers with scores


def _list(row: Mapping[str, Any], column: str) -> list[Any] | None:
    """A column's list, from a table as JSON text; None for what is no list."""
    value = row.get(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value, column)
    return list(value) if isinstance(value, list | tuple) and value else None


def _scores_column(row: Mapping[str, Any]) -> str | None:
    return next((name for name in _SCORES if _list(row, name) is not None), None)


def _describe_scored(row: Mapping[str, Any]) -> str | None:
    prompt, column = _first(row, _PROMPTS), _first(row, _LISTS)
    if prompt is None or column is None or (items := _list(row, column)) is None:
        return None
    first = items[0]
    if isinstance(first, dict):
        text, score = _first(first, _TEXTS), next((name for name in _SCORE if name in first), None)
        return f"scored answers ({prompt}, {column} with {text} and {score})" if text and score else None
    scores = _scores_column(row)
    return f"scored answers ({prompt}, {column}, {scores})" if isinstance(first, str) and scores else None


def _parse_scored(row: Mapping[str, Any], pairing: Pairing) -> Iterator[Said]:
    prompt_column, column = _first(row, _PROMPTS), _first(row, _LISTS)
    if prompt_column is None or column is None:
        raise RowError(
            "no prompt or no answers", "the prompt or the list of answers holds nothing; remove the row"
        )
    scored = _scored_answers(row, column)
    if len(scored) < 2:
        yield Dropped("fewer than two scored answers")
        return
    # Equal scores keep the order of the row.
    ranked = sorted(scored, key=lambda item: -item[0])
    if ranked[0][0] == ranked[-1][0]:
        yield Dropped("tie")
        return
    prompt = prompt_of(row, prompt_column)
    for better, worse in _pairs(ranked, pairing):
        yield pair_content(row, prompt, better, worse, names=(column, column))


def _pairs(ranked: list[tuple[float, str]], pairing: Pairing) -> Iterator[tuple[str, str]]:
    """Pairs of a better and a worse answer, of answers in falling order of their scores."""
    if pairing == "all":
        for (high, better), (low, worse) in itertools.combinations(ranked, 2):
            if high > low:
                yield better, worse
        return
    best = ranked[0]
    worse = [answer for score, answer in ranked if score < best[0]]
    if pairing == "best-worst":
        yield best[1], worse[-1]
        return
    # Drawn by what the row says, so that the same row gives the same pair in every run and at every place.
    digest = hashlib.sha256("\0".join([best[1], *worse]).encode()).digest()
    yield best[1], worse[int.from_bytes(digest[:8], "big") % len(worse)]


def _scored_answers(row: Mapping[str, Any], column: str) -> list[tuple[float, str]]:
    """Score, the higher the better, and text of every answer that has both."""
    items, scores = _list(row, column) or [], _scores_column(row)
    found = []
    if items and isinstance(items[0], str) and scores is not None:
        values = _list(row, scores) or []
        if len(values) != len(items):
            raise RowError(
                "answers and scores differ in number",
                f"`{column}` has {len(items)} answers and `{scores}` {len(values)} scores; they must be as many",
            )
        sign = -1 if scores == "ranks" else 1
        found = [(item, value, sign, scores) for item, value in zip(items, values, strict=True)]
    else:
        for item in items:
            text = _first(item, _TEXTS) if isinstance(item, dict) else None
            score = next((name for name in _SCORE if name in item), None) if text else None
            if text and score:
                found.append((item[text], item[score], -1 if score == "rank" else 1, f"{column}: {score}"))
    return [
        (sign * number(value, name), item)
        for item, value, sign, name in found
        if _is_score(value) and isinstance(item, str) and item.strip()
    ]


def _is_score(value: Any) -> bool:
    """Whether an answer was scored; UltraFeedback writes `N/A` for some that were not."""
    return value not in (None, "", "N/A") and not (isinstance(value, float) and math.isnan(value))


# --- One answer with a rating


def _describe_rating(row: Mapping[str, Any]) -> str | None:
    return (
        "rated answers (prompt, response, helpfulness)"
        if has(row, "prompt", "response", "helpfulness")
        else None
    )


def _parse_rating(row: Mapping[str, Any], _: Pairing) -> Iterator[Said]:
    content = pair_content(
        row, helpsteer_prompt(row["prompt"]), read_column(row, "response"), None, names=("response", "")
    )
    yield Rating(content, number(row["helpfulness"], "helpfulness"))


# --- One answer with a label


def _label_column(row: Mapping[str, Any]) -> str | None:
    return next((column for column in ("label", "kto_tag") if row.get(column) is not None), None)


def _labelled(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The columns of the prompt and of the answer; one and the same where it is a conversation."""
    for columns in (("prompt", "completion"), ("prompt", "response"), ("instruction", "output")):
        if has(row, *columns):
            return columns
    for column in ("messages", "conversations"):
        if given(row, column):
            return column, column
    return None


def _describe_label(row: Mapping[str, Any]) -> str | None:
    columns, label = _labelled(row), _label_column(row)
    if columns is None or label is None or _good_or_bad(row[label]) is None:
        return None
    return f"labelled answers ({', '.join(dict.fromkeys([*columns, label]))})"


def _good_or_bad(value: Any) -> bool | None:
    said = (
        str(int(value))
        if isinstance(value, bool | float) and value == int(value)
        else str(value).strip().lower()
    )
    return True if said in _GOOD else False if said in _BAD else None


def _parse_label(row: Mapping[str, Any], _: Pairing) -> Iterator[Said]:
    columns, label = _labelled(row), _label_column(row)
    if columns is None or label is None:
        raise RowError("no answer or no label", "the answer or its label holds nothing; remove the row")
    is_good = _good_or_bad(row[label])
    if is_good is None:
        raise RowError("no valid label", f"`{label}` is {row[label]!r}; it must be true or false")
    asked, answered = columns
    if asked == answered:
        content = conversation_content(row, read_turns(row[asked], asked), asked)
        if content.chosen is None:
            raise RowError("answer of another role", f"`{asked}` must end with the assistant's turn")
        content = content._replace(is_conversation=False)
    else:
        prompt: Prompt = prompt_of(row, asked)
        content = pair_content(row, prompt, read_column(row, answered), None, names=(answered, ""))
    yield LabelledAnswer(content, is_good)


# --- One answer


def _one_answer(row: Mapping[str, Any], prompt: str, answer: str) -> Iterator[Said]:
    yield pair_content(row, prompt_of(row, prompt), read_column(row, answer), None, names=(answer, ""))


def _answer_form(
    name: str, prompt: str, answer: str, title: str, used_by: str, example: dict[str, Any]
) -> Form:
    def describe(row: Mapping[str, Any]) -> str | None:
        if not has(row, prompt, answer):
            return None
        value = row[answer]
        # A list is several answers, unless it holds messages.
        if isinstance(value, list) and not all(isinstance(item, dict) for item in value):
            return None
        return f"{title} ({prompt}, {answer})"

    return Form(
        name=name,
        kind=Kind.ANSWER,
        columns=(prompt, answer, *(("input", "history") if prompt == "instruction" else ())),
        describe=describe,
        parse=lambda row, _: _one_answer(row, prompt, answer),
        used_by=used_by,
        examples=(example,),
    )


def _conversation_form(name: str, column: str, title: str, used_by: str, example: dict[str, Any]) -> Form:
    def describe(row: Mapping[str, Any]) -> str | None:
        if not given(row, column) or (isinstance(row[column], str) and not is_messages_text(row[column])):
            return None
        return title

    def parse(row: Mapping[str, Any], _: Pairing) -> Iterator[Said]:
        yield conversation_content(row, read_turns(row[column], column), column)

    return Form(
        name=name,
        kind=Kind.ANSWER,
        columns=(column,),
        describe=describe,
        parse=parse,
        used_by=used_by,
        examples=(example,),
    )


def _prompt_form(name: str, column: str, used_by: str, example: dict[str, Any]) -> Form:
    def describe(row: Mapping[str, Any]) -> str | None:
        if not given(row, column) or given(row, "rejected"):
            return None
        return f"{column} alone as {column_kind(row, column).replace('whole conversation', 'messages')}"

    return Form(
        name=name,
        kind=Kind.PROMPT,
        columns=(column, *(("input", "history") if column == "instruction" else ())),
        describe=describe,
        parse=lambda row, _: [prompt_content(row, prompt_of(row, column))],
        used_by=used_by,
        examples=(example,),
    )


_QUESTION = {"role": "user", "content": "Name a river."}

_GOOD_TURN = {"role": "assistant", "content": "The Danube."}

SCORED_FORMS: tuple[Form, ...] = (
    Form(
        name="scored",
        kind=Kind.SCORES,
        columns=(*_PROMPTS, "history", *_LISTS, *_SCORES),
        describe=_describe_scored,
        parse=_parse_scored,
        used_by="openbmb/UltraFeedback, berkeley-nest/Nectar (rank 1 is best), lists of responses with scores",
        examples=(
            {
                "instruction": "Name a river.",
                "completions": [
                    {"response": "Water.", "overall_score": 2.0},
                    {"response": "The Danube.", "overall_score": 9.0},
                ],
            },
            {
                "prompt": "\n\nHuman: Name a river.\n\nAssistant: ",
                "answers": [{"answer": "The Danube.", "rank": 1.0}, {"answer": "Water.", "rank": 2.0}],
            },
            {"prompt": "Name a river.", "responses": ["Water.", "The Danube."], "scores": [0.1, 0.9]},
        ),
    ),
    Form(
        name="labels",
        kind=Kind.LABEL,
        columns=(
            *("prompt", "completion", "response", "instruction", "input", "history", "output"),
            *("messages", "conversations", "label", "kto_tag"),
        ),
        describe=_describe_label,
        parse=_parse_label,
        used_by="trl-lib/kto-mix-14k, LLaMA-Factory (KTO); a good and a bad answer to one prompt make a pair",
        examples=(
            {"prompt": "Name a river.", "completion": "The Danube.", "label": True},
            {"prompt": "Name a river.", "completion": "Water.", "label": False},
        ),
    ),
    Form(
        name="helpsteer2",
        kind=Kind.RATING,
        columns=("prompt", "response", "helpfulness"),
        describe=_describe_rating,
        parse=_parse_rating,
        used_by="nvidia/HelpSteer2; two consecutive rows with one prompt are a pair",
        examples=(
            {"prompt": "Name a river.", "response": "The Danube.", "helpfulness": 4},
            {"prompt": "Name a river.", "response": "Water.", "helpfulness": 0},
        ),
    ),
    _conversation_form(
        "messages",
        "messages",
        "conversations in messages",
        "TRL and OpenAI fine-tuning",
        {"messages": [_QUESTION, _GOOD_TURN]},
    ),
    _conversation_form(
        "sharegpt",
        "conversations",
        "ShareGPT conversations",
        "ShareGPT, LLaMA-Factory, axolotl",
        {
            "conversations": [
                {"from": "human", "value": "Name a river."},
                {"from": "gpt", "value": "The Danube."},
            ]
        },
    ),
    _answer_form(
        "prompt-completion",
        "prompt",
        "completion",
        "prompt and completion",
        "TRL",
        {"prompt": "Name a river.", "completion": "The Danube."},
    ),
    _answer_form(
        "prompt-response",
        "prompt",
        "response",
        "prompt and response",
        "many sets for SFT",
        {"prompt": "Name a river.", "response": "The Danube."},
    ),
    _answer_form(
        "alpaca",
        "instruction",
        "output",
        "Alpaca rows",
        "tatsu-lab/alpaca, LLaMA-Factory",
        {"instruction": "Name this.", "input": "A river in Vienna.", "output": "The Danube."},
    ),
    _answer_form(
        "question-answer",
        "question",
        "answer",
        "question and answer",
        "many sets for SFT",
        {"question": "Name a river.", "answer": "The Danube."},
    ),
    _prompt_form("prompt", "prompt", "TRL's prompt-only", {"prompt": "Name a river."}),
    _prompt_form("instruction", "instruction", "AlpacaEval's prompts", {"instruction": "Name a river."}),
    _prompt_form("question", "question", "questions alone", {"question": "Name a river."}),
)
