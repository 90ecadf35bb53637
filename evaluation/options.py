"""The options of the evaluation's commands."""

import dataclasses
from typing import Any

from data.errors import ConfigurationError
from data.options.fields import check_options, option
from data.options.model_flags import ENGINES, ModelFlags
from data.preferences.options import Reading
from data.tokens.thoughts import THINKING
from evaluation.answers import GenerationSettings
from evaluation.judges.endpoint import Price
from evaluation.judges.pairwise import STYLES


# Without slots: a class with two bases can take them from one of the two only.
@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationModelFlags(ModelFlags):
    """How checkpoints are held in memory, the same for every command of the evaluation that opens some."""

    max_length: int = option(
        8192,
        help="longest prompt plus answer, tokens, where a model has more positions",
        minimum=2,
        group="engine",
    )


def thinking_of_answers_option() -> Any:
    """The field `thinking` of commands that let models answer."""
    return option(
        "auto",
        help="none asks models that think for no thought; else they begin as their templates have it",
        choices=THINKING,
        group="sampling",
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerationFlags(EvaluationModelFlags):
    """How answers are drawn."""

    max_new_tokens: int = option(512, help="longest answer, tokens", minimum=1, group="sampling")
    temperature: float = option(
        0.7, help="divides the logits; 0 takes the most probable token", minimum=0, group="sampling"
    )
    top_p: float = option(
        1.0,
        help="draw from the most probable tokens that hold this mass",
        minimum=0.01,
        maximum=1.0,
        group="sampling",
    )
    seed: int = option(0, help="seed; each answer has its own, derived from it", minimum=0, group="sampling")
    thinking: str = thinking_of_answers_option()

    @property
    def generation(self) -> GenerationSettings:
        """The same for the generation of answers."""
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            thinking=self.thinking,
        )


