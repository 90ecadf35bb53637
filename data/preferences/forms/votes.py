"""Forms whose rows hold two answers and which of them was preferred; ties are dropped."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data.preferences.forms.columns import RowError, given, number, parsed, text
from data.preferences.forms.content import Dropped, Said, pair_content
from data.preferences.forms.form import Form, Kind, Pairing, has, prompt_of
from data.preferences.forms.turns import helpsteer_prompt, read_column
from data.preferences.messages import Message, Prompt

__all__ = ["VOTE_FORMS"]


# Names of two answers side by side, by stem: which of them a row has is seen once for each row.
_STEMS = ("response", "answer", "output", "completion", "conversation")

_SUFFIXES = (("_0", "_1"), ("_1", "_2"), ("_a", "_b"), ("_A", "_B"), ("1", "2"))

_PAIRS_OF_NAMES = tuple((f"{stem}{a}", f"{stem}{b}") for stem in _STEMS for a, b in _SUFFIXES)

_PROMPTS = ("prompt", "question", "instruction", "context", "messages", "input")

# Columns that say which one was preferred by its name, index or letter.
_WINNERS = ("better_response_id", "winner", "preferred", "preference", "choice", "label")

_TIES = (
    "tie",
    "tie (bothbad)",
    "both_bad",
    "bothbad",
    "both bad",
    "both good",
    "equal",
    "same",
    "draw",
    "none",
)

_NO_VOTE = "no preference given"


def _names(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((names for names in _PAIRS_OF_NAMES if names[0] in row and has(row, *names)), None)


def _prompt_column(row: Mapping[str, Any]) -> str | None:
    return next((column for column in _PROMPTS if given(row, column)), None)


def _preferred(row: Mapping[str, Any], names: tuple[str, str], column: str) -> int | None:
    """Which answer a column prefers: 0 or 1; None for a tie."""
    value = row[column]
    said = str(int(value)) if isinstance(value, bool | float) and value == int(value) else str(value).strip()
    lowered = said.lower()
    if lowered in _TIES:
        return None
    for index, name in enumerate(names):
        stem = next(stem for stem in _STEMS if name.startswith(stem))
        suffix = name[len(stem) :].strip("_").lower()
        if lowered in (suffix, name.lower(), f"model_{suffix}", f"response_{suffix}", f"assistant_{suffix}"):
            return index
    raise RowError(
        "no valid preference",
        f"`{column}` is {value!r}, which names neither `{names[0]}` nor `{names[1]}` nor a tie",
    )


def _said(
    row: Mapping[str, Any],
    prompt: Prompt | None,
    answers: tuple[Any, Any],
    preferred: int | None,
    names: tuple[str, str],
) -> Iterator[Said]:
    if preferred is None:
        yield Dropped("tie")
        return
    other = 1 - preferred
    yield pair_content(
        row, prompt, answers[preferred], answers[other], names=(names[preferred], names[other])
    )


# --- Two answers and the name of the better one


def _winner_column(row: Mapping[str, Any]) -> str | None:
    return next((column for column in _WINNERS if column in row), None)


def _describe_votes(row: Mapping[str, Any]) -> str | None:
    names, column, prompt = _names(row), _winner_column(row), _prompt_column(row)
    if names is None or column is None or _is_scaled(row):
        return None
    if names[0].startswith("conversation"):
        return f"votes over two conversations ({', '.join(names)}, {column})"
    return f"votes over two answers ({prompt}, {', '.join(names)}, {column})" if prompt else None


def _parse_votes(row: Mapping[str, Any], _: Pairing) -> Iterator[Said]:
    names, column, prompt = _names(row), _winner_column(row), _prompt_column(row)
    if names is None or column is None:
        raise RowError("an answer is missing", "one of the two answers holds nothing; remove the row")
    if row[column] is None:
        yield Dropped(_NO_VOTE)
        return
    answers = read_column(row, names[0]), read_column(row, names[1])
    whole = names[0].startswith("conversation")
    asked = None if whole or prompt is None else prompt_of(row, prompt)
    yield from _said(row, asked, answers, _preferred(row, names, column), names)


# --- Two answers with a score each


def _two_scores(row: Mapping[str, Any]) -> tuple[str, str] | None:
    names = _names(row)
    if names is None:
        return None
    suffixes = [name[len(next(stem for stem in _STEMS if name.startswith(stem))) :] for name in names]
    scores = f"score{suffixes[0]}", f"score{suffixes[1]}"
    return scores if all(name in row for name in scores) else None


def _describe_scores(row: Mapping[str, Any]) -> str | None:
    names, scores, prompt = _names(row), _two_scores(row), _prompt_column(row)
    if names is None or scores is None or prompt is None:
        return None
    return f"two scored answers ({prompt}, {', '.join(names)}, {', '.join(scores)})"


def _parse_scores(row: Mapping[str, Any], _: Pairing) -> Iterator[Said]:
    names, scores, prompt = _names(row), _two_scores(row), _prompt_column(row)
    if names is None or scores is None or prompt is None:
        raise RowError(
            "an answer is missing", "the prompt or one of the two answers holds nothing; remove the row"
        )
    if row[scores[0]] is None or row[scores[1]] is None:
        yield Dropped(_NO_VOTE)
        return
    first, second = (number(row[name], name) for name in scores)
    answers = read_column(row, names[0]), read_column(row, names[1])
    preferred = None if first == second else int(second > first)
    yield from _said(row, prompt_of(row, prompt), answers, preferred, names)


# --- Reddit comments (SHP)


def _describe_shp(row: Mapping[str, Any]) -> str | None:
    wanted = has(row, "history", "human_ref_A", "human_ref_B") and "labels" in row
    return "SHP comments (history, human_ref_A, human_ref_B, labels)" if wanted else None


def _parse_shp(row: Mapping[str, Any], _: Pairing) -> Iterator[Said]:
    names = ("human_ref_A", "human_ref_B")
    # 1 prefers A, which is why this form has a separate parser.
    label = number(row["labels"], "labels")
    if label not in (0, 1):
        raise RowError(
            "no valid preference", f"`labels` is {row['labels']!r}; it must be 1 (A is better) or 0"
        )
    answers = text(row[names[0]], names[0]), text(row[names[1]], names[1])
    yield from _said(row, text(row["history"], "history"), answers, 0 if label else 1, names)


# --- The Arena's table of texts


_ARENA_WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")


def _describe_arena_texts(row: Mapping[str, Any]) -> str | None:
    wanted = has(row, "prompt", "response_a", "response_b") and all(name in row for name in _ARENA_WINNERS)
    return "Arena votes (prompt, response_a, response_b, winner_model_a and so on)" if wanted else None


def _parse_arena_texts(row: Mapping[str, Any], _: Pairing) -> Iterator[Said]:
    a, b, tie = (number(row[name], name) for name in _ARENA_WINNERS)
    if a + b + tie != 1:
        raise RowError(
            "no valid preference", f"{', '.join(_ARENA_WINNERS)} are {a:g}, {b:g}, {tie:g}; one must be 1"
        )
    questions = _texts(row, "prompt")
    conversations = []
    for name in ("response_a", "response_b"):
        answers = _texts(row, name)
        if len(answers) != len(questions):
            raise RowError(
                "an answer is missing", f"`{name}` has {len(answers)} turns, `prompt` {len(questions)}"
            )
        turns = [
            Message(role, said)
            for pair in zip(questions, answers, strict=True)
            for role, said in zip(("user", "assistant"), pair, strict=True)
        ]
        conversations.append(tuple(turns))
    preferred = None if tie else 0 if a else 1
    yield from _said(row, None, (conversations[0], conversations[1]), preferred, ("response_a", "response_b"))


def _texts(row: Mapping[str, Any], column: str) -> list[str]:
    """One text for each turn: a list, JSON text of one, or a single text."""
    value = row[column]
    if (isinstance(value, str) and value.lstrip().startswith('["')) or value == "[null]":
        value = parsed(value, column)
    values = value if isinstance(value, list) else [value]
    if any(item is None for item in values):
        raise RowError("an answer is missing", f"`{column}` has a turn without text; remove the row")
    return [text(item, column) for item in values]


# --- Two answers and a number on a scale


def _scale(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """The column of a scale and the value at which the answers are equal."""
    if "overall_preference" in row:
        return "overall_preference", 0.0
    if "preference_strength" in row:
        return "preference_strength", 0.0
    if "preference" in row and has(row, "instruction", "output_1", "output_2"):
        return "preference", 1.5
    return None


def _is_scaled(row: Mapping[str, Any]) -> bool:
    return _scale(row) is not None


def _describe_scaled(prefix: str, *columns: str) -> Callable[[Mapping[str, Any]], str | None]:
    def describe(row: Mapping[str, Any]) -> str | None:
        names, scale, prompt = _names(row), _scale(row), _prompt_column(row)
        if names is None or scale is None or prompt is None or scale[0] not in columns:
            return None
        return f"{prefix} ({prompt}, {', '.join(names)}, {scale[0]})"

    return describe


def _parse_scaled(row: Mapping[str, Any], _: Pairing) -> Iterator[Said]:
    names, scale, prompt = _names(row), _scale(row), _prompt_column(row)
    if names is None or scale is None or prompt is None:
        raise RowError(
            "an answer is missing", "the prompt or one of the two answers holds nothing; remove the row"
        )
    column, middle = scale
    if row[column] is None:
        yield Dropped(_NO_VOTE)
        return
    value = number(row[column], column)
    # alpaca_eval's first annotators wrote 0 for a tie, where 1 and 2 are the answers.
    preferred = None if value == middle or (middle and value == 0) else int(value > middle)
    asked = prompt_of(row, prompt)
    asked = helpsteer_prompt(asked) if isinstance(asked, str) else asked
    yield from _said(row, asked, (read_column(row, names[0]), read_column(row, names[1])), preferred, names)


_NAMES = tuple(dict.fromkeys(name for names in _PAIRS_OF_NAMES for name in names))

_TWO_SCORES = tuple(dict.fromkeys(f"score{suffix}" for pair in _SUFFIXES for suffix in pair))

_TURNS = [{"role": "user", "content": "Name a river."}]

VOTE_FORMS: tuple[Form, ...] = (
    Form(
        name="votes",
        kind=Kind.VOTE,
        columns=(*_PROMPTS, *_NAMES, *_WINNERS),
        describe=_describe_votes,
        parse=_parse_votes,
        used_by="PKU-Alignment/PKU-SafeRLHF (by `better_response_id`), lmarena-ai/arena-human-preference-140k",
        examples=(
            {
                "prompt": "Name a river.",
                "response_0": "Water.",
                "response_1": "The Danube.",
                "better_response_id": 1,
            },
            {
                "conversation_a": [*_TURNS, {"role": "assistant", "content": "The Danube."}],
                "conversation_b": [*_TURNS, {"role": "assistant", "content": "Water."}],
                "winner": "model_a",
            },
        ),
    ),
    Form(
        name="two-scores",
        kind=Kind.SCORES,
        columns=(*_PROMPTS, *_NAMES, *_TWO_SCORES),
        describe=_describe_scores,
        parse=_parse_scores,
        used_by="openai/webgpt_comparisons (`--map prompt=question.full_text`)",
        examples=(
            {
                "prompt": "Name a river.",
                "answer_0": "Water.",
                "answer_1": "The Danube.",
                "score_0": -0.5,
                "score_1": 0.5,
            },
        ),
    ),
    Form(
        name="shp",
        kind=Kind.VOTE,
        columns=("history", "human_ref_A", "human_ref_B", "labels"),
        describe=_describe_shp,
        parse=_parse_shp,
        used_by="stanfordnlp/SHP",
        examples=(
            {"history": "Name a river.", "human_ref_A": "The Danube.", "human_ref_B": "Water.", "labels": 1},
        ),
    ),
    Form(
        name="arena-texts",
        kind=Kind.VOTE,
        columns=("prompt", "response_a", "response_b", *_ARENA_WINNERS),
        describe=_describe_arena_texts,
        parse=_parse_arena_texts,
        used_by="lmarena-ai/arena-human-preference-55k",
        examples=(
            {
                "prompt": '["Name a river."]',
                "response_a": '["The Danube."]',
                "response_b": '["Water."]',
                "winner_model_a": 1,
                "winner_model_b": 0,
                "winner_tie": 0,
            },
        ),
    ),
    Form(
        name="helpsteer-preference",
        kind=Kind.VOTE,
        columns=(*_PROMPTS, *_NAMES, "overall_preference", "preference_strength"),
        describe=_describe_scaled("HelpSteer preferences", "overall_preference", "preference_strength"),
        parse=_parse_scaled,
        used_by="nvidia/HelpSteer3 (`--data-config preference`); below 0 the first answer is better",
        examples=(
            {"context": _TURNS, "response1": "The Danube.", "response2": "Water.", "overall_preference": -2},
        ),
    ),
    Form(
        name="alpaca-eval",
        kind=Kind.VOTE,
        columns=("instruction", "input", "output_1", "output_2", "preference"),
        describe=_describe_scaled("alpaca_eval annotations", "preference"),
        parse=_parse_scaled,
        used_by="alpaca_eval's annotations.json, AlpacaFarm; 1 the first, 2 the second, 1.5 (or 0) a tie",
        examples=(
            {
                "instruction": "Name a river.",
                "output_1": "Water.",
                "output_2": "The Danube.",
                "preference": 1.98,
            },
        ),
    ),
)
