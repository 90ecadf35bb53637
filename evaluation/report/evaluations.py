"""The section of one evaluation on the page: table with intervals, matrix, the judge's trust, sample answers."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from evaluation.report.collect import Evaluation
from evaluation.tables import grouped_findings, judge_label


def describe_evaluation(evaluation: Evaluation, number: int) -> str:
    """The section's HTML.

    Args:
        evaluation: what to show.
        number: its place in the data that the script reads.
    """
    parts = [f"<h2>{_KINDS.get(evaluation.kind, escape(evaluation.kind))}: {escape(evaluation.name)}</h2>"]
    if evaluation.result is None:
        parts.append(
            f'<p class="finding">Not finished: {evaluation.num_judgments:,} judgments are stored so far. The same '
            "command continues.</p>"
        )
    elif evaluation.kind == "win-rate":
        parts += _win_rates(evaluation.result)
    elif evaluation.kind == "signals":
        parts.append(_signals(evaluation.result))
    elif evaluation.table:
        parts.append(f"<pre>{escape(evaluation.table)}</pre>")
    if evaluation.samples:
        parts.append(_samples(evaluation, number))
    if evaluation.result is not None:
        parts.append(_origin(evaluation.result))
    return "\n".join(parts)


_KINDS = {
    "win-rate": "Win rates",
    "signals": "Held-out signals",
    "benchmarks": "Benchmarks",
    "alpaca-eval": "AlpacaEval",
    "mt-bench": "MT-Bench",
}


def _win_rates(result: Mapping[str, Any]) -> list[str]:
    comparison = result["comparison"]
    rows = []
    for entry in comparison["results"]:
        controlled = entry["length_controlled"]
        answers = entry["model_answers"]
        rows.append(
            [
                _head(entry["model"]),
                _cell(entry["baseline"]),
                _estimate_cell(entry["win_rate"], bar=True),
                _cell("") if controlled is None else _estimate_cell(controlled["win_rate"]),
                _number(f"{entry['wins']}/{entry['ties']}/{entry['losses']}"),
                _number(f"{entry['num_prompts']:,}"),
                _number(_share(entry["trust"]["consistency"])),
                _number(f"{answers['mean_chars']:,.0f}"),
                _number(_share(answers["cut"])),
                _number(_share(answers["refused"])),
            ]
        )
    header = (
        "model", "against", "win rate, %", "at equal length, %", "wins/ties/losses", "prompts", "same in both orders",
        "mean characters", "cut", "refused",
    )  # fmt: skip
    parts = [_trust(result)]
    if comparison["matrix"] is not None and len(comparison["matrix"]["names"]) > 2:
        parts.append(_matrix(comparison["matrix"]))
    parts.append(_table(header, rows, "Win rates"))
    if comparison["differences"]:
        differences = [
            [
                _head(f"{entry['model']} minus {entry['other']}"),
                _cell(entry["baseline"]),
                _estimate_cell(entry["difference"], sign=True),
                _number(f"{entry['num_prompts']:,}"),
            ]
            for entry in comparison["differences"]
        ]
        table = _table(
            ("models", "both against", "difference, points", "prompts"), differences, "Differences"
        )
        parts.append(
            f"<details><summary>Differences between models, paired over prompts</summary>{table}</details>"
        )
    findings = grouped_findings(
        [
            (f"{entry['model']} against {entry['baseline']}", entry["findings"])
            for entry in comparison["results"]
        ]
    )
    parts += [f'<p class="finding">{escape(finding)}</p>' for finding in findings]
    return parts


def _trust(result: Mapping[str, Any]) -> str:
    """The judge, and how far it can be trusted; beside every win rate."""
    judge, agreement = result["request"]["judge"], result.get("agreement")
    said = [f"Judge: {judge_label(judge)}."]
    trusts = [entry["trust"] for entry in result["comparison"]["results"]]
    pairs = sum(trust["num_pairs"] for trust in trusts)
    if pairs:
        same = sum((trust["consistency"] or 0.0) * trust["num_pairs"] for trust in trusts) / pairs
        said.append(f"It names the same winner in both orders for {same:.1%} of {pairs:,} pairs of answers.")
    else:
        said.append("It values every answer by itself, so that their order cannot matter.")
    if agreement is None:
        said.append("Its agreement with labels was not measured.")
    else:
        said.append(
            f"It agrees with {agreement['accuracy']:.1%} of {agreement['num_pairs']:,} labelled pairs."
        )
    return f'<p class="trust">{escape(" ".join(said))}</p>'


def _matrix(matrix: Mapping[str, Any]) -> str:
    names = matrix["names"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for place, name in enumerate(names):
        cells = []
        for value in matrix["win_rates"][place]:
            if value is None:
                cells.append('<td class="cell muted">·</td>')
                continue
            strength = min(abs(value - 50) / 50, 1) * 0.8
            tone = "high" if value >= 50 else "low"
            cells.append(
                f'<td class="cell" style="background: rgba(var(--{tone}), {strength:.2f})">{value:.1f}</td>'
            )
        strengths = matrix["strengths"]
        last = "" if strengths is None else _number(f"{strengths[place]:+.2f}")
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}{last}</tr>')
    if matrix["strengths"] is not None:
        head += '<th scope="col" class="number">strength</th>'
    return (
        "<h3>Every model against every other</h3>"
        '<p class="muted">Win rate of the row against the column, percent. Strength: Bradley-Terry, log-odds.</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Matrix of win rates"><table class="matrix">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _signals(result: Mapping[str, Any]) -> str:
    models = result["models"]
    names = list(dict.fromkeys(figure["name"] for model in models for figure in model["figures"]))
    rows = []
    for name in names:
        row = [_head(name.replace("_", " ").replace("/", ", "))]
        for model in models:
            figure = next((figure for figure in model["figures"] if figure["name"] == name), None)
            row.append(_cell("") if figure is None else _estimate_cell(figure["value"], digits=3))
        rows.append(row)
    findings = "".join(f'<p class="finding">{escape(finding)}</p>' for finding in result["findings"])
    table = _table(("figure", *(model["model"] for model in models)), rows, "Held-out signals")
    return f'<p class="muted">{result["num_pairs"]:,} held-out pairs; 95% intervals over pairs.</p>{table}{findings}'


def _samples(evaluation: Evaluation, number: int) -> str:
    options = "".join(
        f'<option value="{place}">{place + 1}. {escape(" ".join(sample.prompt.split())[:90])}</option>'
        for place, sample in enumerate(evaluation.samples)
    )
    coloured = any(answer.tokens for sample in evaluation.samples for answer in sample.answers)
    scale = (
        '<span class="scale">advantage <span>−2 nats</span><i></i><span>+2</span></span>' if coloured else ""
    )
    return f"""<h3>Answers side by side</h3>