# Without slots: a class with two bases can take them from one of the two only.
@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeFlags:
    """Which judge, the same for every command that has one. Exactly one kind is to be named."""

    judge_model: str | None = option(
        None,
        help="judge: a chat model; a checkpoint, or with --judge-url the name it is served by",
        group="judge",
    )
    judge_url: str | None = option(None, help="address of an OpenAI-compatible API, up to /v1", group="judge")
    judge_key_variable: str = option(
        "OPENAI_API_KEY",
        help="environment variable with the endpoint's key",
        determining=False,
        group="judge",
        expert=True,
    )
    judge_price: str | None = option(
        None,
        help="dollars for a million tokens read and written, as READ:WRITTEN",
        check=Price.parse,
        determining=False,
        group="judge",
    )
    judge_concurrency: int = option(
        8, help="requests to the endpoint at a time", minimum=1, determining=False, group="judge", expert=True
    )
    judge_attempts: int = option(
        6,
        help="how often a request to the endpoint is tried",
        minimum=1,
        determining=False,
        group="judge",
        expert=True,
    )
    judge_timeout_s: float = option(
        120.0,
        help="seconds that one attempt may take",
        minimum=0.1,
        determining=False,
        group="judge",
        expert=True,
    )
    judge_style: str = option(
        "letter",
        help="verdict of a chat model: one letter, or reasoned, a text before it",
        choices=STYLES,
        group="judge",
    )
    judge_reward_model: str | None = option(
        None,
        help="judge: a sequence classifier with one output, on the conversation with its answer",
        group="judge",
    )
    judge_teacher: str | None = option(
        None,
        help="judge: log-ratio of an answer under this aligned model and --judge-reference",
        group="judge",
    )
    judge_reference: str | None = option(
        None, help="the model that --judge-teacher was aligned from", group="judge"
    )
    judge_beta: float = option(
        0.1,
        help="turns that log-ratio (nats) into log-odds; beta of the teacher's DPO",
        minimum=1e-6,
        group="judge",
    )
    judge_function: str | None = option(
        None,
        help="judge: MODULE:FUNCTION(messages, first, second) -> preference for the first, 0 to 1",
        group="judge",
    )

    def check_judge(self) -> None:
        """Check that the options name one judge.

        Raises:
            ConfigurationError: for none, several, or half of one.
        """
        named = self._named()
        if self.judge_url is not None and self.judge_model is None:
            raise ConfigurationError("--judge-url needs --judge-model, the name that the model is served by")
        if len(named) != 1:
            said = " and ".join(f"--{name.replace('_', '-')}" for name in named) or "none is named"
            raise ConfigurationError(
                f"one judge is needed, {said}: --judge-model (with --judge-url for an endpoint), "
                "--judge-reward-model, --judge-teacher with --judge-reference, or --judge-function"
            )
        if (self.judge_teacher is None) != (self.judge_reference is None):
            raise ConfigurationError("--judge-teacher and --judge-reference belong together; give both")

    @property
    def has_judge(self) -> bool:
        """Whether a judge is named, for commands that do without as well."""
        return self.judge_url is not None or bool(self._named())

    def check_chat_judge(self, why: str) -> None:
        """Check that the options name one judge, and a chat model.

        Args:
            why: that the command needs one, for the message.
        Raises:
            ConfigurationError: for another one, none, several, or half of one.
        """
        self.check_judge()
        if self.judge_model is None:
            raise ConfigurationError(f"{why}: give --judge-model; for other judges: adpa evaluate win-rate")

    def _named(self) -> list[str]:
        names = ("judge_model", "judge_reward_model", "judge_teacher", "judge_function")
        return [name for name in names if getattr(self, name) is not None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WinRateOptions(GenerationFlags, JudgeFlags, Reading):
    """Compare models' answers pair by pair. Both orders are judged; the same line again continues."""

    model: tuple[str, ...] = option((), help="checkpoint to evaluate; repeat for several", group="model")
    baseline: str | None = option(
        None,
        help="checkpoint that every model is compared with [every model with every other]",
        group="model",
    )
    data: str = option(
        help="prompts: JSONL or any preference file, folder or hub name; a prompt alone is enough",
        group="data",
    )
    out: str = option(folder=True, help="folder for answers, judgments and results", group="saving")
    limit: int | None = option(None, help="prompts to use, from the first on [all]", minimum=1, group="data")
    all_pairs: bool = option(
        False, help="compare every model with every other, also with --baseline", group="evaluation"
    )
    judge_check: str | None = option(
        None, help="labelled pairs (chosen, rejected): how often the judge agrees with them", group="judge"
    )

    def __post_init__(self) -> None:
        check_options(self)
        self.check_judge()
        if not self.model or len(self.model) + (self.baseline is not None) < 2:
            raise ConfigurationError(
                f"--model: {len(self.model)} named, and {'no' if self.baseline is None else 'one'} --baseline; a win "
                "rate needs two models: name --model and --baseline, or --model twice"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalsEvaluationOptions:
    """Measure checkpoints on held-out signals: likelihood, KL, expected advantage, preferences. No generation."""

    signals: str = option(help="held-out signal dataset: a folder, or its name in the store", group="data")
    model: tuple[str, ...] = option((), help="checkpoint to measure; repeat for several", group="model")
    baseline: str | None = option(
        None,
        help="checkpoint that differences and implicit rewards are relative to: the student before training",
        group="model",
    )
    out: str | None = option(
        None, folder=True, help="folder for the result and the figures of every response", group="saving"
    )
    limit: int | None = option(None, help="pairs to use, from the first on [all]", minimum=1, group="data")
    batch_size: int = option(
        16, help="pairs that go through a model at once", minimum=1, determining=False, group="engine"
    )
    dtype: str = option(
        "float32", help="arithmetic: float32 or bfloat16", choices=("float32", "bfloat16"), group="engine"
    )
    trust_remote_code: bool = option(
        False, help="run code that comes with a checkpoint", group="engine", expert=True
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not self.model:
            raise ConfigurationError("--model is required: name one checkpoint or more")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions:
    """Write one HTML page over training runs and evaluations, also unfinished ones."""

    run: tuple[str, ...] = option(
        (),
        help="folder of a training run or an evaluation, or one that holds such; repeat for several",
        positional=True,
    )
    out: str = option(
        "report.html", help="the page; an earlier page of this command is replaced", group="saving"
    )
    signals: tuple[str, ...] = option(
        (),
        help="signal dataset whose responses to the same prompts are shown beside the answers; repeat for several",
        group="data",
    )
    samples: int = option(50, help="prompts of each evaluation to show the answers of", minimum=0)
    force: bool = option(
        False, help="replace a file that is not a page of this command", determining=False, group="saving"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not self.run:
            raise ConfigurationError("--run is required: name one folder or more")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatOptions(GenerationFlags):
    """Talk to one or several checkpoints side by side. Off a terminal every line of standard input is answered."""

    model: tuple[str, ...] = option(
        (), help="checkpoint to talk to; repeat for several", group="model", positional=True
    )
    engine: str = option(
        "transformers",
        help="transformers, or vllm for one checkpoint: it takes a GPU for itself",
        choices=ENGINES,
        group="engine",
    )
    system: str | None = option(None, help="system message before the conversation", group="sampling")
    single_turn: bool = option(
        False, help="answer every line by itself, not as one conversation", group="sampling"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not self.model:
            raise ConfigurationError("--model is required: name one checkpoint or more")
        if self.engine == "vllm" and len(self.model) > 1:
            raise ConfigurationError(
                f"--engine vllm: each vLLM engine takes a GPU for itself, and {len(self.model)} checkpoints are named; "
                "leave the option out"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RecomputeOptions:
    """Compute a folder's figures again from its stored judgments. No model and no judge is asked."""

    folder: str = option(help="folder of an evaluation", positional=True)

    def __post_init__(self) -> None:
        check_options(self)
