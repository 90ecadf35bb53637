"""Forms with scored, rated or labelled answers, with one answer, or with a prompt alone."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
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
from data.preferences.forms.turns import helpsteer_prompt, is_messages_text, read_column, read_turns

_PROMPTS = ("prompt", "instruction", "question", "context", "messages", "input")

_LISTS = ("responses", "completions", "answers", "generations", "candidates", "all_generated_responses")

_SCORES = ("scores", "ratings", "rewards", "rating", "all_rm_scores", "ranks")

# In an item of a list: the answer, and what it is worth.
_TEXTS = ("response", "answer", "text", "completion", "content", "output", "generation")

_SCORE = ("overall_score", "score", "rating", "reward", "rank", "fine-grained_score")

_GOOD = ("true", "1", "good", "chosen", "desirable", "positive", "thumbs_up", "yes")

_BAD = ("false", "0", "-1", "bad", "rejected", "undesirable", "negative", "thumbs_down", "no")


# --- Lists of answers with scores


def _list(row: Row, column: str) -> list[Any] | None:
    """A column's list, from a table as JSON text; None for what is no list."""
    value = row.get(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value, column)
    return list(value) if isinstance(value, list | tuple) and value else None


def _read_scored(row: Row) -> Found | None:
    prompt, column = first_given(row, _PROMPTS), first_given(row, _LISTS)
    if prompt is None or column is None or (items := _list(row, column)) is None:
        return None
    scores = next((name for name in _SCORES if _list(row, name) is not None), None)
    if isinstance(items[0], dict):
        text, score = _text_and_score(items[0])
        described = f"{column} with {text} and {score}" if text and score else None
    else:
        described = f"{column}, {scores}" if isinstance(items[0], str) and scores else None
    if described is None:
        return None

    def said(pairing: str) -> Iterator[Said]:
        scored = _scored_answers(row, column, items, scores)
        if len(scored) < 2:
            yield Dropped("fewer than two scored answers")
            return
        # Equal scores keep the order of the row.
        ranked = sorted(scored, key=lambda item: -item[0])
        if ranked[0][0] == ranked[-1][0]:
            yield Dropped("tie")
            return
        asked = prompt_of(row, prompt)
        for better, worse in _pairs(ranked, pairing):
            yield pair_content(row, asked, better, worse, names=(column, column))

    return Found(f"scored answers ({prompt}, {described})", said)


def _text_and_score(item: dict[str, Any]) -> tuple[str | None, str | None]:
    """Names of an item's answer and of its score."""
    return first_given(item, _TEXTS), next((name for name in _SCORE if name in item), None)


def _pairs(ranked: list[tuple[float, str]], pairing: str) -> Iterator[tuple[str, str]]:
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


def _scored_answers(
    row: Row, column: str, items: Sequence[Any], scores: str | None
) -> list[tuple[float, str]]:
    """Score, the higher the better, and text of every answer that has both."""
    found = []
    if isinstance(items[0], str) and scores is not None:
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
            text, score = _text_and_score(item) if isinstance(item, dict) else (None, None)
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


# --- One answer with a rating or a label


def _read_rating(row: Row) -> Found | None:
    if not has(row, "prompt", "response", "helpfulness"):
        return None

    def said(_: str) -> list[Said]:
        prompt, response = helpsteer_prompt(row["prompt"]), read_column(row, "response")
        content = pair_content(row, prompt, response, None, names=("response", ""))
        return [Rating(content, number(row["helpfulness"], "helpfulness"))]

    return Found("rated answers (prompt, response, helpfulness)", said)


def _labelled(row: Row) -> tuple[str, str] | None:
    """The columns of the prompt and of the answer; one and the same where it is a conversation."""
    for columns in (("prompt", "completion"), ("prompt", "response"), ("instruction", "output")):
        if has(row, *columns):
            return columns
    column = first_given(row, ("messages", "conversations"))
    return None if column is None else (column, column)


def _is_good(value: Any) -> bool | None:
    """What a label says; None for what is no label."""
    whole = isinstance(value, bool | float) and value == int(value)
    said = str(int(value)) if whole else str(value).strip().lower()
    return True if said in _GOOD else False if said in _BAD else None


def _read_label(row: Row) -> Found | None:
    columns = _labelled(row)
    label = next((column for column in ("label", "kto_tag") if row.get(column) is not None), None)
    if columns is None or label is None or (is_good := _is_good(row[label])) is None:
        return None
    asked, answered = columns

    def said(_: str) -> list[Said]:
        if asked == answered:
            content = conversation_content(row, read_turns(row[asked], asked), asked)
            if content.chosen is None:
                raise RowError("answer of another role", f"`{asked}` must end with the assistant's turn")
            return [LabelledAnswer(content._replace(is_conversation=False), is_good)]
        return [LabelledAnswer(content, is_good) for content in _one_answer(row, asked, answered)]

    return Found(f"labelled answers ({', '.join(dict.fromkeys([*columns, label]))})", said)


# --- One answer, or a prompt


