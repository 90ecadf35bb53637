"""The options of `adpa evaluate alpaca-eval`."""

import dataclasses

from data.errors import ConfigurationError
from data.options.fields import check_options, option
from evaluation.options import GenerationFlags, JudgeFlags


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlpacaEvalOptions(GenerationFlags, JudgeFlags):
    """Answer, judge or count AlpacaEval 2: its file forms, its figures, its length control.

    Its question and calibration files are yours to bring. What was answered and judged before is not asked again.
    """

    questions: str | None = option(
        None, help="AlpacaEval's question file (JSON), with or without the baseline's answers", group="data"
    )
    model: tuple[str, ...] = option(
        (), help="checkpoint that answers --questions; repeat for several", group="model"
    )
    outputs: tuple[str, ...] = option(
        (), help="model_outputs.json with answers from elsewhere; repeat for several", group="data"
    )
    baseline_outputs: str | None = option(
        None, help="the baseline's model_outputs.json [the answers in --questions]", group="data"
    )
    annotations: tuple[str, ...] = option(
        (), help="annotations.json judged elsewhere; repeat for several", group="data"
    )
    difficulty: str | None = option(
        None, help="AlpacaEval's instruction_difficulty.csv, for the length-controlled win rate", group="data"
    )
    gamed: str | None = option(
        None, help="AlpacaEval's df_gamed.csv, for the length-controlled win rate", group="data"
    )
    join: str = option(
        "instruction",
        help="how a question finds its difficulty; position: row by row, as AlpacaEval does, even with rows missing",
        choices=("instruction", "position"),
        group="evaluation",
        expert=True,
    )
    inverse_regularization: float | None = option(
        None,
        help="C of the length control [chosen by cross-validation]",
        minimum=1e-9,
        group="evaluation",
        expert=True,
    )
    resamples: int = option(
        200,
        help="refits for the length-controlled interval; 0 for none",
        minimum=0,
        group="evaluation",
        expert=True,
    )
    out: str = option(folder=True, help="folder for answers, annotations and the leaderboard", group="saving")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.model and not self.outputs and not self.annotations:
            raise ConfigurationError(
                "--model, --outputs or --annotations is required: what is to be answered, judged or counted"
            )
        if self.model and self.questions is None:
            raise ConfigurationError("--model needs --questions, AlpacaEval's question file")
        if self.has_judge:
            self.check_chat_judge("alpaca-eval is judged by a chat model's one token")
            if self.baseline_outputs is None and self.questions is None:
                raise ConfigurationError("judging needs the baseline's answers: give --baseline-outputs")
