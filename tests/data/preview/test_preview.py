import json
import re
import subprocess
import sys

import pytest

from data.errors import DataError
from data.preview.preview import PreviewOptions, preview_data
from data.preview.rendering import render_preview
from tests.data.preferences.schemas import ANSWERS, PAIRS, SCORES, SINGLES, TWO_SCORES, VOTES, assistant, user
from tests.data.tokens.chat_tokenizers import chatml

ALL = [*PAIRS, *VOTES, *SCORES, *TWO_SCORES, *SINGLES, *ANSWERS]

PAIR = {"prompt": "the quick fox", "chosen": "jumps over", "rejected": "the dog"}


@pytest.fixture
def preview(tmp_path):
    """Writes rows as JSONL and previews them."""

    def write_and_preview(*rows, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return preview_data(
            PreviewOptions(data=str(path), **options), load_tokenizer=lambda name, trust: chatml()
        )

    return write_and_preview


def pieces(result, title):
    return [
        passage.pieces
        for example in result.examples
        for passage in example.passages
        if passage.title == title
    ]


@pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)
@pytest.mark.parametrize("tokenizer", [None, "any"])
def test_a_preview_names_the_form_and_shows_rows_of_every_form(preview, schema, tokenizer):
    result = preview(*schema.rows, tokenizer=tokenizer)
    assert (result.form_name, result.unread) == (schema.form, schema.unread)
    assert result.counts.dropped == schema.dropped
    assert result.counts.kept == len(schema.pairs)
    assert len(result.examples) == min(3, len(schema.pairs))
    text = render_preview(result, colour=False)
    for words in (schema.form, *schema.unread, *schema.dropped):
        assert words in text


def test_a_preview_without_a_tokenizer_loads_none():
    def refuse(*_):
        raise AssertionError("asked for a tokenizer")

    path = "tests/data/preferences/fixtures/dpo_mix_7k.jsonl"
    result = preview_data(PreviewOptions(data=path), load_tokenizer=refuse)
    assert (result.unit, result.template) == ("characters", None)


def test_examples_show_prompt_answer_and_terminator_apart(preview):
    result = preview(PAIR, tokenizer="any")
    assert pieces(result, "prompt") == [
        (("prompt", "<|im_start|>user\nthe quick fox<|im_end|>\n<|im_start|>assistant\n"),)
    ]
    assert pieces(result, "chosen") == [(("trained", "jumps over"), ("terminator", "<|im_end|>"))]
    assert pieces(result, "rejected") == [(("trained", "the dog"), ("terminator", "<|im_end|>"))]


def test_what_is_masked_is_shown_as_masked(preview):
    turns = [user("the quick fox"), assistant("jumps"), user("over"), assistant("the dog")]
    result = preview(
        {"chosen": turns, "rejected": [*turns[:1], assistant("a  b"), *turns[2:]]}, tokenizer="any"
    )
    ((*chosen,),) = pieces(result, "chosen")
    assert [kind for kind, _ in chosen] == ["trained", "terminator", "masked", "trained", "terminator"]
    assert "over" in chosen[2][1]
    last = preview(
        {"chosen": turns, "rejected": [*turns[:1], assistant("a  b"), *turns[2:]]},
        tokenizer="any",
        train_on="last",
    )
    assert [kind for kind, _ in pieces(last, "chosen")[0]] == ["masked", "trained", "terminator"]


def test_without_a_tokenizer_turns_are_shown_with_their_role(preview):
    result = preview({"messages": [user("q"), assistant("a")], "tools": [{"name": "f"}]})
    assert [(passage.title, passage.pieces) for passage in result.examples[0].passages] == [
        ("tools", (("prompt", '[{"name": "f"}]'),)),
        ("prompt: user", (("prompt", "q"),)),
        ("chosen: assistant", (("trained", "a"),)),
    ]


def test_lengths_are_percentiles_of_what_is_kept(preview):
    rows = [{"prompt": "p" * (number + 1), "chosen": "c" * 7, "rejected": "r" * 3} for number in range(100)]
    result = preview(*rows)
    at = {lengths.part: lengths.at for lengths in result.lengths}
    assert at["prompt"] == (5, 25, 50, 75, 95, 100)
    assert at["prompt and longest answer"] == (12, 32, 57, 82, 102, 107)
    assert at["chosen"] == (7,) * 6


def test_lengths_in_tokens_are_those_that_the_limit_is_held_against(preview):
    result = preview(PAIR, {**PAIR, "prompt": "the quick brown fox " * 60}, tokenizer="any", max_length=100)
    (longest,) = (lengths.at[-1] for lengths in result.lengths if lengths.part == "prompt and longest answer")
    assert longest <= 100
    assert result.counts.dropped == {"longer than 100 tokens": 1}
    assert (result.counts.read, result.counts.kept) == (2, 1)


