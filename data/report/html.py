"""`signals report`: a dataset as one self-contained HTML file."""

import importlib.resources
import json
import os
from collections.abc import Iterable, Sequence
from html import escape
from string import Template
from typing import Any

import numpy as np

from data.files import write_atomic
from data.report.charts import histogram_chart, scatter_chart
from data.report.summary import DatasetSummary, RoleSummary, TokenAdvantage, summarize_dataset
from data.signals.dataset import SignalDataset
from data.signals.fingerprint import describe_request
from data.signals.manifest import Manifest
from data.signals.schema import ResponseSignals
from data.tokens.token_text import TokenText

__all__ = ["render_report", "write_report"]


_NUM_ALTERNATIVES = 5


def write_report(
    dataset: SignalDataset,
    out: str | os.PathLike[str],
    *,
    num_conversations: int = 200,
    max_groups: int | None = 64,
) -> None:
    """Write the report of a dataset.

    Args:
        dataset: what to report on.
        out: the HTML file.
        num_conversations: pairs to show token by token, evenly spread over the dataset.
        max_groups: row groups to take statistics from, evenly spread; None takes all.
    Raises:
        ShardError: when a shard cannot be read, or the file not be written.
    """
    summary = summarize_dataset(dataset, max_groups=max_groups)
    num_shown = min(num_conversations, dataset.num_pairs)
    # In order, so that each block is decoded once.
    pairs = [dataset.pair(index * dataset.num_pairs // num_shown) for index in range(num_shown)]
    write_atomic(out, render_report(summary, pairs))


def render_report(summary: DatasetSummary, pairs: Sequence[Sequence[ResponseSignals]]) -> str:
    """The report's HTML.

    Args:
        summary: statistics of the dataset.
        pairs: conversations to show, each with all its responses.
    """
    texts = TokenText(summary.dataset.tokenizer_folder)
    conversations = [_conversation(pair, texts) for pair in pairs]
    used = {id for conversation in conversations for id in _token_ids(conversation)}
    data = [_json_element("texts", {str(id): texts[id] for id in sorted(used)})]
    data += [_json_element(f"conversation-{index}", value) for index, value in enumerate(conversations)]
    title = f"Signals of {summary.dataset.path.name}"
    chooser = _chooser(pairs, coloured=summary.dataset.has_advantages)
    body = "\n".join([_facts(summary, title), _charts(summary), chooser, _tokens(summary, texts)])
    return fill_page(title=title, body=body, data="\n".join(data))


def fill_page(*, title: str, body: str, data: str) -> str:
    """A page that needs no network: `page.html` with style and script beside it put in.

    Args:
        title: text for the browser's window.
        body: HTML of what is seen.
        data: HTML elements that hold what the script reads.
    """
    folder = importlib.resources.files("data.report")
    style, script, page = (
        (folder / name).read_text(encoding="utf-8") for name in ("style.css", "script.js", "page.html")
    )
    return Template(page).substitute(title=escape(title), style=style, body=body, data=data, script=script)


def _facts(summary: DatasetSummary, title: str) -> str:
    manifest = summary.dataset.manifest
    positions = sum(role.num_positions for role in summary.roles)
    covered = sum(role.covered for role in summary.roles) / max(1, positions)
    support = sum(role.num_support_tokens for role in summary.roles) / max(1, positions)
    facts = [
        (f"{manifest.pairs:,}", "pairs"),
        (f"{manifest.rows:,}", "responses"),
        (f"{manifest.positions:,}", "scored positions"),
        (f"{summary.bytes_per_position:.0f}", "bytes a position"),
        (f"{support:.1f}", "support tokens a position"),
        (f"{covered:.2%}", "of the teacher's mass on the support"),
    ]
    cells = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for value, name in facts)
    made = [
        ("fingerprint", manifest.fingerprint),
        *manifest.created.items(),
        *describe_request(manifest.request),
    ]
    rows = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in made)
    return (
        f"<h1>{escape(title)}</h1><p class=muted>{escape(_origin(manifest))}</p>"
        f"<div class=facts>{cells}</div>"
        f"<details class=panel><summary>Who made it from what</summary><table>{rows}</table></details>"
    )


def _origin(manifest: Manifest) -> str:
    """Who made a dataset, in one line."""
    request = manifest.request
    models = [request.get(name) for name in ("teacher", "reference")]
    names = [str(model["source"]) for model in models if isinstance(model, dict) and "source" in model]
    engine = request.get("engine")
    parts = [" against ".join(names)] if names else []
    if isinstance(engine, dict):
        parts.append(f"{engine.get('name')} {engine.get('version')}")
    return " · ".join([*parts, f"fingerprint {manifest.fingerprint[:12]}"])


