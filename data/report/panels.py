"""Tables and charts of the HTML report, made from a dataset's statistics."""

import json
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from data.report.charts import histogram_chart, scatter_chart
from data.report.rollout_summary import RolloutSummary
from data.report.statistics import DatasetSummary, RoleSummary, TokenAdvantage
from data.tokens.token_text import TokenText


def key_figures(summary: DatasetSummary | RolloutSummary) -> list[tuple[str, str]]:
    """The figures under a dataset's name: each with what it counts."""
    manifest = summary.dataset.manifest
    size = sum(shard.size_bytes for shard in manifest.shards)
    if isinstance(summary, RolloutSummary):
        return [
            (f"{manifest.pairs:,}", "prompts"),
            (f"{manifest.rows:,}", "answers"),
            (f"{manifest.positions:,}", "tokens"),
            (f"{manifest.positions / max(1, manifest.rows):.1f}", "tokens an answer"),
            (f"{size / 1e6:,.1f} MB", "on disk"),
        ]
    positions = max(1, sum(role.num_supported for role in summary.roles))
    covered = sum(role.covered for role in summary.roles) / positions
    support = sum(role.num_support_tokens for role in summary.roles) / positions
    return [
        (f"{manifest.pairs:,}", "pairs"),
        (f"{manifest.rows:,}", "responses"),
        (f"{manifest.positions:,}", "scored positions"),
        (f"{covered:.1%}", f"probability covered by top {support:.0f}"),
        (f"{size / 1e6:,.1f} MB", f"on disk, {summary.bytes_per_position:.0f} bytes a position"),
    ]


def common_pairs(first: DatasetSummary | RolloutSummary, second: DatasetSummary | RolloutSummary) -> str:
    """How far two teachers agree on the pairs that both datasets have; empty for rollouts."""
    if isinstance(first, RolloutSummary) or isinstance(second, RolloutSummary):
        return ""
    if not len(first.margins) and not len(second.margins):
        return ""
    margins = dict(zip(second.margins.pair_ids, second.margins.values, strict=True))
    both = [
        (value, margins[pair_id])
        for pair_id, value in zip(first.margins.pair_ids, first.margins.values, strict=True)
        if pair_id in margins
    ]
    if not both:
        return "<p class=panel>No pair that was read has both responses scored in both datasets.</p>"
    left, right = np.array(both).T
    same = float((np.sign(left) == np.sign(right)).mean())
    text = f"Of {len(both):,} pairs in both, the two teachers rank the answers alike in {same:.0%}."
    if len(both) > 2 and left.std() and right.std():
        text += f" The correlation of their margins is {np.corrcoef(left, right)[0, 1]:.2f}."
    return f"<p class=panel>{text}</p>"


def statistics_panel(
    summary: DatasetSummary | RolloutSummary, others: Sequence[DatasetSummary | RolloutSummary]
) -> str:
    """Tables and charts of a dataset; where there is another, its charts have the same axes."""
    sampled = ""
    if summary.num_groups < summary.num_all_groups:
        sampled = (
            f"<p class=muted>Statistics of {summary.num_groups} of {summary.num_all_groups} row groups.</p>"
        )
    if isinstance(summary, RolloutSummary):
        rollouts = [other for other in others if isinstance(other, RolloutSummary)]
        return f"<h2>Answers</h2>{sampled}{_panels(_rollout_charts(summary, rollouts))}"
    if not summary.roles:
        return "<p>No role is scored: the rows carry token ids alone.</p>"
    signals = [other for other in others if isinstance(other, DatasetSummary)]
    charts = _panels(_signal_charts(summary, signals))
    return f"<h2>By role</h2>{sampled}{_role_table(summary.roles)}{charts}"


def _panels(charts: Sequence[tuple[str, str]]) -> str:
    panels = "".join(f"<div class=panel><h3>{escape(name)}</h3>{chart}</div>" for name, chart in charts)
    return f"<div class=charts>{panels}</div>"


def _rollout_charts(summary: RolloutSummary, others: Sequence[RolloutSummary]) -> list[tuple[str, str]]:
    return [
        (
            "Length of the answers",
            histogram_chart(
                {"student": summary.lengths},
                label="tokens, share of answers",
                logarithmic=True,
                beside=[other.lengths for other in others],
            ),
        ),
        (
            "How sure the student is of its tokens",
            histogram_chart(
                {"student": summary.token_logprobs},
                label="log-probability at temperature 1, nats, share of tokens",
                unbounded=False,
                beside=[other.token_logprobs for other in others],
            ),
        ),
    ]


