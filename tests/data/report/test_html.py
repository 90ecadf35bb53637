import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from data.report.charts import histogram_chart, scatter_chart
from data.report.html import render_report, write_report
from data.report.summary import Histogram, summarize_dataset
from data.report.terminal import inspect_lines
from data.signals.dataset import SignalDataset
from data.tokens.token_text import TokenText


@pytest.fixture
def dataset(readable_dataset):
    return readable_dataset


def test_the_summary_agrees_with_sums_over_single_rows(dataset):
    summary = summarize_dataset(dataset)
    rows = [row for row in dataset.iterate() if row.role == "student"]
    (student,) = [role for role in summary.roles if role.role == "student"]
    assert [role.role for role in summary.roles] == ["chosen", "student"]
    assert student.num_responses == 18
    assert student.num_positions == sum(len(row.response_ids) for row in rows)
    assert student.num_support_tokens == 4 * student.num_positions
    covered = sum(float((1 - np.exp(row.teacher_tail_logprobs.astype(np.float64))).sum()) for row in rows)
    # Both add float64 numbers, in another order.
    np.testing.assert_allclose(student.covered, covered, rtol=1e-12)
    advantages = np.concatenate([row.teacher_token_logprobs - row.reference_token_logprobs for row in rows])
    np.testing.assert_allclose(student.token_advantage.mean, advantages.mean(), rtol=1e-5)
    kl = 0.0
    for row in rows:
        teacher, tails = np.exp(row.teacher_logprobs.astype(np.float64)), row.teacher_tail_logprobs
        inner = (teacher * row.advantages).reshape(-1, 4).sum(axis=1)
        kl += np.maximum(inner + np.exp(tails) * (tails - row.reference_tail_logprobs), 1e-6).sum()
    np.testing.assert_allclose(student.kl_sum, kl, rtol=1e-6)
    assert student.tail_mass.counts.sum() == student.num_positions
    assert len(student.lengths) == 18


def test_the_tokens_listed_have_the_largest_mean_advantages(dataset):
    summary = summarize_dataset(dataset, num_tokens=3)
    sums, counts = np.zeros(97), np.zeros(97)
    for row in dataset.iterate():
        if row.is_scored:
            np.add.at(sums, row.response_ids, row.teacher_token_logprobs - row.reference_token_logprobs)
            np.add.at(counts, row.response_ids, 1)
    means = np.where(counts >= 5, sums / np.maximum(counts, 1), np.nan)
    best = np.argsort(-np.nan_to_num(means, nan=-np.inf))[:3]
    assert [token.token_id for token in summary.raised] == [i for i in best.tolist() if means[i] > 0]
    assert all(token.mean < 0 for token in summary.lowered)


def test_a_summary_of_some_row_groups_says_so(dataset):
    summary = summarize_dataset(dataset, max_groups=2)
    assert (summary.num_groups, summary.num_all_groups) == (2, len(dataset.blocks))
    assert f"  (statistics of 2 of {len(dataset.blocks)} row groups)" in list(inspect_lines(summary))


def test_inspect_describes_the_dataset(dataset):
    lines = list(inspect_lines(summarize_dataset(dataset)))
    text = "\n".join(lines)
    assert "54 responses of 18 pairs" in text
    assert lines[2:5] == ["  what determines it:", "    teacher.source: tiny", "    top_k: 4"]
    assert re.search(
        r"^chosen: 18 responses, \d\.\d tokens each, 4\.0 support tokens a position$", text, re.MULTILINE
    )
    assert re.search(r"mass on the support +\d\d\.\d\d%", text)


def test_statistics_fit_a_terminal_of_80_columns(dataset):
    lines = list(inspect_lines(summarize_dataset(dataset)))
    first = next(index for index, line in enumerate(lines) if line.startswith("chosen:"))
    assert max(len(line) for line in lines[first:]) <= 80
    texts = TokenText(dataset.tokenizer_folder)
    for token in summarize_dataset(dataset).raised:
        entry = f"{texts[token.token_id]!r} {token.mean:+.2f} ({token.count:,})"
        assert any(entry in line for line in lines)


def test_datasets_without_reference_or_scores_are_described_too(tmp_path, make_dataset):
    make_dataset(tmp_path / "a", reference=False)
    make_dataset(tmp_path / "b", scored=())
    for name, roles in (("a", 2), ("b", 0)):
        dataset = SignalDataset.open(tmp_path / name)
        summary = summarize_dataset(dataset)
        assert (len(summary.roles), list(summary.raised)) == (roles, [])
        assert "token advantage" not in "\n".join(inspect_lines(summary))
        page = render_report(summary, [dataset.pair(0)])
        assert "Advantage of the response" not in page
        assert "coloured by its advantage" not in page
        assert "mean KL" not in page
        assert "Point at a token" in page


def test_a_table_of_tokens_without_any_is_left_out(dataset):
    summary = summarize_dataset(dataset)
    page = render_report(dataclasses.replace(summary, lowered=[]), [dataset.pair(0)])
    assert "Raised most" in page
    assert "Lowered most" not in page


