import dataclasses
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from data.errors import ConfigurationError
from data.report.charts import histogram_chart, scatter_chart
from data.report.conversations import conversation, pair_margin, token_ids
from data.report.html import Side, render_report, write_report
from data.report.rollout_summary import summarize_rollouts
from data.report.statistics import Endings, Histogram
from data.report.summary import summarize_dataset
from data.report.terminal import inspect_lines
from data.report.verdicts import rollout_verdicts, signal_verdicts
from data.signals.dataset import SignalDataset
from data.signals.manifest import Manifest, write_manifest
from data.signals.rollouts import Rollout, RolloutDataset, write_rollout_shard
from data.tokens.token_text import TokenText


@pytest.fixture
def dataset(readable_dataset):
    return readable_dataset


def _side(summary, pairs):
    return Side(summary, pairs, TokenText(summary.dataset.tokenizer_folder))


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
    assert len(summary.margins) == 0  # the rejected responses are not scored


def test_inspect_describes_the_dataset(dataset):
    lines = list(inspect_lines(summarize_dataset(dataset)))
    text = "\n".join(lines)
    assert "54 responses of 18 pairs" in text
    assert lines[-3:] == ["provenance:", "  teacher.source: tiny", "  top_k: 4"]
    assert lines[3] == "[look] Is the support wide enough?"
    assert re.search(
        r"^chosen: 18 responses, \d\.\d tokens each, 4\.0 support tokens a position$", text, re.MULTILINE
    )
    assert re.search(r"probability covered +\d\d\.\d\d%", text)


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
        page = render_report(_side(summary, [dataset.pair(0)]))
        assert "Advantage of the response" not in page
        assert "coloured by its advantage" not in page
        assert "mean KL" not in page
        assert "Point at a token" in page


def test_a_table_of_tokens_without_any_is_left_out(dataset):
    summary = summarize_dataset(dataset)
    page = render_report(_side(dataclasses.replace(summary, lowered=[]), [dataset.pair(0)]))
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
    assert page.tags.count("b") == 5
    assert page.tags.count("script") == 4 + 18


def test_the_report_carries_each_token_its_advantage_and_the_alternatives(dataset):
    pair = dataset.pair(3)
    page = _Page(render_report(_side(summarize_dataset(dataset), [dataset.pair(0), pair])))
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


@pytest.fixture
def scored_dataset(tmp_path, make_dataset):
    """Both responses of every pair are scored."""
    make_dataset(tmp_path / "scored")
    return SignalDataset.open(tmp_path / "scored")


def test_margins_are_differences_of_whole_responses(scored_dataset):
    margins = summarize_dataset(scored_dataset).margins
    assert margins.pairs == list(range(15))
    for index in (0, 7, 14):
        sums = {row.role: float((row.teacher_token_logprobs - row.reference_token_logprobs).sum())
                for row in scored_dataset.pair(index)}  # fmt: skip
        assert margins.values[index] == pytest.approx(sums["chosen"] - sums["rejected"], abs=1e-4)
        assert margins.pair_ids[index] == scored_dataset.pair(index)[0].pair_id
        assert pair_margin(scored_dataset.pair(index)) == pytest.approx(margins.values[index], abs=1e-4)
    assert margins.agreement == np.mean(np.array(margins.values) > 0)
    worst, value = margins.strongest_disagreements(1)[0]
    assert value == min(margins.values) < 0
    assert worst == margins.pair_ids[int(np.argmin(margins.values))]


def test_margins_without_a_reference_are_differences_of_mean_log_probabilities(tmp_path, make_dataset):
    make_dataset(tmp_path, reference=False)
    dataset = SignalDataset.open(tmp_path)
    means = {row.role: float(row.teacher_token_logprobs.mean()) for row in dataset.pair(3)}
    expected = pytest.approx(means["chosen"] - means["rejected"], abs=1e-5)
    assert summarize_dataset(dataset).margins.values[3] == expected
    assert pair_margin(dataset.pair(3)) == expected


def _verdict(summary, question):
    (found,) = [verdict for verdict in signal_verdicts(summary) if question in verdict.question]
    return found


def test_the_verdict_on_the_ranking_follows_the_share_of_pairs(scored_dataset):
    summary = summarize_dataset(scored_dataset)
    for share, is_good in ((0.4, False), (0.8, True)):
        ranked = int(share * 15)
        summary.margins.values = [1.0] * ranked + [-3.0] * (15 - ranked)
        verdict = _verdict(summary, "rank chosen above rejected")
        assert (verdict.is_good, verdict.answer.startswith(f"In {share:.0%} of 15 pairs.")) == (is_good, True)
    assert "labels not swapped" not in verdict.answer


