"""`adpa evaluate win-rate`: answers, judgments in both orders, figures; each of the three is stored separately.

An output folder holds `answers.jsonl`, `judgments.jsonl` after a `manifest.json` that says what determined them, and
`result.json` with `table.md`, which follow from the judgments (`adpa evaluate recompute`). Models may be added to a
folder: judgments that are there are not asked for again.
"""

import contextlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.errors import EvaluationError
from data.files import atomic_output
from data.options.command_line import command_line
from evaluation.answers import (
    AnswerSet,
    PromptSet,
    answer_settings,
    generate_answers,
    prompt_text,
    read_prompts,
)
from evaluation.judges.contract import Judge
from evaluation.judges.open import open_judge
from evaluation.judging import answer_questions, labelled_questions, pair_questions
from evaluation.judgments import (
    JUDGE_CHECK_FILE,
    JUDGMENTS_FILE,
    MANIFEST_FILE,
    Judgment,
    JudgmentFile,
    claim_folder,
    read_judgments,
)
from evaluation.language_model import ModelOpener, model_labels
from evaluation.metrics.judge_trust import JudgeAgreement, judge_agreement
from evaluation.metrics.win_rate import Comparison, compare_models
from evaluation.options import WinRateOptions
from evaluation.result_files import RESULT_FILE, write_result
from evaluation.tables import comparison_table

logger = logging.getLogger(__name__)

ANSWERS_FILE = "answers.jsonl"

# Prompts whose answers are stored token by token, to be coloured in the report.
_COLOURED_PROMPTS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRates:
    """What a comparison of models found.

    Attributes:
        out: the folder.
        comparison: all figures.
        agreement: of the judge with labelled pairs; None where there were none.
        table: the figures as text.
        request: everything that determined them.
    """

    out: Path
    comparison: Comparison
    agreement: JudgeAgreement | None
    table: str
    request: Mapping[str, Any]

    def __str__(self) -> str:
        return self.table

    def to_json(self) -> dict[str, Any]:
        """The content of the folder's result.json."""
        return json.loads((self.out / RESULT_FILE).read_bytes())


def evaluate_win_rate(options: WinRateOptions, open_model: ModelOpener) -> WinRates:
    """Compare models' answers to the same prompts, pair by pair; the same call continues where one stopped.

    Args:
        options: the command's.
        open_model: finds checkpoints and holds them in an engine.
    Raises:
        AdpaError: for options, models, prompts or a judge that cannot be used, or a judge that stops answering; what
            was answered and judged before stays.
    """
    out = Path(options.out)
    names = [*options.model, *(() if options.baseline is None else (options.baseline,))]
    labels = model_labels(names)
    pairs = _pairs(options, labels)
    # The judge first: an address or a key that is wrong shows before hours of generation.
    with contextlib.closing(
        open_judge(options, open_model, trust_remote_code=options.trust_remote_code)
    ) as judge:
        prompts = read_prompts(options.data, options, limit=options.limit)
        logger.info("%s", prompts.description)
        # Found and identified, not loaded: a folder of another request is refused before anything is generated.
        models = {name: open_model(name, option=_option(name, options)) for name in names}
        settings = {labels[name]: answer_settings(models[name], options.generation) for name in names}
        request = _request(options, judge, prompts, settings)
        if not any((out / name).exists() for name in (JUDGMENTS_FILE, JUDGE_CHECK_FILE)):
            # A run that failed before its first verdict (no room for a prompt, say) does not bind the next.
            (out / MANIFEST_FILE).unlink(missing_ok=True)
        claim_folder(out, request)
        answers = {}
        for name, model in models.items():
            with contextlib.closing(model):
                option, label = _option(name, options), labels[name]
                answers[label] = generate_answers(
                    model, prompts.rows, options.generation, option=option, label=label
                )
        _write_answers(out, prompts, answers, None)
        agreement = _check_judge(options.judge_check, judge, out)
        questions = pair_questions(prompts.rows, pairs, answers)
        if not questions:
            raise EvaluationError(
                f"--data: no prompt of {options.data} has answers of two models that are to be compared; give shorter "
                "prompts, or models with room for them"
            )
        with JudgmentFile(out / JUDGMENTS_FILE) as file:
            answer_questions(judge, questions, file)
            judgments = list(file.judgments.values())
        _write_answers(out, prompts, answers, judge)
    comparison = compare_models(_in_order(judgments, prompts, pairs), seed=options.seed)
    if not comparison.results:
        raise EvaluationError(
            f"{judge.identity}: every verdict is malformed, so there is nothing to count; the first says "
            f"{judgments[0].verdict[:120]!r}; see {out / JUDGMENTS_FILE}, and take another judge or --judge-style"
        )
    table = write_win_rates(
        out,
        comparison,
        agreement,
        request=request,
        command=command_line("evaluate win-rate", options, determining=True),
        cost=judge.spent(),
    )
    return WinRates(out=out, comparison=comparison, agreement=agreement, table=table, request=request)


