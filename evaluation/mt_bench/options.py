"""The options of `adpa evaluate mt-bench`."""

import dataclasses

from data.errors import ConfigurationError
from data.options.fields import check_options, option
from evaluation.options import EvaluationModelFlags, JudgeFlags, thinking_of_answers_option


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MtBenchOptions(EvaluationModelFlags, JudgeFlags):
    """Answer, judge or count MT-Bench: FastChat's file forms, its tables, scores or comparisons.

    Its question file is yours to bring. What was answered and judged before is not asked again.
    """

    questions: str | None = option(None, help="MT-Bench's question.jsonl", group="data")
    model: tuple[str, ...] = option(
        (), help="checkpoint that answers --questions; repeat for several", group="model"
    )
    answers: tuple[str, ...] = option(
        (), help="model_answer/MODEL.jsonl from elsewhere; repeat for several", group="data"
    )
    reference_answers: str | None = option(
        None,
        help="reference answers for math, reasoning and coding, in the form of model_answer",
        group="data",
    )
    judgments: tuple[str, ...] = option(
        (), help="judgments made elsewhere, single or pairwise; repeat for several", group="data"
    )
    pairwise: bool = option(
        False, help="judge which of two models answers better, in both orders, not scores", group="evaluation"
    )
    baseline: str | None = option(
        None,
        help="with --pairwise: the model that all others are compared with [every model with every other]",
        group="model",
    )
    duplicates: str = option(
        "once",
        help="judgments of a question and turn that was judged before; all: count every row, as FastChat does",
        choices=("once", "all"),
        group="evaluation",
        expert=True,
    )
    max_new_tokens: int = option(1024, help="longest answer of a turn, tokens", minimum=1, group="sampling")
    seed: int = option(0, help="seed; each answer has its own, derived from it", minimum=0, group="sampling")
    thinking: str = thinking_of_answers_option()
    out: str = option(folder=True, help="folder for answers, judgments and tables", group="saving")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.model and not self.answers and not self.judgments:
            raise ConfigurationError(
                "--model, --answers or --judgments is required: what is to be answered, judged or counted"
            )
        if self.questions is None and (self.model or self.has_judge):
            raise ConfigurationError("--questions is required, MT-Bench's question.jsonl")
        if self.has_judge:
            self.check_chat_judge("mt-bench is judged by a chat model's text")