def _charts(summary: DatasetSummary) -> str:
    if not summary.roles:
        return "<p>No role is scored: the rows carry token ids alone.</p>"
    charts = [
        (
            "The teacher's mass outside the support",
            histogram_chart(
                {role.role: role.tail_mass for role in summary.roles},
                label="tail mass, share of positions",
                logarithmic=True,
                unbounded=False,
            ),
        )
    ]
    with_reference = [role for role in summary.roles if role.token_advantage.counts.any()]
    if with_reference:
        charts += [
            (
                "Advantage of the response's tokens",
                histogram_chart(
                    {role.role: role.token_advantage for role in with_reference},
                    label="teacher minus reference log-probability, nats, share of positions",
                ),
            ),
            (
                "Divergence of teacher and reference",
                histogram_chart(
                    {role.role: role.kl for role in with_reference},
                    label="KL(teacher || reference), nats, share of positions",
                    logarithmic=True,
                ),
            ),
            (
                "Length against advantage",
                scatter_chart(
                    {role.role: role.lengths for role in with_reference},
                    label="response length, tokens; mean advantage of its tokens, nats",
                ),
            ),
        ]
    panels = "".join(f"<div class=panel><h3>{escape(name)}</h3>{chart}</div>" for name, chart in charts)
    sampled = ""
    if summary.num_groups < summary.num_all_groups:
        sampled = (
            f"<p class=muted>Statistics of {summary.num_groups} of {summary.num_all_groups} row groups.</p>"
        )
    return f"<h2>By role</h2>{sampled}{_role_table(summary.roles)}<div class=charts>{panels}</div>"


def _role_table(roles: Sequence[RoleSummary]) -> str:
    """The means of each role; it is the charts' key, too."""
    heads = ["responses", "tokens each", "mass on the support"]
    with_reference = any(role.token_advantage.counts.any() for role in roles)
    if with_reference:
        heads += ["mean KL, nats", "mean advantage, nats"]
    head = "".join(f"<th class=number>{name}</th>" for name in heads)
    rows = ""
    for role in roles:
        positions = role.num_positions
        cells = [
            f"{role.num_responses:,}",
            f"{positions / role.num_responses:.1f}",
            f"{role.covered / positions:.2%}",
        ]
        if with_reference:
            cells += [f"{role.kl_sum / positions:.3f}", f"{role.token_advantage.mean:+.3f}"]
        numbers = "".join(f"<td class=number>{cell}</td>" for cell in cells)
        rows += (
            f'<tr><td class=key><i style="background:var(--{role.role})"></i>{role.role}</td>{numbers}</tr>'
        )
    return f"<div class='panel scroll'><table><tr><th>role</th>{head}</tr>{rows}</table></div>"


def _tokens(summary: DatasetSummary, texts: TokenText) -> str:
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


def _chooser(pairs: Sequence[Sequence[ResponseSignals]], *, coloured: bool) -> str:
    if not pairs:
        return ""
    names = "".join(
        f"<option value={index}>{index + 1}: {escape(pair[0].pair_id)}</option>"
        for index, pair in enumerate(pairs)
    )
    colours = "Each token is coloured by its advantage, the teacher's log-probability minus its reference's."
    scale = "<span class=scale>−2 nats<i></i>+2</span>"
    return (
        f"<h2>Conversations</h2><p>{colours if coloured else ''} Point at a token for what the teacher would have"
        " said.</p><div class=choose><button id=previous title='the one before'>←</button>"
        f"<select id=choose>{names}</select><button id=next title='the next one'>→</button>"
        f"{scale if coloured else ''}</div><div id=conversation></div>"
    )


def _conversation(pair: Sequence[ResponseSignals], texts: TokenText) -> dict[str, Any]:
    prompt = "".join(texts.in_sequence(pair[0].prompt_ids.tolist()))
    return {"prompt": prompt, "responses": [_response(row, texts) for row in pair]}


def _response(row: ResponseSignals, texts: TokenText) -> dict[str, Any]:
    """A response for the script; log-probabilities and advantages in hundredths of a nat, to be short."""
    ids = row.response_ids.tolist()
    response: dict[str, Any] = {"role": row.role, "sample": row.sample_index, "ids": ids}
    # By position, where a token shows something else than by itself.
    shown = enumerate(zip(ids, texts.in_sequence(ids), strict=True))
    response["shown"] = {place: text for place, (token_id, text) in shown if text != texts[token_id]}
    if row.support_sizes is None or row.topk_ids is None or row.teacher_logprobs is None:
        return {**response, "summary": f"{len(row.response_ids)} tokens, not scored"}
    assert row.teacher_token_logprobs is not None
    response["logprobs"] = _hundredths(row.teacher_token_logprobs)
    starts = np.cumsum(row.support_sizes, dtype=np.int64) - row.support_sizes
    columns = [row.topk_ids.tolist(), _hundredths(row.teacher_logprobs)]
    summary = f"{len(row.response_ids)} tokens"
    if row.advantages is not None and row.reference_token_logprobs is not None:
        advantages = np.clip(row.teacher_token_logprobs - row.reference_token_logprobs, -20, 20)
        response["advantages"] = _hundredths(advantages)
        summary += f", mean advantage {advantages.mean() if len(advantages) else 0:+.3f} nats"
        columns.append(_hundredths(row.advantages))
    entries = list(zip(*columns, strict=True))
    response["alternatives"] = [
        entries[start : start + min(size, _NUM_ALTERNATIVES)]
        for start, size in zip(starts.tolist(), row.support_sizes.tolist(), strict=True)
    ]
    return {**response, "summary": summary}


def _hundredths(values: np.ndarray) -> list[int]:
    return np.rint(np.clip(values, -100, 100) * 100).astype(int).tolist()


def _token_ids(conversation: dict[str, Any]) -> Iterable[int]:
    for response in conversation["responses"]:
        yield from response["ids"]
        for position in response.get("alternatives", ()):
            yield from (entry[0] for entry in position)


def _json_element(name: str, value: Any) -> str:
    # A text that holds "</script>" must not end the element.
    content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{content}</script>'
