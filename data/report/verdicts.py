"""The questions that everybody asks of a dataset, answered from its statistics."""

from collections.abc import Iterator
from dataclasses import dataclass

from data.report.rollout_summary import RolloutSummary
from data.report.statistics import OUTLIER_NATS, THIN_COVERAGE, DatasetSummary

# A teacher worth distilling ranks its own training labels right more often than a coin does.
_LEAST_AGREEMENT = 0.6

_LEAST_COVERAGE = 0.95

_MOST_THIN = 0.1

_MOST_CUT = 0.02

_MOST_OUTLIERS = 0.001

_MOST_REPEATED = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question and its answer.

    Attributes:
        question: what is asked.
        answer: the answer in one or two sentences, with the numbers.
        is_good: True or False where the numbers say so; None where there is nothing to judge.
    """

    question: str
    answer: str
    is_good: bool | None = None

    @property
    def mark(self) -> str:
        """`ok`, `look` (something to look at) or `--` (nothing to judge)."""
        return {True: "ok", False: "look", None: "--"}[self.is_good]


def signal_verdicts(summary: DatasetSummary) -> list[Verdict]:
    """What a signal dataset's numbers mean."""
    if not summary.roles:
        return [Verdict("What is scored?", "Nothing: the rows carry token ids alone.")]
    return [*_ranking(summary), _coverage(summary), *_cut_answers(summary), *_outliers(summary)]


def _ranking(summary: DatasetSummary) -> Iterator[Verdict]:
    margins = summary.margins
    if not len(margins):
        return
    share, mean = margins.agreement, margins.mean
    measure = (
        "advantage of the whole response, teacher against reference"
        if summary.dataset.has_advantages
        else "the teacher's mean log-probability of a token"
    )
    answer = f"In {share:.0%} of {len(margins):,} pairs. Mean margin {mean:+.2f} nats ({measure})."
    if share < _LEAST_AGREEMENT:
        answer += " Are teacher and reference the right ones, and the labels not swapped?"
    yield Verdict("Does the teacher rank chosen above rejected?", answer, share >= _LEAST_AGREEMENT)


def _coverage(summary: DatasetSummary) -> Verdict:
    positions = max(1, sum(role.num_supported for role in summary.roles))
    covered = sum(role.covered for role in summary.roles) / positions
    thin = sum(role.num_thin for role in summary.roles) / positions
    support = sum(role.num_support_tokens for role in summary.roles) / positions
    answer = (
        f"{covered:.1%} of the teacher's probability is covered by its top {support:.0f} tokens; less than "
        f"{THIN_COVERAGE:.0%} at {thin:.1%} of the positions."
    )
    is_good = covered >= _LEAST_COVERAGE and thin <= _MOST_THIN
    if not is_good:
        answer += " Score with a larger top-k to cover more."
    return Verdict("Is the support wide enough?", answer, is_good)


def _cut_answers(summary: DatasetSummary) -> Iterator[Verdict]:
    student = summary.endings.student
    if not student:
        return
    cut = summary.endings.cut
    if cut is None:
        yield Verdict(
            "How many answers were cut?", "Unknown: no token ends most of them; see the rollouts' report."
        )
        return
    yield _cut(cut, student, "of the student's answers have no end")


def _cut(cut: int, all_answers: int, what: str) -> Verdict:
    share = cut / max(1, all_answers)
    answer = f"{cut:,} of {all_answers:,} ({share:.1%}) {what}."
    if share > _MOST_CUT:
        answer += " Sample with a larger max-new-tokens."
    return Verdict("How many answers were cut at the limit?", answer, share <= _MOST_CUT)


def _outliers(summary: DatasetSummary) -> Iterator[Verdict]:
    if not summary.dataset.has_advantages:
        return
    positions = sum(role.num_positions for role in summary.roles)
    outliers = sum(role.num_outliers for role in summary.roles)
    answer = (
        f"{outliers:,} of {positions:,} tokens have an advantage beyond {OUTLIER_NATS:.0f} nats either way."
    )
    worst = summary.margins.strongest_disagreements(3)
    if worst:
        named = ", ".join(f"{pair_id} ({margin:+.1f})" for pair_id, margin in worst)
        answer += f" The teacher disagrees most with the labels of {named}."
    yield Verdict("Are there outliers?", answer, outliers / positions <= _MOST_OUTLIERS)


def rollout_verdicts(summary: RolloutSummary) -> list[Verdict]:
    """What a rollout dataset's numbers mean."""
    if not summary.num_responses:
        return [Verdict("What is sampled?", "Nothing: the dataset is empty.", False)]
    responses = summary.num_responses
    verdicts = [_cut(summary.num_cut, responses, "of the answers have no end")]
    share = summary.num_empty / responses
    verdicts.append(
        Verdict("Are there empty answers?", f"{summary.num_empty:,} of {responses:,}.", share <= _MOST_CUT)
    )
    if summary.num_repeatable:
        share = summary.num_repeated / summary.num_repeatable
        answer = f"{summary.num_repeated:,} of {summary.num_repeatable:,} further samples repeat one ({share:.1%})."
        if share > _MOST_REPEATED:
            answer += " Sample at a higher temperature, or fewer for each prompt."
        verdicts.append(Verdict("Do the samples of a prompt differ?", answer, share <= _MOST_REPEATED))
    if summary.num_positions:
        answer = f"{summary.token_logprobs.mean:+.2f} nats a token on average, at temperature 1."
        verdicts.append(Verdict("How sure is the student of its own answers?", answer))
    return verdicts
