"""Judging by AlpacaEval's published structure, with a wording of our own: one token, m or M, by its log-probability.

The judge sees the question and two answers named m and M, and replies with one of the names. Each question is judged
in one order, drawn from the question itself, as the public tool draws it. Equal answers are a draw and are not judged.
"""

import json
import logging
import math
import random
from collections.abc import Mapping, Sequence

from data.errors import EvaluationError
from evaluation.alpaca_eval.files import Annotation, Output
from evaluation.judges.contract import ChatModel, Choice

logger = logging.getLogger(__name__)

#: The names of the answer shown first and of the one shown second.
FIRST, SECOND = "m", "M"

_QUESTION = """\
Two language models were given the same instruction. Say which output a person who gave the instruction would prefer. \
Judge what the outputs say and how well they do what was asked; their order here is random and means nothing.

The instruction:
{{"instruction": {instruction}}}

The outputs, each with the identifier of its model:
{{"model": "m", "output": {first}}}
{{"model": "M", "output": {second}}}

Reply with the identifier of the model with the better output and nothing else: m or M. Mind the case: m is the first \
output, M the second."""


def is_switched(instruction: str) -> bool:
    """Whether the model's answer is shown first; drawn once for each question, as the public tool draws it."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def preference_from_logprobs(logprobs: Mapping[str, float], *, switched: bool) -> float | None:
    """The preference, 1 for the baseline to 2 for the model, from the verdict token's most probable values.

    Args:
        logprobs: of the most probable tokens, nats; a token that is not among them counts as impossible.
        switched: whether the model's answer was shown first.
    Returns:
        None where neither m nor M is among the tokens.
    """
    first, second = (math.exp(logprobs.get(token, -math.inf)) for token in (FIRST, SECOND))
    if first + second == 0:
        return None
    preference = 2 - first / (first + second)
    return 3 - preference if switched else preference


def judge_outputs(
    judge: ChatModel, outputs: Sequence[Output], baseline: Sequence[Output]
) -> list[Annotation]:
    """Judge a model's answers against the baseline's.

    Args:
        judge: who is asked; its replies are kept, so that a run that stopped continues.
        outputs: the model's answers.
        baseline: the baseline's; further questions in it are not used.
    Returns:
        One annotation for each answer, in their order.
    Raises:
        EvaluationError: for answers to questions that the baseline has not answered, or a judge that stops answering.
    """
    answered = {output.instruction: output for output in baseline}
    unmatched = [output.instruction for output in outputs if output.instruction not in answered]
    if unmatched:
        raise EvaluationError(
            f"{outputs[0].generator}: {len(unmatched)} of {len(outputs)} instructions are not among the baseline's "
            f"{len(baseline)}, such as {unmatched[0][:60]!r}; give answers of both to the same question file"
        )
    pairs = [(output, answered[output.instruction]) for output in outputs]
    asked = [place for place, (output, other) in enumerate(pairs) if output.output != other.output]
    choices: dict[int, Choice] = {}
    for number, choice in judge.choose([_question(*pairs[place]) for place in asked], (FIRST, SECOND)):
        choices[asked[number]] = choice
    annotations = []
    for place, (output, other) in enumerate(pairs):
        choice = choices.get(place)
        annotations.append(
            Annotation(
                instruction=output.instruction,
                output_1=other.output,
                output_2=output.output,
                generator_1=other.generator,
                generator_2=output.generator,
                dataset=output.dataset or other.dataset,
                annotator=str(judge.identity),
                preference=1.5
                if choice is None
                else _preference(choice, switched=is_switched(output.instruction)),
                raw_completion=None
                if choice is None
                else {
                    "text": choice.text,
                    "logprobs": None if choice.logprobs is None else dict(choice.logprobs),
                },
            )
        )
    malformed = sum(annotation.preference is None for annotation in annotations)
    logger.info("%s: %d answers judged, %d verdicts malformed", outputs[0].generator, len(asked), malformed)
    return annotations


def _question(output: Output, other: Output) -> str:
    first, second = (output, other) if is_switched(output.instruction) else (other, output)
    # As JSON texts, so that nothing in an answer can be taken for the frame around it.
    quoted = {
        "instruction": json.dumps(output.instruction, ensure_ascii=False),
        "first": json.dumps(first.output, ensure_ascii=False),
        "second": json.dumps(second.output, ensure_ascii=False),
    }
    return _QUESTION.format(**quoted)


def _preference(choice: Choice, *, switched: bool) -> float | None:
    if choice.logprobs is not None:
        return preference_from_logprobs(choice.logprobs, switched=switched)
    if choice.word is None:
        return None
    preference = 2.0 if choice.word == SECOND else 1.0
    return 3 - preference if switched else preference
