"""Datasets on the terminal: one in detail (`signals inspect`), or a store as a table (`signals list`)."""

import os
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.report.rollout_summary import RolloutSummary
from data.report.statistics import DatasetSummary, Histogram, RoleSummary, TokenAdvantage
from data.report.verdicts import rollout_verdicts, signal_verdicts
from data.signals.fingerprint import describe_request
from data.storage.caches import CacheSummary
from data.storage.store import StoredDataset
from data.tokens.token_text import TokenText

_WIDTH = 80

_BARS = " ▁▂▃▄▅▆▇█"


def inspect_lines(summary: DatasetSummary | RolloutSummary) -> Iterator[str]:
    """Describe a dataset for the terminal, line by line: what its numbers mean, then the numbers.

    Args:
        summary: what `summarize_dataset` or `summarize_rollouts` found.
    """
    dataset = summary.dataset
    manifest = dataset.manifest
    yield f"{dataset.path}"
    size = sum(shard.size_bytes for shard in manifest.shards) / 1e6
    if isinstance(summary, RolloutSummary):
        yield (
            f"  {manifest.rows:,} answers to {manifest.pairs:,} prompts, {manifest.positions:,} tokens,"
            f" {size:,.1f} MB, fingerprint {manifest.fingerprint[:12]}"
        )
    else:
        yield (
            f"  {manifest.rows:,} responses of {manifest.pairs:,} pairs, {manifest.positions:,} scored positions,"
            f" {summary.bytes_per_position:.1f} bytes a position, fingerprint {manifest.fingerprint[:12]}"
        )
    if summary.num_groups < summary.num_all_groups:
        yield f"  (statistics of {summary.num_groups} of {summary.num_all_groups} row groups)"
    created = dict(manifest.created)
    if (translation := created.pop("translation", None)) is not None:
        yield from _translation_lines(translation)
    yield ""
    is_rollouts = isinstance(summary, RolloutSummary)
    for verdict in rollout_verdicts(summary) if is_rollouts else signal_verdicts(summary):
        yield f"[{verdict.mark:>4}] {verdict.question}"
        yield from textwrap.wrap(verdict.answer, _WIDTH, initial_indent=" " * 7, subsequent_indent=" " * 7)
    if isinstance(summary, RolloutSummary):
        yield from _rollout_lines(summary)
    else:
        yield from _signal_lines(summary)
    yield ""
    yield from _facts("provenance", [*created.items(), *describe_request(manifest.request)])


def _signal_lines(summary: DatasetSummary) -> Iterator[str]:
    for role in summary.roles:
        yield ""
        yield from _role_lines(role)
    texts = TokenText(summary.dataset.tokenizer_folder)
    for title, tokens in (("raised", summary.raised), ("lowered", summary.lowered)):
        if tokens:
            yield ""
            yield f"tokens that the teacher has {title} most, mean advantage in nats (times seen):"
            yield from _lines(_token(token, texts) for token in tokens)


def _translation_lines(translation: Mapping[str, Any]) -> Iterator[str]:
    """What putting the signals on another tokenizer's ids kept."""
    yield "  translated from another tokenizer:"
    yield f"    aligned positions  {translation['aligned_share']:.1%} (the others carry no distribution)"
    yield (
        f"    placed mass        {translation['placed_mass']:.2%} of the teacher's top-k"
        f" ({translation['exact_mass']:.1%} exactly)"
    )
    for reason, count in translation["dropped"].items():
        yield f"    dropped            {count:,} {reason}"
    if translation["unplaced_tokens"]:
        texts = ", ".join(repr(text) for text, _ in translation["unplaced_tokens"][:8])
        yield f"    without a place    {texts}"


def _rollout_lines(summary: RolloutSummary) -> Iterator[str]:
    if not summary.num_responses:
        return
    lengths, logprobs = summary.lengths, summary.token_logprobs
    yield ""
    mean = summary.num_positions / summary.num_responses
    yield f"  tokens an answer     {_sparkline(lengths)}  1 to 10^{lengths.edges[-1]:g}, mean {mean:.1f}"
    yield (
        f"  token log-prob.      {_sparkline(logprobs)}  {logprobs.edges[0]:g} to 0 nats, mean {logprobs.mean:+.3f}"
    )


