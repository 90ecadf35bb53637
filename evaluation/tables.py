"""A comparison as text: Markdown tables, with the judge's trust and the findings beside the figures."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from evaluation.metrics.judge_trust import JudgeAgreement
from evaluation.metrics.statistics import Estimate
from evaluation.metrics.win_rate import Comparison, WinRateResult

# Comparisons that are named beside a finding; the others are counted.
_MOST_NAMED = 3


def comparison_table(
    comparison: Comparison, *, judge: Mapping[str, Any], agreement: JudgeAgreement | None = None
) -> str:
    """Every figure of a comparison, for a terminal or a Markdown page.

    Args:
        comparison: the figures.
        judge: identity of the judge, as `JudgeIdentity.as_dict` gives it.
        agreement: of the judge with labelled pairs.
    """
    parts = [_win_rates(comparison.results), _answers(comparison.results)]
    if comparison.differences:
        parts.append(_differences(comparison))
    if comparison.matrix is not None and len(comparison.matrix.names) > 2:
        parts.append(_matrix(comparison))
    parts.append(_judge(comparison.results, judge, agreement))
    findings = grouped_findings([(f"{r.model} against {r.baseline}", r.findings) for r in comparison.results])
    parts += ["\n".join(f"- {finding}" for finding in findings)] if findings else []
    return "\n\n".join(parts)


def judge_label(judge: Mapping[str, Any]) -> str:
    """A judge's kind and name; of a folder its last part, since the identity holds the hash of what is in it."""
    name = str(judge["name"])
    return f"{judge['kind']} {PurePath(name).name if PurePath(name).is_absolute() else name}"


def with_interval(estimate: Estimate, *, digits: int = 1, sign: bool = False) -> str:
    """An estimate with its 95% interval: `61.2 (55.0 to 67.1)`."""
    number = f"{'+' if sign else ''}.{digits}f"
    return f"{estimate.value:{number}} ({estimate.low:{number}} to {estimate.high:{number}})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned, so that it can be read as plain text, too."""
    widths = [max(len(str(row[column])) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def grouped_findings(found: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """What a reader must know, each sentence once with the comparisons that it is about.

    Args:
        found: each comparison's name with its findings.
    """
    about: dict[str, list[str]] = {}
    for name, findings in found:
        for finding in findings:
            about.setdefault(finding, []).append(name)
    lines = []
    for finding, pairs in about.items():
        whom = ", ".join(pairs[:_MOST_NAMED])
        if len(pairs) == len(found) > 1:
            whom = "every comparison"
        elif len(pairs) > _MOST_NAMED:
            whom += f" and {len(pairs) - _MOST_NAMED} more"
        lines.append(f"{whom}: {finding}")
    return lines


def _win_rates(results: Sequence[WinRateResult]) -> str:
    header = (
        "model",
        "against",
        "win rate, %",
        "at equal length, %",
        "wins/ties/losses",
        "prompts",
        "same in both orders",
    )
    rows = []
    for result in results:
        controlled = result.length_controlled
        rows.append(
            (
                result.model,
                result.baseline,
                with_interval(result.win_rate),
                "" if controlled is None else with_interval(controlled.win_rate),
                f"{result.wins}/{result.ties}/{result.losses}",
                f"{result.num_prompts:,}",
                _percent(result.trust.consistency),
            )
        )
    return markdown_table(header, rows)


def _answers(results: Sequence[WinRateResult]) -> str:
    """Length, cut, refused and empty answers of every model; the first comparison that has it counts."""
    found: dict[str, tuple[str, ...]] = {}
    for result in results:
        for name, facts in ((result.model, result.model_answers), (result.baseline, result.baseline_answers)):
            shares = (facts.cut, facts.refused, facts.empty)
            found.setdefault(name, (name, f"{facts.mean_chars:,.0f}", *map(_percent, shares)))
    return markdown_table(("answers of", "mean characters", "cut", "refused", "empty"), [*found.values()])


def _differences(comparison: Comparison) -> str:
    rows = [
        (
            difference.model,
            difference.other,
            difference.baseline,
            with_interval(difference.difference, sign=True),
            f"{difference.num_prompts:,}",
        )
        for difference in comparison.differences
    ]
    return markdown_table(("model", "minus", "both against", "difference, points", "prompts"), rows)


def _matrix(comparison: Comparison) -> str:
    matrix = comparison.matrix
    assert matrix is not None
    rows = []
    for place, (name, row) in enumerate(zip(matrix.names, matrix.win_rates, strict=True)):
        strength = "" if matrix.strengths is None else f"{matrix.strengths[place]:+.2f}"
        rows.append((name, *("" if value is None else f"{value:.1f}" for value in row), strength))
    return markdown_table(("win rate of, % against", *matrix.names, "strength"), rows)


def _judge(
    results: Sequence[WinRateResult], judge: Mapping[str, Any], agreement: JudgeAgreement | None
) -> str:
    lines = [f"Judge: {judge_label(judge)}."]
    malformed = sum(result.num_malformed for result in results)
    judged = sum(result.num_judgments for result in results)
    lines.append(f"{judged:,} judgments, {malformed:,} of them malformed and dropped.")
    pairs = sum(result.trust.num_pairs for result in results)
    if pairs:
        same = sum((result.trust.consistency or 0.0) * result.trust.num_pairs for result in results) / pairs
        first = [
            (result.trust.first_share, result.trust.num_pairs)
            for result in results
            if result.trust.first_share is not None
        ]
        lines.append(f"The same winner in both orders for {same:.1%} of {pairs:,} pairs of answers.")
        if weights := sum(weight for _, weight in first):
            share = sum(share * weight for share, weight in first) / weights
            lines.append(f"The answer shown first wins {share:.1%} of the verdicts that name a winner.")
    else:
        lines.append("It values every answer by itself, so that their order cannot matter.")
    if agreement is None:
        lines.append("Its agreement with people is not known: give labelled pairs with --judge-check.")
    else:
        lines.append(
            f"It agrees with {agreement.accuracy:.1%} of the labels of {agreement.num_pairs:,} pairs "
            f"(50% is a coin; {agreement.num_malformed:,} malformed verdicts count as wrong)."
        )
    return " ".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