class _Page(HTMLParser):
    """Collects the JSON elements and every address that the page would load."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.addresses, self.tags, self._open = {}, [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        self._open = attributes.get("id") if attributes.get("type") == "application/json" else None

    def handle_data(self, data):
        if self._open:
            self.elements[self._open] = self.elements.get(self._open, "") + data

    def handle_endtag(self, tag):
        self._open = None


def test_the_report_is_one_file_that_loads_nothing(tmp_path, dataset):
    write_report(dataset, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert page.addresses == []
    assert "@import" not in text
    assert "url(" not in text
    assert "signals &lt;1&gt;" in text
    # The token "</script><b>" is data and becomes no element.
    assert page.tags.count("b") == 6
    assert page.tags.count("script") == 2 + 18


def test_the_report_carries_each_token_its_advantage_and_the_alternatives(dataset):
    pair = dataset.pair(3)
    page = _Page(render_report(summarize_dataset(dataset), [dataset.pair(0), pair]))
    conversation = json.loads(page.elements["conversation-1"])
    texts = json.loads(page.elements["texts"])
    tokens = TokenText(dataset.tokenizer_folder)
    assert conversation["prompt"] == "".join(tokens[token_id] for token_id in pair[0].prompt_ids.tolist())
    chosen, rejected, student = conversation["responses"]
    assert [chosen["role"], rejected["role"], student["role"]] == ["chosen", "rejected", "student"]
    assert "alternatives" not in rejected
    row = pair[2]
    assert student["ids"] == row.response_ids.tolist()
    expected = np.rint((row.teacher_token_logprobs - row.reference_token_logprobs) * 100)
    assert student["advantages"] == expected.tolist()
    assert [entry[0] for entry in student["alternatives"][1]] == row.topk_ids[4:8].tolist()
    used = {*student["ids"], *(e[0] for p in student["alternatives"] for e in p)}
    assert {str(token_id) for token_id in used} <= texts.keys()


def test_tokens_are_shown_with_their_spaces(dataset, tmp_path):
    texts = TokenText(dataset.tokenizer_folder)
    assert (texts[5], texts[96], texts[94]) == (" word5", "\n\n", "</script><b>")
    assert TokenText(tmp_path / "absent")[5] == "⟨5⟩"
    # Without a decoder, `tokenizers` joins words by spaces; so must we.
    plain = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    plain.save(str(tmp_path / "tokenizer.json"))
    assert plain.decode([0, 1]) == "a b"
    assert [TokenText(tmp_path)[0], TokenText(tmp_path)[1]] == [" a", " b"]
    assert texts[500] == "⟨500⟩"


def _byte_level_tokenizer():
    """One token for each byte, and one for a space with the first bytes of an emoji, as GPT-2's tokenizer has it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("ð", "Ł"), ("Ġ", "ðŁ")]
    pieces = [*alphabet, *(first + second for first, second in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_fallback_tokenizer():
    """Sentencepiece's way: bytes by number for what the vocabulary lacks."""
    pieces = ["<unk>", "▁", "o", "k", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


@pytest.mark.parametrize("make", [_byte_level_tokenizer, _byte_fallback_tokenizer])
def test_characters_spread_over_several_tokens_can_be_read_in_their_text(tmp_path, make):
    make().save(str(tmp_path / "tokenizer.json"))
    texts = TokenText(tmp_path)
    text = "ok 😀 今天é ok"
    ids = make().encode(text).ids
    shown = texts.in_sequence(ids)
    assert "".join(shown) == text
    assert (shown[-1], shown[shown.index("天") + 1]) == ("k", "")
    # By themselves such tokens show their bytes, and so does what is cut off in the middle of a character.
    assert texts[make().encode("天").ids[0]] == "<0xE5>"
    cut = texts.in_sequence(make().encode("o天").ids[:-1])
    assert cut == ["o", "<0xE5>", "<0xA4>"]


def test_a_token_of_a_space_and_part_of_a_character_shows_both(tmp_path):
    tokenizer = _byte_level_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert TokenText(tmp_path)[tokenizer.encode(" 😀").ids[0]] == " <0xF0><0x9F>"


def _texts(chart):
    return re.findall(r"<text [^>]*>(.*?)</text>", chart)


def test_a_histogram_is_drawn_to_scale_without_its_empty_ends():
    histogram = Histogram(np.arange(0.0, 11.0))
    histogram.add(np.array([4.5, 5.5, 5.5, 5.9]))
    assert (histogram.counts[4], histogram.counts[5]) == (1, 3)
    assert histogram.mean == pytest.approx(21.4 / 4)
    chart = histogram_chart({"chosen": histogram}, label="nats")
    points = [
        tuple(map(float, point.split(","))) for point in re.findall(r'points="(.*?)"', chart)[0].split()
    ]
    baseline = points[0][1]
    # One empty bin at either end of the two that are filled: from 3 to 7.
    heights = [baseline - points[1 + 2 * index][1] for index in range(4)]
    assert len(points) == 2 + 2 * 4
    assert heights[0] == heights[3] == 0
    # Coordinates are written with one decimal.
    assert heights[1] / heights[2] == pytest.approx(1 / 3, abs=2e-3)
    assert _texts(chart)[-6:-1] == ["3", "4", "5", "6", "7"]


def test_the_axis_says_where_values_lie_beyond_it():
    histogram = Histogram(np.linspace(-2, 2, 9))
    histogram.add(np.array([-7.0, 0.1, 9.0]))
    assert _texts(histogram_chart({"chosen": histogram}, label=""))[-6:-1] == ["-1", "0", "1", "≤ -2", "≥ 2"]
    chart = histogram_chart({"chosen": histogram}, label="", logarithmic=True, unbounded=False)
    assert _texts(chart)[-6:-1] == ["0.1", "1", "10", "100", "≤ 0.01"]


def test_a_chart_of_nothing_and_of_one_point_can_be_drawn():
    empty = Histogram(np.linspace(-8, 0, 41))
    assert _texts(histogram_chart({"chosen": empty}, label="x", logarithmic=True))[-1] == "x"
    assert "circle" in scatter_chart({"chosen": [(3, 0.0)]}, label="x")
    assert "circle" not in scatter_chart({"chosen": []}, label="x")


def test_the_number_of_conversations_is_limited(dataset, tmp_path):
    write_report(dataset, tmp_path / "report.html", num_conversations=4)
    page = _Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert sum(name.startswith("conversation-") for name in page.elements) == 4