def _one_answer(row: Row, prompt: str, answer: str) -> list[Any]:
    return [pair_content(row, prompt_of(row, prompt), read_column(row, answer), None, names=(answer, ""))]


def _answer_form(name: str, prompt: str, answer: str, title: str, used_by: str) -> Form:
    def read(row: Row) -> Found | None:
        if not has(row, prompt, answer):
            return None
        value = row[answer]
        # A list is several answers, unless it holds messages.
        if isinstance(value, list) and not all(isinstance(item, dict) for item in value):
            return None
        return Found(f"{title} ({prompt}, {answer})", lambda _: _one_answer(row, prompt, answer))

    is_alpaca = prompt == "instruction"
    asked = {"instruction": "Name this.", "input": "A river in Vienna."} if is_alpaca else {prompt: ASKED}
    return Form(
        name=name,
        kind=Kind.ANSWER,
        columns=(prompt, answer, *(("input", "history") if is_alpaca else ())),
        read=read,
        used_by=used_by,
        examples=({**asked, answer: GOOD["content"]},),
    )


def _conversation_form(name: str, column: str, title: str, used_by: str, example: list[Any]) -> Form:
    def read(row: Row) -> Found | None:
        if not given(row, column) or (isinstance(row[column], str) and not is_messages_text(row[column])):
            return None
        turns = row[column]
        return Found(title, lambda _: [conversation_content(row, read_turns(turns, column), column)])

    return Form(
        name=name,
        kind=Kind.ANSWER,
        columns=(column,),
        read=read,
        used_by=used_by,
        examples=({column: example},),
    )


def _prompt_form(column: str, used_by: str) -> Form:
    def read(row: Row) -> Found | None:
        if not given(row, column) or given(row, "rejected"):
            return None
        description = f"{column} alone as {text_or_messages(row, column)}"
        return Found(description, lambda _: [prompt_content(row, prompt_of(row, column))])

    return Form(
        name=column,
        kind=Kind.PROMPT,
        columns=(column, *(("input", "history") if column == "instruction" else ())),
        read=read,
        used_by=used_by,
        examples=({column: ASKED},),
    )


SCORED_FORMS: tuple[Form, ...] = (
    Form(
        name="scored",
        kind=Kind.SCORES,
        columns=(*_PROMPTS, "history", *_LISTS, *_SCORES),
        read=_read_scored,
        used_by="openbmb/UltraFeedback, berkeley-nest/Nectar (rank 1 is best), lists of responses with scores",
        examples=(
            {
                "instruction": ASKED,
                "completions": [
                    {"response": BAD["content"], "overall_score": 2.0},
                    {"response": GOOD["content"], "overall_score": 9.0},
                ],
            },
            {
                "prompt": f"\n\nHuman: {ASKED}\n\nAssistant: ",
                "answers": [
                    {"answer": GOOD["content"], "rank": 1.0},
                    {"answer": BAD["content"], "rank": 2.0},
                ],
            },
            {"prompt": ASKED, "responses": [BAD["content"], GOOD["content"]], "scores": [0.1, 0.9]},
        ),
    ),
    Form(
        name="labels",
        kind=Kind.LABEL,
        columns=(
            *("prompt", "completion", "response", "instruction", "input", "history", "output"),
            *("messages", "conversations", "label", "kto_tag"),
        ),
        read=_read_label,
        used_by="trl-lib/kto-mix-14k, LLaMA-Factory (KTO); a good and a bad answer to one prompt make a pair",
        examples=(
            {"prompt": ASKED, "completion": GOOD["content"], "label": True},
            {"prompt": ASKED, "completion": BAD["content"], "label": False},
        ),
    ),
    Form(
        name="helpsteer2",
        kind=Kind.RATING,
        columns=("prompt", "response", "helpfulness"),
        read=_read_rating,
        used_by="nvidia/HelpSteer2; two consecutive rows with one prompt are a pair",
        examples=(
            {"prompt": ASKED, "response": GOOD["content"], "helpfulness": 4},
            {"prompt": ASKED, "response": BAD["content"], "helpfulness": 0},
        ),
    ),
    _conversation_form(
        *("messages", "messages", "conversations in messages", "TRL and OpenAI fine-tuning"),
        [QUESTION, GOOD],
    ),
    _conversation_form(
        *("sharegpt", "conversations", "ShareGPT conversations", "ShareGPT, LLaMA-Factory, axolotl"),
        [{"from": "human", "value": ASKED}, {"from": "gpt", "value": GOOD["content"]}],
    ),
    _answer_form("prompt-completion", "prompt", "completion", "prompt and completion", "TRL"),
    _answer_form("prompt-response", "prompt", "response", "prompt and response", "many sets for SFT"),
    _answer_form("alpaca", "instruction", "output", "Alpaca rows", "tatsu-lab/alpaca, LLaMA-Factory"),
    _answer_form("question-answer", "question", "answer", "question and answer", "many sets for SFT"),
    _prompt_form("prompt", "TRL's prompt-only"),
    _prompt_form("instruction", "AlpacaEval's prompts"),
    _prompt_form("question", "questions alone"),
)
