import gzip
import json

import pytest

from evaluation.judgments import AnswerFacts, Judgment
from evaluation.metrics.judge_trust import judge_agreement, judge_trust
from tests.evaluation.published import published_folder

PUBLISHED = published_folder("judges")


def judgment(prompt, order, preference: float | None) -> Judgment:
    return Judgment(
        prompt_id=str(prompt),
        instruction="",
        model="chosen",
        baseline="rejected",
        order=order,
        preference=preference,
        judge="endpoint:some",
        model_answer=AnswerFacts(chars=1),
        baseline_answer=AnswerFacts(chars=1),
    )


def both(prompt, model_first: float | None, baseline_first: float | None) -> list[Judgment]:
    return [judgment(prompt, "model_first", model_first), judgment(prompt, "baseline_first", baseline_first)]


def test_judge_trust_counts_the_same_winner_in_both_orders():
    judgments = [*both(0, 0.9, 0.6), *both(1, 1.0, 0.0), *both(2, 0.5, 0.5), *both(3, 0.2, None)]
    trust = judge_trust(judgments)
    assert trust.num_pairs == 3
    assert trust.consistency == pytest.approx(2 / 3)
    # First place won by: p0 model_first, p1 twice; of five verdicts that name a winner.
    assert trust.first_share == pytest.approx(3 / 5)


@pytest.mark.parametrize(("first", "place"), [(1.0, "first"), (0.0, "second")])
def test_judge_trust_finds_a_judge_that_always_says_the_same_letter(first, place):
    judgments = [line for prompt in range(20) for line in both(prompt, first, 1 - first)]
    (finding,) = judge_trust(judgments).findings
    assert f"shown {place} in 40 of 40 verdicts" in finding


def test_judge_trust_finds_a_judge_that_contradicts_itself():
    judgments = [line for n in range(20) for line in both(n, float(n % 2), float(n % 4 < 2))]
    (finding,) = judge_trust(judgments).findings
    assert "for 50% of the prompts only" in finding


def test_judge_trust_has_no_finding_for_a_judge_that_sees_one_order_only():
    assert judge_trust([judgment(n, "model_first", 1.0) for n in range(50)]).findings == ()


def test_judge_agreement_counts_ties_half_and_malformed_verdicts_as_wrong():
    agreement = judge_agreement([*both(0, 1.0, 0.7), *both(1, 0.5, 0.0), *both(2, None, 1.0)])
    assert agreement.accuracy == pytest.approx(3.5 / 6)
    assert agreement.accuracy_chosen_first == pytest.approx(1.5 / 3)
    assert agreement.accuracy_rejected_first == pytest.approx(2 / 3)
    assert agreement.both_correct == pytest.approx(1 / 3)
    assert agreement.num_malformed == 1


def published_groups():
    if not PUBLISHED.is_dir():
        return []
    return sorted(json.loads((PUBLISHED / "expected.json").read_text()))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published verdicts are not there")
@pytest.mark.parametrize("group", published_groups())
def test_judge_agreement_is_what_was_published_of_six_judges(group):
    expected = json.loads((PUBLISHED / "expected.json").read_text())[group]
    judgments, both_malformed = [], 0
    with gzip.open(PUBLISHED / "llmbar_both_orders.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            if f"{row['subset']}|{row['judge']}" != group:
                continue
            both_malformed += not {str(row["winner"]), str(row["winner_swapped"])} & {"1", "2"}
            # `winner` names the answer by its place in the data, in both orders.
            for column, shown_first in (("winner", 1), ("winner_swapped", 2)):
                winner = row[column]
                known = str(winner) in ("1", "2")
                order = "model_first" if row["label"] == shown_first else "baseline_first"
                preference = float(int(winner) == row["label"]) if known else None
                judgments.append(judgment(row["index"], order, preference))
    agreement = judge_agreement(judgments)
    assert agreement.num_pairs == expected["n"]
    assert agreement.num_malformed == expected["malformed"]
    assert agreement.both_correct == pytest.approx(expected["correct_both"] / expected["n"])
    assert agreement.accuracy == pytest.approx(
        (expected["correct"] + expected["correct_swapped"]) / (2 * expected["n"])
    )
    # What was published counts two malformed verdicts as the same.
    same = expected["same_in_both_orders"] - both_malformed
    assert agreement.consistency == pytest.approx(same / expected["n"])
