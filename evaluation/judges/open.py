"""The judge that the options name."""

from data.errors import ConfigurationError
from evaluation.judges.chat_api import ApiSettings
from evaluation.judges.contract import ChatModel, Judge
from evaluation.judges.endpoint import EndpointChatModel, Price
from evaluation.judges.function import FunctionJudge
from evaluation.judges.local import LocalChatModel
from evaluation.judges.pairwise import PairwiseJudge
from evaluation.judges.reward_model import RewardModel
from evaluation.judges.scorers import ImplicitReward, ScoringJudge
from evaluation.language_model import ModelOpener
from evaluation.options import JudgeFlags


def open_judge(flags: JudgeFlags, open_model: ModelOpener, *, trust_remote_code: bool = False) -> Judge:
    """Open the judge that the options name.

    Args:
        flags: the options.
        open_model: finds local models.
        trust_remote_code: whether code that comes with a reward model may run.
    Raises:
        ConfigurationError: for a judge that cannot be used as it was named.
        EvaluationError: for an endpoint that does not answer.
    """
    flags.check_judge()
    if flags.judge_model is not None:
        return PairwiseJudge(open_chat_model(flags, open_model), style=flags.judge_style)
    if flags.judge_reward_model is not None:
        return ScoringJudge(RewardModel(flags.judge_reward_model, trust_remote_code=trust_remote_code))
    if flags.judge_teacher is not None and flags.judge_reference is not None:
        teacher = open_model(flags.judge_teacher, option="--judge-teacher")
        reference = open_model(flags.judge_reference, option="--judge-reference")
        return ScoringJudge(ImplicitReward(teacher, reference, beta=flags.judge_beta))
    assert flags.judge_function is not None, "the options were checked to name one judge"
    return FunctionJudge(flags.judge_function)


def open_chat_model(flags: JudgeFlags, open_model: ModelOpener) -> ChatModel:
    """Open the chat model that judges: at --judge-url, or on this machine.

    Raises:
        ConfigurationError: where the options name another kind of judge, or the model cannot be used.
        EvaluationError: for an endpoint that does not answer.
    """
    if flags.judge_model is None:
        raise ConfigurationError("--judge-model is required here: this is judged by a chat model")
    if flags.judge_url is None:
        return LocalChatModel(open_model(flags.judge_model, option="--judge-model"))
    settings = ApiSettings(
        url=flags.judge_url,
        model=flags.judge_model,
        key_variable=flags.judge_key_variable,
        timeout_s=flags.judge_timeout_s,
        attempts=flags.judge_attempts,
    )
    price = Price.parse(flags.judge_price) if flags.judge_price is not None else None
    return EndpointChatModel(settings, concurrency=flags.judge_concurrency, price=price)
