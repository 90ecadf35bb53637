"""Collects the statistics of a signal dataset from its row groups."""

import numpy as np

from data.report.statistics import (
    OUTLIER_NATS,
    THIN_COVERAGE,
    DatasetSummary,
    Endings,
    Histogram,
    PairMargins,
    RoleSummary,
    TokenAdvantage,
)
from data.signals.dataset import SignalDataset
from data.signals.schema import ROLES
from data.signals.shards import SignalGroup
from data.signals.support import span_sums

_ABSOLUTE_EDGES = np.linspace(0, 20, 201)

_MAX_POINTS = 400

# With fewer occurrences a token's mean is chance.
_MIN_OCCURRENCES = 5


def summarize_dataset(
    dataset: SignalDataset, *, max_groups: int | None = None, num_tokens: int = 15
) -> DatasetSummary:
    """Collect the statistics of a dataset.

    Args:
        dataset: what to look at.
        max_groups: read this many row groups, evenly spread, instead of all.
        num_tokens: how many tokens to list either way.
    Raises:
        ShardError: when a shard cannot be read.
    """
    num_all = len(dataset.blocks)
    num_groups = num_all if max_groups is None else min(max_groups, num_all)
    roles = {role: RoleSummary(role) for role in ROLES}
    sums, counts = np.zeros(0), np.zeros(0, dtype=np.int64)
    margins, endings, absolute = PairMargins(), Endings(), Histogram(_ABSOLUTE_EDGES)
    for index in range(num_groups):
        block = index * num_all // num_groups
        group = dataset.group(block)
        _add_margins(margins, group, dataset.blocks[block].start, with_reference=dataset.has_advantages)
        _add_endings(endings, group)
        for role in roles.values():
            _add_role(role, group)
        if dataset.has_advantages:
            sums, counts = _add_tokens(group, sums, counts)
            absolute.add(np.abs(token_advantages(group)))
    raised, lowered = _extremes(sums, counts, num_tokens)
    scored = [role for role in roles.values() if role.num_responses]
    scale = _round_up(absolute.quantile(0.95))
    return DatasetSummary(dataset, num_groups, num_all, scored, raised, lowered, margins, endings, scale)


def _round_up(value: float) -> float:
    """The next of 0.1, 0.2, 0.5, 1, 2, 5 and so on."""
    return next(scale for scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0) if value <= scale + 1e-9)


def _add_margins(margins: PairMargins, group: SignalGroup, first_pair: int, *, with_reference: bool) -> None:
    columns = group.columns
    values = token_advantages(group) if with_reference else columns["teacher_token_logprobs"].values
    scored = columns["support_sizes"]
    totals = span_sums(np.asarray(values, dtype=np.float64), scored.lengths)
    for pair in range(group.num_pairs):
        sums = {"chosen": [0.0, 0], "rejected": [0.0, 0]}
        rows = group.rows_of_pair(pair)
        for row in rows:
            if group.roles[row] in sums and scored.valid_rows[row] and scored.lengths[row]:
                sums[group.roles[row]][0] += float(totals[row])
                sums[group.roles[row]][1] += int(scored.lengths[row])
        if not all(count for _, count in sums.values()):
            continue
        (chosen, num_chosen), (rejected, num_rejected) = sums["chosen"], sums["rejected"]
        margin = chosen - rejected if with_reference else chosen / num_chosen - rejected / num_rejected
        margins.pairs.append(first_pair + pair)
        margins.pair_ids.append(group.pair_ids[rows[0]])
        margins.values.append(margin)


def _add_endings(endings: Endings, group: SignalGroup) -> None:
    response = group.columns["response_ids"]
    filled = np.flatnonzero(response.lengths)
    last = response.values[response.offsets[filled + 1] - 1].tolist()
    for row, token in zip(filled.tolist(), last, strict=True):
        counter = endings.sampled if group.roles[row] == "student" else endings.labelled
        counter[token] += 1


def _add_role(summary: RoleSummary, group: SignalGroup) -> None:
    columns = group.columns
    sizes_column = columns["support_sizes"]
    rows = (np.array(group.roles) == summary.role) & sizes_column.valid_rows
    positions = np.repeat(rows, sizes_column.lengths)
    sizes = sizes_column.values.astype(np.int64)
    if not positions.any():
        return
    tails = columns["teacher_tail_logprobs"].values
    tail_mass = np.exp(tails, dtype=np.float64)
    summary.num_responses += int(rows.sum())
    summary.num_positions += int(positions.sum())
    # Positions of a translated dataset may have no distribution, of which there is nothing to say.
    supported = positions & (sizes > 0)
    summary.num_supported += int(supported.sum())
    summary.num_support_tokens += int(sizes[supported].sum())
    summary.covered += float((1 - tail_mass[supported]).sum())
    summary.num_thin += int((tail_mass[supported] > 1 - THIN_COVERAGE).sum())
    summary.tail_mass.add(np.log10(np.maximum(tail_mass[supported], 1e-8)))
    advantages = columns["advantages"].values
    if not len(advantages):
        return
    probabilities = np.exp(columns["teacher_logprobs"].values, dtype=np.float64)
    kl = span_sums(probabilities * advantages, sizes)
    finite = np.isfinite(tails)
    kl[finite] += tail_mass[finite] * (tails - columns["reference_tail_logprobs"].values)[finite]
    # Rounding for storage can take a KL of next to nothing below zero.
    kl = np.maximum(kl[supported], 1e-6)
    summary.kl.add(np.log10(kl))
    summary.kl_sum += float(kl.sum())
    differences = token_advantages(group)
    summary.token_advantage.add(differences[positions])
    summary.num_outliers += int((np.abs(differences[positions]) > OUTLIER_NATS).sum())
    means = span_sums(differences, sizes_column.lengths) / np.maximum(sizes_column.lengths, 1)
    for row in np.flatnonzero(rows)[: max(0, _MAX_POINTS - len(summary.lengths))]:
        summary.lengths.append((int(sizes_column.lengths[row]), float(means[row])))


def token_advantages(group: SignalGroup) -> np.ndarray:
    """Teacher minus reference log-probability of each scored response token, nats, -20 to 20."""
    columns = group.columns
    difference = columns["teacher_token_logprobs"].values - columns["reference_token_logprobs"].values
    # A reference without the token would make it infinite.
    return np.clip(difference, -20, 20)


def _add_tokens(group: SignalGroup, sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    response = group.columns["response_ids"]
    of_scored_rows = np.repeat(group.columns["support_sizes"].valid_rows, response.lengths)
    ids = response.values[of_scored_rows & group.scored_positions]
    if not len(ids):
        return sums, counts
    width = max(len(sums), int(ids.max()) + 1)
    total = np.bincount(ids, weights=token_advantages(group), minlength=width)
    count = np.bincount(ids, minlength=width)
    total[: len(sums)] += sums
    count[: len(counts)] += counts
    return total, count


def _extremes(
    sums: np.ndarray, counts: np.ndarray, num_tokens: int
) -> tuple[list[TokenAdvantage], list[TokenAdvantage]]:
    ids = np.flatnonzero(counts >= min(_MIN_OCCURRENCES, counts.max(initial=0)))
    ids = ids[counts[ids] > 0]
    means = sums[ids] / counts[ids]
    order = np.argsort(-means, kind="stable")
    ranked = [TokenAdvantage(int(ids[i]), float(means[i]), int(counts[ids[i]])) for i in order]
    raised = [token for token in ranked[:num_tokens] if token.mean > 0]
    lowered = [token for token in ranked[::-1][:num_tokens] if token.mean < 0]
    return raised, lowered