def test_rows_that_would_be_dropped_are_counted_with_the_first_of_each_reason(preview):
    result = preview(
        PAIR, {**PAIR, "chosen": ""}, {**PAIR, "rejected": " "}, {**PAIR, "rejected": PAIR["chosen"]}, PAIR
    )
    assert result.counts.dropped == {"empty response": 2, "chosen equals rejected": 1, "duplicate": 1}
    assert "line 2: `chosen` has an empty response" in result.problems["empty response"]
    assert "2 dropped: empty response (the first: " in render_preview(result, colour=False)


def test_only_the_first_rows_are_looked_at_where_that_is_asked_for(preview):
    rows = [{**PAIR, "prompt": f"q{number}"} for number in range(20)]
    result = preview(*rows, max_rows=5)
    assert (result.counts.kept, result.is_whole) == (5, False)
    assert "the first 5 rows" in render_preview(result, colour=False)
    assert preview(*rows, max_rows=20).is_whole
    assert preview(*rows, max_rows=0).counts.kept == 20


def test_a_preview_says_whether_rows_have_answers(preview):
    for rows, words in (
        ([PAIR], "form pairs: pairs"),
        ([{"prompt": "q", "completion": "a"}], "form prompt-completion: one answer each"),
        ([{"prompt": "q"}], "form prompt: prompts alone"),
    ):
        assert words in render_preview(preview(*rows), colour=False)


def test_a_file_of_no_form_is_refused(preview):
    with pytest.raises(DataError, match="line 1: no known form"):
        preview({"text": "x"})


# --- On the terminal


def test_colours_never_reach_beyond_their_text(preview):
    text = render_preview(preview({**PAIR, "chosen": "over\nthe\ndog"}, tokenizer="any"), colour=True)
    for line in text.split("\n"):
        assert line.count("\x1b[0m") == len(re.findall(r"\x1b\[(?!0m)\d+m", line)), line
    assert "\x1b[32mover\x1b[0m" in text


def test_text_without_colours_shows_masks_and_terminators_in_brackets(preview):
    turns = [user("the quick fox"), assistant("jumps"), user("over"), assistant("the dog")]
    text = render_preview(
        preview({"chosen": turns, "rejected": [*turns[:1], assistant("a")]}, tokenizer="any"), colour=False
    )
    assert "jumps⟦<|im_end|>⟧⟪" in text
    assert "\x1b" not in text


def test_data_cannot_steer_the_terminal(preview):
    result = preview({**PAIR, "prompt": "a\x1b[2Jb\x07c\r\nd\u202ee", "x\x1b[0m": "y"})
    text = render_preview(result, colour=False)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "a\N{REPLACEMENT CHARACTER}[2Jb" in text


def test_long_text_loses_its_middle_and_says_so(preview):
    text = render_preview(preview({**PAIR, "prompt": "x" * 600 + "y" * 5000 + "z" * 600}), colour=False)
    assert "… 5,000 characters …" in text
    assert "yyy" not in text


# --- The commands


def run(*arguments):
    """The command line in a separate process: its output, and what it imported."""
    program = (
        "import sys, cli; sys.argv = ['adpa', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "finally: print('imported:', *sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_commands_preview_and_convert_a_file_without_torch(tmp_path):
    path, out = tmp_path / "votes.csv", tmp_path / "pairs.jsonl"
    path.write_text("q,response_a,response_b,winner\nthe fox,jumps,sits,a\nthe dog,sits,jumps,tie\n")
    shown = run("data", "preview", str(path), "--map", "prompt=q")
    assert shown.returncode == 0, shown.stderr
    assert "form votes: pairs" in shown.stdout
    assert "1 dropped: tie" in shown.stdout
    converted = run("data", "convert", str(path), "--map", "prompt=q", "--out", str(out))
    assert converted.returncode == 0, converted.stderr
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("the fox", "jumps", "sits")
    for done in (shown, converted):
        assert not {"torch", "transformers", "vllm"} & set(done.stderr.split("imported:")[1].split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("preview",), 2, "--data is required"),
        (("preview", "missing.jsonl"), 1, "missing.jsonl: no such file or folder"),
        (("preview", "{path}", "--form", "orka"), 2, "form 'orka' is not known (did you mean orca?)"),
        (("preview", "{path}", "--split", "train[:5%]"), 2, "split 'train[:5%]' is neither a split"),
        (("convert", "{path}"), 2, "--out is required"),
        (("convert", "{path}", "--out", "x.txt"), 2, "must end in .jsonl or .parquet"),
    ],
)
def test_a_wrong_line_is_refused_in_one_line(tmp_path, arguments, code, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIR) + "\n")
    done = run("data", *(argument.format(path=path) for argument in arguments))
    error = done.stderr.split("imported:")[0].strip()
    assert (done.returncode, error.count("\n")) == (code, 0), error
    assert message in error