def _signal_charts(summary: DatasetSummary, others: Sequence[DatasetSummary]) -> list[tuple[str, str]]:
    other_roles = [role for other in others for role in other.roles]
    charts = []
    if len(summary.margins):
        limit = max(one.margins.limit for one in (summary, *others)) or 1.0
        chart = histogram_chart(
            {"chosen": summary.margins.histogram(limit)},
            label="nats, share of pairs",
            zero=True,
            beside=[other.margins.histogram(limit) for other in others if len(other.margins)],
        )
        charts.append(("Margin between chosen and rejected", chart))
    chart = histogram_chart(
        {role.role: role.tail_mass for role in summary.roles},
        label="the teacher's probability, share of positions",
        logarithmic=True,
        unbounded=False,
        beside=[role.tail_mass for role in other_roles],
    )
    charts.append(("Probability outside the support", chart))
    with_reference = [role for role in summary.roles if role.token_advantage.counts.any()]
    if not with_reference:
        return charts
    advantages = histogram_chart(
        {role.role: role.token_advantage for role in with_reference},
        label="teacher minus reference log-probability, nats, share of positions",
        beside=[role.token_advantage for role in other_roles],
    )
    divergences = histogram_chart(
        {role.role: role.kl for role in with_reference},
        label="KL(teacher || reference), nats, share of positions",
        logarithmic=True,
        beside=[role.kl for role in other_roles],
    )
    lengths = scatter_chart(
        {role.role: role.lengths for role in with_reference},
        label="response length, tokens; mean advantage of its tokens, nats",
    )
    return [
        *charts,
        ("Advantage of the response's tokens", advantages),
        ("Divergence of teacher and reference", divergences),
        ("Length against advantage", lengths),
    ]


def _role_table(roles: Sequence[RoleSummary]) -> str:
    """The means of each role; it is the charts' key, too."""
    heads = ["responses", "tokens each", "probability covered"]
    with_reference = any(role.token_advantage.counts.any() for role in roles)
    if with_reference:
        heads += ["mean KL, nats", "mean advantage, nats"]
    head = "".join(f"<th class=number>{name}</th>" for name in heads)
    rows = ""
    for role in roles:
        cells = [
            f"{role.num_responses:,}",
            f"{role.num_positions / role.num_responses:.1f}",
            f"{role.coverage:.2%}",
        ]
        if with_reference:
            cells += [f"{role.mean_kl:.3f}", f"{role.token_advantage.mean:+.3f}"]
        numbers = "".join(f"<td class=number>{cell}</td>" for cell in cells)
        rows += (
            f'<tr><td class=key><i style="background:var(--{role.role})"></i>{role.role}</td>{numbers}</tr>'
        )
    return f"<div class='panel scroll'><table><tr><th>role</th>{head}</tr>{rows}</table></div>"


def token_panel(summary: DatasetSummary, texts: TokenText) -> str:
    """The tokens that the teacher raises and lowers most; empty without a reference."""
    if not summary.raised and not summary.lowered:
        return ""
    largest = max(abs(token.mean) for token in (*summary.raised, *summary.lowered))
    columns = "".join(
        f"<div class=panel><h3>{title}</h3>{_token_table(tokens, texts, kind, largest)}</div>"
        for title, kind, tokens in (
            ("Raised most", "raised", summary.raised),
            ("Lowered most", "lowered", summary.lowered),
        )
        if tokens
    )
    return (
        "<h2>Tokens that teacher and reference differ over</h2>"
        "<p class=muted>Mean advantage over all places where a response has the token.</p>"
        f"<div class=columns>{columns}</div>"
    )


def _token_table(tokens: Iterable[TokenAdvantage], texts: TokenText, kind: str, largest: float) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(json.dumps(texts[token.token_id], ensure_ascii=False))}</code></td>"
        f'<td class=bar><i style="width:{100 * abs(token.mean) / largest:.0f}%;background:rgb(var(--{kind}))">'
        f"</i></td><td class=number>{token.mean:+.2f}</td><td class=number>{token.count:,}</td></tr>"
        for token in tokens
    )
    head = "<th>token</th><th></th><th class=number>nats</th><th class=number>times</th>"
    return f"<table><tr>{head}</tr>{rows}</table>"
