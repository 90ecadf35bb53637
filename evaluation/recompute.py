"""`adpa evaluate recompute`: every figure of a folder again from what is stored there, without a model or a judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import EvaluationError
from evaluation.alpaca_eval.command import count_annotations
from evaluation.benchmarks.run import recompute_benchmarks
from evaluation.judgments import (
    JUDGE_CHECK_FILE,
    JUDGMENTS_FILE,
    MANIFEST_FILE,
    read_judgments,
    read_request,
)
from evaluation.metrics.judge_trust import judge_agreement
from evaluation.metrics.win_rate import compare_models
from evaluation.mt_bench.command import count_judgments
from evaluation.result_files import RESULT_FILE, read_result
from evaluation.win_rate import write_win_rates


@dataclass(frozen=True, kw_only=True, slots=True)
class Recomputed:
    """What a folder says.

    Attributes:
        folder: the folder.
        kind: which command's folder it is.
        table: the figures as Markdown, as in table.md.
    """

    folder: Path
    kind: str
    table: str


def recompute(folder: Path) -> Recomputed:
    """Compute a folder's figures again and write result.json and table.md.

    A folder of win rates may be unfinished: what was judged so far counts.

    Args:
        folder: written by `adpa evaluate win-rate`, `alpaca-eval`, `mt-bench` or `benchmarks`.
    Raises:
        EvaluationError: for another folder, or stored judgments that cannot be read.
    """
    if (folder / MANIFEST_FILE).exists() and (folder / JUDGMENTS_FILE).exists():
        return Recomputed(folder=folder, kind="win-rate", table=_recompute_win_rate(folder))
    result = read_result(folder)
    kind = result["kind"]
    if kind == "alpaca-eval":
        _, table = count_annotations(folder, result["request"])
    elif kind == "mt-bench":
        _, _, table = count_judgments(folder, result["request"])
    elif kind == "benchmarks":
        table = recompute_benchmarks(folder, result)
    else:
        raise EvaluationError(
            f"{folder}: results of kind {kind!r} are not computed from judgments; run the command that made them again"
        )
    return Recomputed(folder=folder, kind=kind, table=table)


def _recompute_win_rate(folder: Path) -> str:
    request = read_request(folder)
    earlier: dict[str, Any] = read_result(folder) if (folder / RESULT_FILE).exists() else {}
    judgments = read_judgments(folder / JUDGMENTS_FILE)
    # In the order of the earlier table, so that the tables can be compared line by line.
    shown = [(row["model"], row["baseline"]) for row in (earlier.get("comparison") or {}).get("results", ())]
    places = {pair: place for place, pair in enumerate(shown)}
    judgments.sort(key=lambda judgment: places.get((judgment.model, judgment.baseline), len(places)))
    comparison = compare_models(judgments, seed=int((request.get("sampling") or {}).get("seed", 0)))
    if not comparison.results:
        raise EvaluationError(
            f"{folder / JUDGMENTS_FILE}: no prompt with valid verdicts; there is nothing to count"
        )
    check = folder / JUDGE_CHECK_FILE
    checked = read_judgments(check) if check.exists() else []
    agreement = judge_agreement(checked) if checked else None
    origin = {name: earlier[name] for name in ("command", "cost") if name in earlier}
    return write_win_rates(folder, comparison, agreement, request=request, **origin)
