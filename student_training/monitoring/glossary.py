"""What every metric of a training run means: for `adpa explain` and docs/metrics.md. Imports no torch."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from data.errors import ConfigurationError

#: Before the name of a metric on the held-out pairs.
HELD_OUT_PREFIX = "eval_"


@dataclass(frozen=True, slots=True)
class MetricEntry:
    """One metric.

    Attributes:
        name: its key in metrics.jsonl.
        what: what it measures, with its unit.
        better: which way is good.
        worry: what should make one look closer, and what to do.
    """

    name: str
    what: str
    better: str
    worry: str

    def __str__(self) -> str:
        """Lines for a terminal."""
        return f"{self.name}\n  what    {self.what}\n  better  {self.better}\n  worry   {self.worry}"


_ENTRIES = (
    MetricEntry(
        "loss",
        "what training minimises: the method's terms times their weights, each averaged over all positions (or "
        "responses) of the steps since the last line",
        "lower; compare it only between runs of one method with one setting",
        "it rises for long, or is not finite: lower --learning-rate; it falls while eval_loss rises: fewer steps",
    ),
    MetricEntry(
        "loss/nll",
        "mean negative log-likelihood of the chosen responses' tokens, nats per position",
        "lower, as far as the method is meant to imitate the chosen answers",
        "far above its first value: the student forgets how to write; raise --nll-weight or stop earlier",
    ),
    MetricEntry(
        "loss/kl_chosen",
        "KL divergence of the student from the method's target (the teacher; abd: the boosted teacher) on chosen "
        "responses, on the teacher's support and one bucket for all other tokens, nats per position",
        "lower; 0 is the teacher itself",
        "it stays where it began: the learning rate is too low, or the student too small for this teacher",
    ),
    MetricEntry(
        "loss/kl_rejected",
        "the same on rejected responses",
        "lower; it should fall together with loss/kl_chosen",
        "it stays far above loss/kl_chosen: the student matches the teacher only where the text is good",
    ),
    MetricEntry(
        "loss/kl_student",
        "the same on the student's own responses",
        "lower",
        "it rises while loss/kl_chosen falls: the student leaves the answers that it was sampled on; sample it again",
    ),
    MetricEntry(
        "loss/reverse_kl_student",
        "KL divergence of the method's target from the student on the student's own responses, nats per position; "
        "under aligndistil times its weight of the position",
        "lower",
        "entropy falls with it: reverse KL narrows the student; take fewer steps or a smaller --boost",
    ),
    MetricEntry(
        "loss/reverse_kl_chosen",
        "the same on chosen responses",
        "lower",
        "as for loss/reverse_kl_student",
    ),
    MetricEntry(
        "loss/reverse_kl_rejected",
        "the same on rejected responses",
        "lower",
        "as for loss/reverse_kl_student",
    ),
    MetricEntry(
        "loss/jsd_chosen",
        "Jensen-Shannon divergence of the student and the method's target on chosen responses, nats per position",
        "lower; with --jsd-weight 0.5 it is 0.693 at most",
        "near 0.693 from the first step on: student and target hardly overlap, and the gradient is small; take "
        "--divergence forward",
    ),
    MetricEntry("loss/jsd_rejected", "the same on rejected responses", "lower", "as for loss/jsd_chosen"),
    MetricEntry(
        "loss/jsd_student", "the same on the student's own responses", "lower", "as for loss/jsd_chosen"
    ),
    MetricEntry(
        "loss/kl_initial",
        "estimated KL divergence from the student before training, on sampled tokens, nats per position",
        "low: it is the price of moving, not an aim",
        "above about 1: the student has left the responses that it was sampled on; raise --initial-kl or sample again",
    ),
    MetricEntry(
        "loss/reverse_kl_initial",
        "KL divergence of the student before training from the student now, exact on the stored support and the tail, "
        "on the student's own responses, nats per position",
        "low: it is the price of moving, not an aim; it begins at 0",
        "above about 1: raise --initial-kl, or sample again",
    ),
    MetricEntry(
        "loss/surrogate",
        "clipped policy-gradient loss on stored rollouts; its negative is the rewarded probability ratio",
        "lower, slowly",
        "it hardly moves and ratio is far from 1: the rollouts are stale; sample the student again",
    ),
    MetricEntry(
        "loss/dpo",
        "−log σ of the margin between chosen and rejected, in log-ratios to the student before training",
        "lower; it begins at log 2 = 0.693",
        "near 0 within few steps: overfitting; lower --learning-rate or raise --beta",
    ),
    MetricEntry(
        "loss/dpkd",
        "the same with the teacher in the place of the student before training",
        "lower",
        "as for loss/dpo",
    ),
    MetricEntry(
        "loss/simpo",
        "−log σ of the margin between the mean log-probabilities of chosen and rejected, minus the target margin",
        "lower",
        "entropy or loss on held-out text suffers while it falls: lower --learning-rate",
    ),
    MetricEntry(
        "reward_margin",
        "how much more the student prefers chosen to rejected than its reference does, times β, nats",
        "higher, moderately; above 0 means on the right side",
        "it grows without end while eval_reward_accuracy does not rise: overfitting",
    ),
    MetricEntry(
        "reward_accuracy",
        "share of pairs whose reward_margin is above 0",
        "higher; 0.5 is chance; dpo begins at 0, since every margin is 0 then",
        "1.0 on training pairs and far less on held-out ones: overfitting",
    ),
    MetricEntry(
        "expected_advantage",
        "the teacher's advantage (its log-probability minus the reference's) that the student expects of its next "
        "token, after the clip, nats per position",
        "higher, up to about teacher_expected_advantage",
        "above twice teacher_expected_advantage: the student exploits accidents of the advantage; a run warns. Narrow "
        "--clip, lower --gamma, take fewer steps",
    ),
    MetricEntry(
        "teacher_expected_advantage",
        "the same with the teacher itself in the student's place: the level of a healthy student",
        "a yardstick, neither up nor down",
        "near 0: teacher and reference hardly differ, so there is little to learn from their advantage",
    ),
    MetricEntry(
        "ratio",
        "mean probability ratio of sampled tokens between the student now and when they were sampled",
        "near 1",
        "beyond 1 ± --clip-range for most tokens the surrogate has stopped teaching; sample the student again",
    ),
    MetricEntry(
        "advantage_coverage",
        "share of the student's probability on the teacher's stored support (its top-k tokens)",
        "higher; above 0.9 little of the student is out of sight",
        "below 0.7: much of the student falls into the tail bucket; score with a larger --top-k",
    ),
    MetricEntry(
        "entropy",
        "entropy of the student's next-token distribution over the whole vocabulary, nats",
        "it falls somewhat as the student learns; there is no target",
        "near 0, or falling steeply: the student collapses onto few tokens",
    ),
    MetricEntry(
        "support_entropy",
        "entropy of the student on the teacher's support with all other tokens as one outcome, nats, on rows with "
        "signals",
        "near teacher_support_entropy, or somewhat below it for methods that boost",
        "below 0.7 of teacher_support_entropy: sharper than the teacher, which by itself raises rewards at temperature "
        "1; compare greedily and at equal entropy. Below 0.3: collapse. A run warns of both; lower --boost or --gamma",
    ),
    MetricEntry(
        "teacher_support_entropy",
        "the same of the teacher, on the same positions",
        "a yardstick, neither up nor down",
        "near 0 everywhere: the teacher is nearly certain, and its distribution says little beyond its answers",
    ),
    MetricEntry(
        "top1_mass",
        "largest probability that the student gives to a token of the support, mean over positions",
        "near teacher_top1_mass",
        "above 1.25 of teacher_top1_mass: sharpening, as for support_entropy, and sooner to be seen here; a run warns",
    ),
    MetricEntry(
        "teacher_top1_mass",
        "the same of the teacher, on the same positions",
        "a yardstick, neither up nor down",
        "-",
    ),
    MetricEntry(
        "end_rate",
        "mean probability that the student ends the answer at a position of the stored answers; its inverse is a "
        "length. Counted where the end is in the support or the label; not there where a dataset has samples alone",
        "near teacher_end_rate, or on its way there",
        "twice teacher_end_rate or half of it, and further off than at first: answers get shorter, or longer; a run "
        "warns. Look at lengths; give --nll-weight, a smaller --boost or --gamma, or fewer steps",
    ),
    MetricEntry(
        "teacher_end_rate",
        "the same of the teacher, on the same positions",
        "a yardstick, neither up nor down",
        "-",
    ),
    MetricEntry(
        "abs_log_ratio",
        "mean |log ρ| of sampled tokens, ρ the probability ratio of the student now and the one that sampled them, "
        "nats; with --rollouts",
        "lower; it grows as the student learns",
        "as for rollout_ess",
    ),
    MetricEntry(
        "rollout_ess",
        "effective sample size of the rollouts, (Σρ)² / Σρ² over their tokens, as a share of these; with --rollouts",
        "near 1; it falls as the student leaves the one that sampled them",
        "below 0.1: the rollouts are stale, a run warns; sample the student again, or take fewer steps",
    ),
    MetricEntry(
        "rollout_mass",
        "mean ρ over sampled tokens: the student's probability on what the student that sampled them can write; with "
        "--rollouts",
        "1, but for noise (a mean with a heavy tail) and where answers were sampled at another temperature or top-p",
        "below 0.95 over five lines: the student puts mass where it was never sampled, a sign of collapse; a run "
        "warns. Smaller --gamma or --boost, --initial-kl, or sample again",
    ),
    MetricEntry(
        "learning_rate",
        "the learning rate of the last step",
        "as --lr-scheduler has it",
        "it is 0 too early: --warmup-steps or --max-steps are not what was meant",
    ),
    MetricEntry(
        "grad_norm",
        "norm of the whole gradient in the last step, before it was clipped",
        "steady",
        "often far above --max-grad-norm: every step is clipped; lower --learning-rate, or look at the pairs",
    ),
    MetricEntry(
        "tokens_per_second",
        "response positions trained on per second, over all processes, since the last line",
        "higher",
        "much lower than at first: another process, a slow disk (see data_share), or longer responses",
    ),
    MetricEntry(
        "data_share",
        "share of that time spent waiting for batches",
        "lower; below 0.1 reading does not matter",
        "above 0.3 on a GPU: raise --loader-workers, or store the signals on a faster disk",
    ),
    MetricEntry(
        "tflops",
        "floating-point operations that the mathematics needs, 10^12 per second, over all processes",
        "higher",
        "see model_flops_utilisation; padding is not counted, so a low value can mean much padding",
    ),
    MetricEntry(
        "model_flops_utilisation",
        "share of what the card can do at most in bfloat16; only for cards that data/hardware.py knows",
        "higher; 0.3 to 0.5 is good for small students",
        "below 0.1: batches are too small, or most of them is padding (--max-tokens-per-batch, --packing)",
    ),
    MetricEntry("step", "optimizer steps taken", "-", "-"),
    MetricEntry("epoch", "passes over the pairs", "-", "above 3 or so, watch eval_loss"),
)

#: Metric -> what it means. Held-out metrics have the same names after `eval_`.
GLOSSARY: Mapping[str, MetricEntry] = {entry.name: entry for entry in _ENTRIES}


def explain_metric(name: str) -> MetricEntry:
    """The entry of a metric; of a held-out one, that of the metric it is.

    Raises:
        ConfigurationError: for a name that no run writes, with those most like it.
    """
    if name in GLOSSARY:
        return GLOSSARY[name]
    bare = name.removeprefix(HELD_OUT_PREFIX)
    if bare in GLOSSARY:
        entry = GLOSSARY[bare]
        return MetricEntry(name, f"on the held-out pairs: {entry.what}", entry.better, entry.worry)
    near = difflib.get_close_matches(bare, GLOSSARY, n=3, cutoff=0.4)
    meant = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(GLOSSARY)}"
    raise ConfigurationError(f"no metric is called {name!r}; {meant}")


def metrics_table() -> str:
    """All entries as a table in Markdown."""
    lines = ["| metric | what it is | better | when to worry |", "| --- | --- | --- | --- |"]
    lines += [f"| `{entry.name}` | {entry.what} | {entry.better} | {entry.worry} |" for entry in _ENTRIES]
    return "\n".join(lines) + "\n"