<div data-samples="{number}">
<div class="choose"><button type="button" aria-label="Previous prompt">←</button>
<select aria-label="Prompt">{options}</select>
<button type="button" aria-label="Next prompt">→</button>{scale}</div>
<div class="sample" aria-live="polite"></div>
</div>"""


def _origin(result: Mapping[str, Any]) -> str:
    command = f"<pre>{escape(result['command'])}</pre>" if result.get("command") else ""
    cost = f"<p>{escape(str(result['cost']))}</p>" if result.get("cost") else ""
    request = escape(json.dumps(result.get("request", {}), indent=1, ensure_ascii=False))
    return f"<details><summary>What determined these figures</summary>{command}{cost}<pre>{request}</pre></details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _head(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _number(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _estimate_cell(
    estimate: Mapping[str, float | None], *, digits: int = 1, sign: bool = False, bar: bool = False
) -> str:
    form = f"{'+' if sign else ''}.{digits}f"
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "<td></td>"
    drawn = ""
    if bar:
        drawn = (
            f'<span class="range" aria-hidden="true"><u></u><i style="left: {low:.1f}%; width: {high - low:.1f}%"></i>'
            f'<b style="left: calc({value:.1f}% - 1px)"></b></span>'
        )
    return f'<td>{value:{form}} <span class="interval">({low:{form}} to {high:{form}})</span>{drawn}</td>'


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
