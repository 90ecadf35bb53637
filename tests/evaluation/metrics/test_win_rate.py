import pytest

from evaluation.judgments import AnswerFacts, Judgment
from evaluation.metrics.win_rate import compare_models, prompt_preferences


def judgments_of(
    rows: dict[str, tuple[float | None, float | None]], *, model="a", baseline="c", chars=(10, 10)
) -> list[Judgment]:
    return [
        Judgment(
            prompt_id=prompt,
            instruction=f"question {prompt}",
            model=model,
            baseline=baseline,
            order=order,
            preference=preference,
            judge="function:mine:judge",
            model_answer=AnswerFacts(chars=chars[0], cut=prompt == "p0", refused=False),
            baseline_answer=AnswerFacts(chars=chars[1], refused=True),
        )
        for prompt, both in rows.items()
        for order, preference in zip(("model_first", "baseline_first"), both, strict=True)
    ]


ROWS = {"p0": (1.0, 1.0), "p1": (1.0, 0.0), "p2": (0.0, 0.25), "p3": (0.75, None), "p4": (0.5, 0.75)}


def test_win_rate_averages_the_orders_and_drops_prompts_with_a_malformed_verdict():
    (result,) = compare_models(judgments_of(ROWS)).results
    assert prompt_preferences(judgments_of(ROWS)) == {"p0": 1.0, "p1": 0.5, "p2": 0.125, "p4": 0.625}
    assert (result.num_prompts, result.num_judgments, result.num_malformed, result.num_dropped) == (
        4,
        10,
        1,
        1,
    )
    assert result.win_rate.value == pytest.approx(56.25)
    assert (result.wins, result.ties, result.losses) == (2, 1, 1)
    assert result.discrete_win_rate.value == pytest.approx(62.5)
    # Sample standard deviation of the four preferences over sqrt(4).
    assert result.standard_error == pytest.approx(100 * 0.36084391824 / 2)


def test_win_rate_does_not_count_a_prompt_whose_second_order_is_missing():
    half_finished = judgments_of(ROWS)[:-1]
    assert prompt_preferences(half_finished).keys() == {"p0", "p1", "p2"}


def test_win_rate_counts_every_prompt_of_a_judge_that_scores_answers_separately():
    separate = [
        Judgment(
            prompt_id=f"p{number}",
            instruction="",
            model="a",
            baseline="c",
            order="separate",
            preference=number / 4,
            judge="reward-model:r",
            model_answer=AnswerFacts(chars=1),
            baseline_answer=AnswerFacts(chars=1),
        )
        for number in range(5)
    ]
    (result,) = compare_models(separate).results
    assert result.win_rate.value == 50
    assert result.trust.consistency is None


def test_identical_answers_are_ties_and_say_nothing_about_the_judge():
    identical = Judgment(
        prompt_id="same",
        instruction="",
        model="a",
        baseline="c",
        order="model_first",
        preference=0.5,
        judge="function:mine:judge",
        identical=True,
        model_answer=AnswerFacts(chars=3),
        baseline_answer=AnswerFacts(chars=3),
    )
    (result,) = compare_models([*judgments_of(ROWS), identical]).results
    assert (result.num_prompts, result.ties, result.trust.num_pairs) == (5, 2, 4)


def test_win_rate_summarises_answers_of_the_prompts_that_count():
    (result,) = compare_models(judgments_of(ROWS, chars=(30, 0))).results
    assert result.model_answers.mean_chars == 30
    assert result.model_answers.cut == 0.25
    assert result.baseline_answers.cut is None
    assert result.baseline_answers.refused == 1.0
    assert result.baseline_answers.empty == 1.0


def test_win_rate_says_when_there_are_few_prompts_or_many_malformed_verdicts():
    (result,) = compare_models(judgments_of({**ROWS, "p5": (None, 0.1)})).results
    assert any("only 4 prompts count" in finding for finding in result.findings)
    assert any("2 of 12 verdicts are malformed" in finding for finding in result.findings)


def test_differences_are_paired_over_the_prompts_that_both_models_have():
    rows = {f"p{n}": (n / 50, n / 50) for n in range(40)}
    better = {prompt: (value + 0.1, value + 0.1) for prompt, (value, _) in rows.items()}
    comparison = compare_models([*judgments_of(better, model="b"), *judgments_of(rows, model="a")])
    (difference,) = comparison.differences
    assert (difference.model, difference.other, difference.num_prompts) == ("b", "a", 40)
    # A constant advantage has no spread at all, however far the prompts are apart.
    assert (difference.difference.low, difference.difference.high) == pytest.approx((10, 10))


def test_matrix_holds_every_pair_and_strengths_where_all_are_connected():
    rows = {f"p{n}": (1.0, 1.0) if n < 30 else (0.0, 0.0) for n in range(40)}
    comparison = compare_models(
        [
            *judgments_of(rows, model="a", baseline="c"),
            *judgments_of(rows, model="b", baseline="a"),
        ]
    )
    matrix = comparison.matrix
    assert matrix is not None
    assert matrix.names == ("a", "c", "b")
    assert matrix.win_rates == ((None, 75.0, 25.0), (25.0, None, None), (75.0, None, None))
    assert matrix.strengths is not None
    a, c, b = matrix.strengths
    assert b > a > c
    assert b - a == pytest.approx(a - c)


def test_matrix_has_no_strengths_where_two_groups_never_met():
    rows = {"p0": (1.0, 0.0)}
    comparison = compare_models(
        [*judgments_of(rows, model="a", baseline="b"), *judgments_of(rows, model="c", baseline="d")]
    )
    assert comparison.matrix is not None
    assert comparison.matrix.strengths is None


def test_no_judgments_give_no_results():
    assert compare_models([]).results == ()
    assert compare_models(judgments_of({"p0": (None, None)})).results == ()