def _lines(entries: Iterable[str]) -> Iterator[str]:
    """Entries side by side, as many on each line as a narrow terminal has room for."""
    line = ""
    for entry in entries:
        if line and len(line) + 2 + len(entry) > _WIDTH:
            yield line
            line = ""
        line += "  " + entry
    yield line


def _facts(title: str, facts: Iterable[tuple[str, Any]]) -> Iterator[str]:
    told = [(name, value) for name, value in facts if value is not None and value != []]
    if told:
        yield f"{title}:"
        yield from (f"  {name}: {value}" for name, value in told)


def _role_lines(role: RoleSummary) -> Iterator[str]:
    yield (
        f"{role.role}: {role.num_responses:,} responses, {role.num_positions / role.num_responses:.1f} tokens each,"
        f" {role.support_size:.1f} support tokens a position"
    )
    yield f"  probability covered  {role.coverage:.2%}"
    yield f"  outside the support  {_sparkline(role.tail_mass)}  10^{role.tail_mass.edges[0]:g} to 1"
    if role.token_advantage.counts.any():
        kl, advantage = role.kl, role.token_advantage
        low, high = kl.edges[0], kl.edges[-1]
        yield f"  KL(teacher || ref)   {_sparkline(kl)}  10^{low:g} to 10^{high:g} nats, mean {role.mean_kl:.3f}"
        low, high = advantage.edges[0], advantage.edges[-1]
        yield f"  token advantage      {_sparkline(advantage)}  {low:g} to {high:g} nats, mean {advantage.mean:+.3f}"


def _sparkline(histogram: Histogram, width: int = 26) -> str:
    """Counts as bars; neighbouring bins are joined to fit the width."""
    step = -(-len(histogram.counts) // width)
    counts = [
        int(histogram.counts[start : start + step].sum()) for start in range(0, len(histogram.counts), step)
    ]
    highest = max(*counts, 1)
    # A bin with anything in it stays visible.
    return "".join(_BARS[0] if count == 0 else _BARS[max(1, round(8 * count / highest))] for count in counts)


def _token(token: TokenAdvantage, texts: TokenText) -> str:
    return f"{texts[token.token_id]!r} {token.mean:+.2f} ({token.count:,})"


_HEADINGS = ("name", "kind", "models", "responses", "positions", "MB", "made", "used")

_NUMBERS = {"responses", "positions", "MB"}


def listing(
    store: str | os.PathLike[str],
    datasets: Sequence[StoredDataset],
    unfinished: Sequence[Path],
    unreadable: Sequence[tuple[Path, str]],
) -> Iterator[str]:
    """A heading, one line for each dataset, and what else is stored there.

    Args:
        store: the store's folder.
        datasets: the complete datasets in it.
        unfinished: folders without a manifest.
        unreadable: folders with one that cannot be read, and why.
    """
    if not datasets:
        yield f"{store}: no datasets"
    else:
        total = sum(dataset.size_bytes for dataset in datasets)
        yield f"{store}: {len(datasets)} dataset{'s' if len(datasets) > 1 else ''}, {total / 1e6:,.1f} MB"
        yield from _table([_HEADINGS, *(_cells(dataset) for dataset in datasets)])
    if unfinished:
        names = ", ".join(path.name for path in unfinished)
        yield f"unfinished, or read from an address and not all here yet: {names}"
    yield from (f"not usable: {reason}" for _, reason in unreadable)


def cache_lines(caches: Iterable[CacheSummary]) -> Iterator[str]:
    """A line for each cache that holds anything."""
    for cache in caches:
        if cache.last_used is not None:
            size = f"{cache.size_bytes / 1e6:,.1f} MB"
            yield f"{cache.path}: {cache.files:,} files, {size}, last used {_day(cache.last_used)}"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
            for heading, cell, width in zip(_HEADINGS, row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _cells(dataset: StoredDataset) -> tuple[str, ...]:
    manifest = dataset.manifest
    return (
        dataset.path.name,
        manifest.kind,
        dataset.models,
        f"{manifest.rows:,}",
        f"{manifest.positions:,}",
        f"{dataset.size_bytes / 1e6:,.1f}",
        _day(dataset.finished),
        _day(dataset.last_used),
    )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