def test_the_verdict_on_the_support_names_what_helps(scored_dataset):
    summary = summarize_dataset(scored_dataset)
    positions = sum(role.num_positions for role in summary.roles)
    thin = sum(int((np.exp(row.teacher_tail_logprobs) > 0.1).sum()) for row in scored_dataset.iterate())
    verdict = _verdict(summary, "support wide enough")
    assert f"less than 90% at {thin / positions:.1%} of the positions" in verdict.answer
    assert (verdict.is_good, "larger top-k" in verdict.answer) == (False, True)
    for role in summary.roles:
        role.covered, role.num_thin = 0.99 * role.num_positions, 0
    assert _verdict(summary, "support wide enough").is_good


def test_answers_that_end_otherwise_than_labelled_ones_count_as_cut():
    endings = Endings(Counter({7: 99, 8: 50}), Counter({7: 5, 8: 2, 3: 1, 4: 2}))
    assert (endings.student, endings.cut) == (10, 3)
    # Without labelled responses, what ends most answers is their end; where nothing does, nobody can tell.
    assert Endings(sampled=Counter({7: 6, 3: 4})).cut == 4
    assert Endings(sampled=Counter({7: 3, 3: 4, 5: 3})).cut is None


def test_outliers_are_counted_and_named(scored_dataset):
    summary = summarize_dataset(scored_dataset)
    assert _verdict(summary, "outliers").is_good
    assert summary.margins.strongest_disagreements(1)[0][0] in _verdict(summary, "outliers").answer
    summary.roles[0].num_outliers = 40
    verdict = _verdict(summary, "outliers")
    assert (verdict.is_good, verdict.answer.startswith("40 of ")) == (False, True)


def test_the_colour_scale_is_what_nearly_all_advantages_stay_below(scored_dataset):
    found = [np.abs(row.teacher_token_logprobs - row.reference_token_logprobs)
             for row in scored_dataset.iterate()]  # fmt: skip
    quantile = np.quantile(np.concatenate(found), 0.95)
    scale = summarize_dataset(scored_dataset).colour_scale
    assert scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    # The next such number; the quantile is of a histogram with bins of 0.1.
    assert quantile - 0.1 <= scale <= 2.5 * quantile + 0.1


def test_the_conversations_with_the_most_extreme_margins_are_shown(scored_dataset, tmp_path):
    write_report(scored_dataset, tmp_path / "report.html", num_conversations=6)
    page = _Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    index = json.loads(page.elements["index"])
    margins = summarize_dataset(scored_dataset).margins.values
    shown = [entry["margin"] for entry in index]
    assert len(index) == 6
    for extreme in (min(margins), max(margins)):
        assert any(margin == pytest.approx(extreme, abs=1e-3) for margin in shown)
    assert [entry["id"] for entry in index] == sorted(
        (entry["id"] for entry in index), key=lambda n: int(n[5:])
    )


def test_a_masked_response_shows_signals_where_it_has_them(make_row):
    row = make_row("pair-0", "chosen", length=3)
    ids = np.array([*row.response_ids[:2], 50, 51, row.response_ids[2]], dtype=np.int32)
    mask = np.array([True, True, False, False, True])
    masked = dataclasses.replace(row, response_ids=ids, response_mask=mask)
    texts = TokenText(Path("absent"))
    (plain,) = conversation([row], texts)["responses"]
    (shown,) = conversation([masked], texts)["responses"]
    for name in ("logprobs", "advantages", "alternatives"):
        first, second, third = plain[name]
        assert shown[name] == [first, second, None, None, third]
    assert shown["summary"].startswith("5 tokens, 3 of them scored")
    assert set(token_ids({"responses": [shown]})) >= set(ids.tolist())


def test_two_datasets_are_shown_side_by_side(tmp_path, make_dataset, scored_dataset):
    make_dataset(tmp_path / "other", seed=1)
    other = SignalDataset.open(tmp_path / "other")
    write_report(scored_dataset, tmp_path / "report.html", compare=other, num_conversations=5)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert text.count("Does the teacher rank chosen above rejected?") == 2
    margins = [summarize_dataset(one).margins.values for one in (scored_dataset, other)]
    same = np.mean(np.sign(margins[0]) == np.sign(margins[1]))
    assert f"Of 15 pairs in both, the two teachers rank the answers alike in {same:.0%}." in text
    assert f"margins is {np.corrcoef(*margins)[0, 1]:.2f}." in text
    responses = json.loads(page.elements["conversation-0"])["responses"]
    assert [(response["role"], response["of"]) for response in responses] == [
        (role, name) for name in ("scored", "other") for role in ("chosen", "rejected")
    ]
    row = other.pair(0)[1]
    expected = np.rint((row.teacher_token_logprobs - row.reference_token_logprobs) * 100)
    assert responses[3]["advantages"] == expected.tolist()