def write_win_rates(
    out: Path,
    comparison: Comparison,
    agreement: JudgeAgreement | None,
    *,
    request: Mapping[str, Any],
    **origin: Any,
) -> str:
    """Write result.json and table.md.

    Args:
        out: the folder.
        comparison: the figures.
        agreement: of the judge with labelled pairs.
        request: everything that determined them.
        **origin: what else is known of the run, such as its `command` and its `cost`.
    Returns:
        The table.
    """
    table = comparison_table(comparison, judge=request["judge"], agreement=agreement)
    write_result(
        out,
        kind="win-rate",
        table=table,
        request=request,
        comparison=comparison,
        agreement=agreement,
        **origin,
    )
    return table


def _pairs(options: WinRateOptions, labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """(model, baseline) of every comparison, by label."""
    models = [labels[name] for name in options.model]
    if options.baseline is None:
        return list(itertools.combinations(models, 2))
    pairs = [(model, labels[options.baseline]) for model in models]
    return [*pairs, *itertools.combinations(models, 2)] if options.all_pairs else pairs


def _option(name: str, options: WinRateOptions) -> str:
    return "--baseline" if name == options.baseline else "--model"


def _request(
    options: WinRateOptions, judge: Judge, prompts: PromptSet, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "judge": judge.identity.as_dict(),
        "data": {"hash": prompts.data_hash, "prompts": len(prompts.rows)},
        "sampling": asdict(options.generation),
        "versions": {"adpa": version("adpa")},
        "models": {label: dict(found) for label, found in settings.items()},
    }


def _write_answers(
    out: Path, prompts: PromptSet, answers: Mapping[str, AnswerSet], judge: Judge | None
) -> None:
    """All answers in one file, for people and for the report; models that were here before stay.

    Where the judge scores tokens, the first answers carry what it says of each.
    """
    path = out / ANSWERS_FILE
    kept = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = [line for line in kept if json.loads(line)["model"] not in answers]
    for label, found in answers.items():
        for place, row in enumerate(prompts.rows):
            if (answer := found.answers.get(row.pair_id)) is not None:
                entry = {"prompt_id": row.pair_id, "model": label, "prompt": prompt_text(row.prompt)}
                entry |= asdict(answer)
                if judge is not None and place < _COLOURED_PROMPTS:
                    tokens = judge.token_advantages(row, answer)
                    entry |= {} if tokens is None else {"tokens": tokens}
                lines.append(json.dumps(entry, ensure_ascii=False))
    with atomic_output(path) as file:
        file.write("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))


def _check_judge(source: str | None, judge: Judge, out: Path) -> JudgeAgreement | None:
    path = out / JUDGE_CHECK_FILE
    if source is None:
        return judge_agreement(read_judgments(path)) if path.exists() else None
    logger.info("labelled pairs of %s:", source)
    with JudgmentFile(path) as file:
        answer_questions(judge, labelled_questions(source), file)
        return judge_agreement(list(file.judgments.values()))


def _in_order(
    judgments: Sequence[Judgment], prompts: PromptSet, pairs: Sequence[tuple[str, str]]
) -> list[Judgment]:
    """Judgments in the order of the pairs and of the prompts, in which they would have come one by one."""
    pair_places = {pair: place for place, pair in enumerate(pairs)}
    row_places = {row.pair_id: place for place, row in enumerate(prompts.rows)}
    last = (len(pairs), len(prompts.rows))

    def place(judgment: Judgment) -> tuple[Any, ...]:
        pair = (judgment.model, judgment.baseline)
        # What earlier runs have compared comes after.
        return (
            pair_places.get(pair, last[0]),
            pair,
            row_places.get(judgment.prompt_id, last[1]),
            judgment.order,
        )

    return sorted(judgments, key=place)
