"""Histograms and scatter plots of the HTML report, as inline SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from data.report.statistics import Histogram

_WIDTH, _HEIGHT = 420, 210

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 16, 10, 40

_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

_NUM_TICKS = 6

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def histogram_chart(
    histograms: Mapping[str, Histogram],
    *,
    label: str,
    logarithmic: bool = False,
    unbounded: bool = True,
    zero: bool = False,
    beside: Sequence[Histogram] = (),
) -> str:
    """Outlines of one histogram for each role, in percent of its positions; empty bins at the ends are left out.

    Args:
        histograms: by role, all with the same edges.
        label: what the horizontal axis shows, with its unit.
        logarithmic: whether the edges are decimal logarithms of what the axis shows.
        unbounded: whether values can be above the last edge; they were counted below it.
        zero: whether to draw a line at 0.
        beside: histograms with the same edges of a chart beside this one, which is to have the same axes.
    """
    all_edges = next(iter(histograms.values())).edges
    everything = [*histograms.values(), *beside]
    bins = _filled_bins(everything)
    edges = all_edges[bins.start : bins.stop + 1]
    low, high = float(edges[0]), float(edges[-1])
    shares = {role: _percent(histogram)[bins] for role, histogram in histograms.items()}
    top = max(float(_percent(histogram).max()) for histogram in everything) * 1.05 or 1.0
    marks = []
    for role, share in shares.items():
        points = [f"{_x(low, low, high):.1f},{_y(0, 0, top):.1f}"]
        for left, right, value in zip(edges[:-1], edges[1:], share, strict=True):
            height = _y(float(value), 0, top)
            points += [f"{_x(float(edge), low, high):.1f},{height:.1f}" for edge in (left, right)]
        points.append(f"{_x(high, low, high):.1f},{_y(0, 0, top):.1f}")
        color = f"var(--{role})"
        marks.append(
            f'<polygon points="{" ".join(points)}" fill="{color}" fill-opacity="0.13" stroke="{color}"'
            ' stroke-width="1.6" stroke-linejoin="round"/>'
        )
    if zero and low < 0 < high:
        place = f"{_x(0, low, high):.1f}"
        marks.append(f'<line class="zero" x1="{place}" x2="{place}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    ticks = _log_ticks(low, high) if logarithmic else _ticks(low, high)
    named = {value: _power_of_ten(value) if logarithmic else f"{value:g}" for value in ticks}
    # Values beyond the ends of a histogram were counted at its ends.
    for edge, sign, is_open in (
        (low, "≤", low == all_edges[0]),
        (high, "≥", unbounded and high == all_edges[-1]),
    ):
        if is_open:
            named = {value: text for value, text in named.items() if abs(value - edge) > (high - low) / 12}
            named[edge] = f"{sign} {_power_of_ten(edge) if logarithmic else f'{edge:g}'}"
    return _chart(marks, (low, high), (0, top), named, label=label, vertical_tick="{:.3g}%".format)


def scatter_chart(points: Mapping[str, Sequence[tuple[float, float]]], *, label: str) -> str:
    """Points by role. Whole numbers on the horizontal axis are spread out a little, to be seen one beside another.

    Args:
        points: (x, y) pairs by role.
        label: what both axes show, with units.
    """
    everything = [point for series in points.values() for point in series] or [(0.0, 0.0)]
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    horizontal, vertical = _padded(min(xs), max(xs)), _padded(min(*ys, 0.0), max(*ys, 0.0))
    spread = np.random.default_rng(0).uniform(-0.35, 0.35, size=len(everything)).tolist()
    marks = []
    for role, series in points.items():
        for x, y in series:
            place = f'cx="{_x(x + spread.pop(), *horizontal):.1f}" cy="{_y(y, *vertical):.1f}"'
            marks.append(f'<circle {place} r="2.2" fill="var(--{role})" fill-opacity="0.55"/>')
    zero = _y(0, *vertical)
    marks.insert(
        0, f'<line class="zero" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{zero:.1f}" y2="{zero:.1f}"/>'
    )
    named = {value: f"{value:g}" for value in _ticks(*horizontal)}
    return _chart(marks, horizontal, vertical, named, label=label, vertical_tick="{:g}".format)


def _percent(histogram: Histogram) -> np.ndarray:
    return 100 * histogram.counts / max(1, histogram.counts.sum())


def _filled_bins(histograms: Sequence[Histogram]) -> slice:
    """The bins in which something was counted, and one more at either end."""
    filled = np.flatnonzero(sum(histogram.counts for histogram in histograms))
    num_bins = len(histograms[0].counts)
    if not len(filled):
        return slice(0, num_bins)
    return slice(max(0, int(filled[0]) - 1), min(num_bins, int(filled[-1]) + 2))


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values: a few of them, 1, 2 or 5 times a power of ten apart."""
    step = 10.0 ** math.floor(math.log10((high - low) / _NUM_TICKS))
    step = next(factor * step for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= _NUM_TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two of them, given by their exponents; where these are few, three times such as well."""
    whole = [float(exponent) for exponent in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    if len(whole) > _NUM_TICKS / 2:
        return whole[:: math.ceil(len(whole) / _NUM_TICKS)]
    between = (exponent + math.log10(3) for exponent in range(math.floor(low), math.ceil(high)))
    return sorted([*whole, *(exponent for exponent in between if low <= exponent <= high)])


def _power_of_ten(exponent: float) -> str:
    value = float(f"{10.0**exponent:.1g}")
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    return "10" + f"{exponent:.0f}".translate(_SUPERSCRIPTS)


def _x(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / (high - low) * _PLOT_WIDTH


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (high - value) / (high - low) * _PLOT_HEIGHT


def _chart(
    marks: Sequence[str],
    horizontal: tuple[float, float],
    vertical: tuple[float, float],
    ticks: Mapping[float, str],
    *,
    label: str,
    vertical_tick: Callable[[float], str],
) -> str:
    bottom = _HEIGHT - _BOTTOM
    lines, texts = [], []
    for value in _ticks(*vertical):
        height = _y(value, *vertical)
        lines.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        )
        texts.append(_text(_LEFT - 6, height + 4, "end", vertical_tick(value)))
    lines.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    texts += [_text(_x(value, *horizontal), bottom + 15, "middle", text) for value, text in ticks.items()]
    texts.append(_text(_LEFT + _PLOT_WIDTH / 2, _HEIGHT - 6, "middle", label))
    content = "".join([*lines, *marks, *texts])
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{content}</svg>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