def test_charts_beside_each_other_have_the_same_axes():
    first, second = Histogram(np.arange(0.0, 11.0)), Histogram(np.arange(0.0, 11.0))
    first.add(np.array([3.5, 3.5, 4.5]))
    second.add(np.array([8.5]))
    charts = [histogram_chart({"chosen": one}, label="x", beside=[other])
              for one, other in ((first, second), (second, first))]  # fmt: skip
    assert _texts(charts[0]) == _texts(charts[1])
    assert _texts(histogram_chart({"chosen": first}, label="x")) != _texts(charts[0])


def test_datasets_of_two_kinds_are_not_compared(tmp_path, make_rollouts, scored_dataset):
    make_rollouts(tmp_path / "rollouts")
    rollouts = RolloutDataset.open(tmp_path / "rollouts")
    with pytest.raises(ConfigurationError, match=r"rollouts is a dataset of rollouts, .*scored of signals"):
        write_report(scored_dataset, tmp_path / "report.html", compare=rollouts)
    assert not (tmp_path / "report.html").exists()


def test_rollouts_are_summarized(tmp_path, make_rollouts):
    rows = make_rollouts(tmp_path)
    summary = summarize_rollouts(RolloutDataset.open(tmp_path))
    assert (summary.num_prompts, summary.num_responses, summary.num_cut) == (6, 12, 6)
    assert (summary.num_repeatable, summary.num_repeated, summary.num_empty) == (6, 0, 0)
    expected = np.concatenate([row.token_logprobs for row in rows]).mean()
    assert summary.token_logprobs.mean == pytest.approx(float(expected), rel=1e-5)
    cut, empty, differ, sure = rollout_verdicts(summary)
    assert cut.answer == "6 of 12 (50.0%) of the answers have no end. Sample with a larger max-new-tokens."
    assert [verdict.is_good for verdict in (cut, empty, differ, sure)] == [False, True, True, None]
    lines = "\n".join(inspect_lines(summary))
    assert "12 answers to 6 prompts, 30 tokens" in lines
    assert "[look] How many answers were cut at the limit?" in lines


def test_repeated_and_empty_answers_are_counted(tmp_path):
    def answer(sample, text):
        ids = np.array([1, 2], dtype=np.int32)
        return Rollout("pair-0", sample, ids, ids, text, np.zeros(2, dtype=np.float32), "stop")

    manifest = Manifest(kind="rollouts", request={"student": "tiny"}, shards=())
    rows = [answer(sample, text) for sample, text in enumerate(["a", "b", "a", "a", " "])]
    shard = write_rollout_shard(tmp_path / "shard-00000.parquet", rows, fingerprint=manifest.fingerprint)
    write_manifest(tmp_path, dataclasses.replace(manifest, shards=(shard,)))
    summary = summarize_rollouts(RolloutDataset.open(tmp_path))
    assert (summary.num_repeatable, summary.num_repeated, summary.num_empty) == (4, 2, 1)


def test_rollouts_are_reported_by_token_or_by_text(tmp_path, make_rollouts, dataset):
    rows = make_rollouts(tmp_path / "rollouts")
    rollouts = RolloutDataset.open(tmp_path / "rollouts")
    pages = []
    for tokenizer in (None, dataset.tokenizer_folder):
        write_report(rollouts, tmp_path / "report.html", tokenizer=tokenizer)
        pages.append(_Page((tmp_path / "report.html").read_text(encoding="utf-8")))
    plain, tokens = (json.loads(page.elements["conversation-0"])["responses"][1] for page in pages)
    assert (plain["text"], plain["ids"]) == ("answer 1 to 0, “quoted”", [])
    assert tokens["ids"] == rows[1].response_ids.tolist()
    assert tokens["logprobs"] == np.rint(rows[1].token_logprobs * 100).tolist()
    assert tokens["summary"].startswith("3 tokens, cut at the limit, mean log-probability -")
    assert [page.elements["settings"].count("student") for page in pages] == [1, 1]
