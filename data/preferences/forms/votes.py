"""Forms with two answers and a vote for one of them; ties are dropped."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data.preferences.forms.columns import RowError, number, parsed, text
from data.preferences.forms.content import Dropped, Said, pair_content
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
)
from data.preferences.forms.turns import helpsteer_prompt, read_column
from data.preferences.messages import Answer, Message, Prompt

# Names of two answers side by side, by stem: which of them a row has is seen once for each row.
_STEMS = ("response", "answer", "output", "completion", "conversation")

_SUFFIXES = (("_0", "_1"), ("_1", "_2"), ("_a", "_b"), ("_A", "_B"), ("1", "2"))

_PAIRS_OF_NAMES = tuple((f"{stem}{a}", f"{stem}{b}") for stem in _STEMS for a, b in _SUFFIXES)

_PROMPTS = ("prompt", "question", "instruction", "context", "messages", "input")

# Columns that say which one was preferred by its name, index or letter.
_WINNERS = ("better_response_id", "winner", "preferred", "preference", "choice", "label")

_TIES = (
    *("tie", "tie (bothbad)", "both_bad", "bothbad", "both bad", "both good"),
    *("equal", "same", "draw", "none"),
)


def _names(row: Row) -> tuple[str, str] | None:
    return next((names for names in _PAIRS_OF_NAMES if names[0] in row and has(row, *names)), None)


def _suffix(name: str) -> str:
    return name[len(next(stem for stem in _STEMS if name.startswith(stem))) :]


def _found(
    title: str,
    row: Row,
    prompt: str | None,
    names: tuple[str, str],
    columns: Sequence[str],
    preferred: Callable[[], int | None],
    read_prompt: Callable[[Row, str], Prompt] = prompt_of,
) -> Found:
    """A row of two answers side by side.

    Args:
        title: what the description begins with.
        row: the row.
        prompt: the column of the prompt; None where the answers are whole conversations.
        names: the columns of the answers.
        columns: those that say which answer is preferred.
        preferred: which one they say: 0 or 1; None for a tie.
        read_prompt: reads the prompt's column.
    """

    def said(_: str) -> Iterator[Said]:
        if any(row[column] is None for column in columns):
            yield Dropped("no preference given")
            return
        answers = [read_column(row, name) for name in names]
        asked = None if prompt is None else read_prompt(row, prompt)
        yield _said(row, asked, answers, preferred(), names)

    shown = [*([] if prompt is None else [prompt]), *names, *columns]
    return Found(f"{title} ({', '.join(shown)})", said)


def _said(
    row: Row, prompt: Prompt | None, answers: Sequence[Answer], preferred: int | None, names: tuple[str, str]
) -> Said:
    if preferred is None:
        return Dropped("tie")
    order = (preferred, 1 - preferred)
    better, worse = (answers[i] for i in order)
    return pair_content(row, prompt, better, worse, names=(names[order[0]], names[order[1]]))


# --- Two answers and the name of the better one


def _read_votes(row: Row) -> Found | None:
    names, prompt = _names(row), first_given(row, _PROMPTS)
    column = next((column for column in _WINNERS if column in row), None)
    if names is None or column is None or _scale(row) is not None:
        return None
    if names[0].startswith("conversation"):
        title, prompt = "votes over two conversations", None
    elif prompt is None:
        return None
    else:
        title = "votes over two answers"
    return _found(title, row, prompt, names, [column], lambda: _winner(row[column], column, names))


def _winner(value: Any, column: str, names: tuple[str, str]) -> int | None:
    said = str(int(value)) if isinstance(value, bool | float) and value == int(value) else str(value).strip()
    lowered = said.lower()
    if lowered in _TIES:
        return None
    for index, name in enumerate(names):
        suffix = _suffix(name).strip("_").lower()
        if lowered in (suffix, name.lower(), f"model_{suffix}", f"response_{suffix}", f"assistant_{suffix}"):
            return index
    raise RowError(
        "no valid preference",
        f"`{column}` is {value!r}, which names neither `{names[0]}` nor `{names[1]}` nor a tie",
    )


# --- Two answers with a score each


def _read_scores(row: Row) -> Found | None:
    names, prompt = _names(row), first_given(row, _PROMPTS)
    if names is None or prompt is None:
        return None
    scores = [f"score{_suffix(name)}" for name in names]
    if not all(name in row for name in scores):
        return None

    def preferred() -> int | None:
        first, second = (number(row[name], name) for name in scores)
        return None if first == second else int(second > first)

    return _found("two scored answers", row, prompt, names, scores, preferred)


# --- Two answers and a number on a scale


def _scale(row: Row) -> tuple[str, float] | None:
    """The column of a scale and the value at which the answers are equal."""
    for column in ("overall_preference", "preference_strength"):
        if column in row:
            return column, 0.0
    if "preference" in row and has(row, "instruction", "output_1", "output_2"):
        return "preference", 1.5
    return None


def _read_scaled(title: str, *columns: str) -> Callable[[Row], Found | None]:
    def read(row: Row) -> Found | None:
        names, scale, prompt = _names(row), _scale(row), first_given(row, _PROMPTS)
        if names is None or scale is None or prompt is None or scale[0] not in columns:
            return None
        column, middle = scale

        def preferred() -> int | None:
            value = number(row[column], column)
            # alpaca_eval's first annotators wrote 0 for a tie, where 1 and 2 are the answers.
            return None if value == middle or (middle and value == 0) else int(value > middle)

        return _found(title, row, prompt, names, [column], preferred, _helpsteer_prompt)

    return read


def _helpsteer_prompt(row: Row, column: str) -> Prompt:
    asked = prompt_of(row, column)
    return helpsteer_prompt(asked) if isinstance(asked, str) else asked


# --- Reddit comments (SHP)


def _read_shp(row: Row) -> Found | None:
    names = ("human_ref_A", "human_ref_B")
    if not has(row, "history", *names) or "labels" not in row:
        return None

    def said(_: str) -> list[Said]:
        label = number(row["labels"], "labels")
        if label not in (0, 1):
            raise RowError(
                "no valid preference", f"`labels` is {row['labels']!r}; it must be 1 (A is better) or 0"
            )
        answers = [text(row[name], name) for name in names]
        return [_said(row, text(row["history"], "history"), answers, 0 if label else 1, names)]

    return Found("SHP comments (history, human_ref_A, human_ref_B, labels)", said)


# --- The Arena's table of texts


_ARENA_WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")


def _read_arena_texts(row: Row) -> Found | None:
    names = ("response_a", "response_b")
    if not has(row, "prompt", *names) or not all(name in row for name in _ARENA_WINNERS):
        return None

    def said(_: str) -> list[Said]:
        a, b, tie = (number(row[name], name) for name in _ARENA_WINNERS)
        if a + b + tie != 1:
            raise RowError(
                "no valid preference",
                f"{', '.join(_ARENA_WINNERS)} are {a:g}, {b:g}, {tie:g}; one must be 1",
            )
        questions = _texts(row, "prompt")
        conversations = [_conversation(questions, _texts(row, name), name) for name in names]
        return [_said(row, None, conversations, None if tie else 0 if a else 1, names)]

    return Found("Arena votes (prompt, response_a, response_b, winner_model_a and so on)", said)


def _conversation(questions: Sequence[str], answers: Sequence[str], name: str) -> tuple[Message, ...]:
    if len(answers) != len(questions):
        raise RowError(
            "an answer is missing", f"`{name}` has {len(answers)} turns, `prompt` {len(questions)}"
        )
    turns = zip(questions, answers, strict=True)
    return tuple(turn for q, a in turns for turn in (Message("user", q), Message("assistant", a)))


def _texts(row: Row, column: str) -> list[str]:
    """One text for each turn: a list, JSON text of one, or a single text."""
    value = row[column]
    if (isinstance(value, str) and value.lstrip().startswith('["')) or value == "[null]":
        value = parsed(value, column)
    values = value if isinstance(value, list) else [value]
    if any(item is None for item in values):
        raise RowError("an answer is missing", f"`{column}` has a turn without text; remove the row")
    return [text(item, column) for item in values]


_NAMES = tuple(dict.fromkeys(name for names in _PAIRS_OF_NAMES for name in names))

_TWO_SCORES = tuple(dict.fromkeys(f"score{suffix}" for pair in _SUFFIXES for suffix in pair))

_GOOD, _BAD = GOOD["content"], BAD["content"]

VOTE_FORMS: tuple[Form, ...] = (
    Form(
        name="votes",
        kind=Kind.VOTE,
        columns=(*_PROMPTS, *_NAMES, *_WINNERS),
        read=_read_votes,
        used_by="PKU-Alignment/PKU-SafeRLHF (by `better_response_id`), lmarena-ai/arena-human-preference-140k",
        examples=(
            {"prompt": ASKED, "response_0": _BAD, "response_1": _GOOD, "better_response_id": 1},
            {"conversation_a": [QUESTION, GOOD], "conversation_b": [QUESTION, BAD], "winner": "model_a"},
        ),
    ),
    Form(
        name="two-scores",
        kind=Kind.SCORES,
        columns=(*_PROMPTS, *_NAMES, *_TWO_SCORES),
        read=_read_scores,
        used_by="openai/webgpt_comparisons (`--map prompt=question.full_text`)",
        examples=({"prompt": ASKED, "answer_0": _BAD, "answer_1": _GOOD, "score_0": -0.5, "score_1": 0.5},),
    ),
    Form(
        name="shp",
        kind=Kind.VOTE,
        columns=("history", "human_ref_A", "human_ref_B", "labels"),
        read=_read_shp,
        used_by="stanfordnlp/SHP",
        examples=({"history": ASKED, "human_ref_A": _GOOD, "human_ref_B": _BAD, "labels": 1},),
    ),
    Form(
        name="arena-texts",
        kind=Kind.VOTE,
        columns=("prompt", "response_a", "response_b", *_ARENA_WINNERS),
        read=_read_arena_texts,
        used_by="lmarena-ai/arena-human-preference-55k",
        examples=(
            {
                "prompt": f'["{ASKED}"]',
                "response_a": f'["{_GOOD}"]',
                "response_b": f'["{_BAD}"]',
                **dict(zip(_ARENA_WINNERS, (1, 0, 0), strict=True)),
            },
        ),
    ),
    Form(
        name="helpsteer-preference",
        kind=Kind.VOTE,
        columns=(*_PROMPTS, *_NAMES, "overall_preference", "preference_strength"),
        read=_read_scaled("HelpSteer preferences", "overall_preference", "preference_strength"),
        used_by="nvidia/HelpSteer3 (`--data-config preference`); below 0 the first answer is better",
        examples=({"context": [QUESTION], "response1": _GOOD, "response2": _BAD, "overall_preference": -2},),
    ),
    Form(
        name="alpaca-eval",
        kind=Kind.VOTE,
        columns=("instruction", "input", "output_1", "output_2", "preference"),
        read=_read_scaled("alpaca_eval annotations", "preference"),
        used_by="alpaca_eval's annotations.json, AlpacaFarm; 1 the first, 2 the second, 1.5 (or 0) a tie",
        examples=({"instruction": ASKED, "output_1": _BAD, "output_2": _GOOD, "preference": 1.98},),
    ),
)
