"""Histograms and scatter plots of the HTML report, as inline SVG."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

from data.summary import Histogram

__all__ = ["histogram_chart", "scatter_chart"]

_WIDTH, _HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 40
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM


def histogram_chart(
    histograms: Mapping[str, Histogram], *, label: str, tick: Callable[[float], str] = "{:g}".format
) -> str:
    """Outlines of one histogram for each role, as shares of its positions.

    Args:
        histograms: by role, all with the same edges.
        label: what the horizontal axis shows, with its unit.
        tick: writes a value of that axis.
    """
    edges = next(iter(histograms.values())).edges
    low, high = float(edges[0]), float(edges[-1])
    shares = {
        role: histogram.counts / max(1, histogram.counts.sum()) for role, histogram in histograms.items()
    }
    top = max(float(share.max()) for share in shares.values()) or 1.0
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
    return _chart(marks, (low, high), (0, top), label=label, tick=tick, vertical_tick="{:.0%}".format)


def scatter_chart(points: Mapping[str, Sequence[tuple[float, float]]], *, label: str) -> str:
    """Points by role.

    Args:
        points: (x, y) pairs by role.
        label: what both axes show, with units.
    """
    everything = [point for series in points.values() for point in series] or [(0.0, 0.0)]
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    horizontal, vertical = (0.0, max(xs) * 1.05 or 1.0), _padded(min(*ys, 0.0), max(*ys, 0.0))
    marks = [
        f'<circle cx="{_x(x, *horizontal):.1f}" cy="{_y(y, *vertical):.1f}" r="2.4" fill="var(--{role})"'
        ' fill-opacity="0.6"/>'
        for role, series in points.items()
        for x, y in series
    ]
    zero = _y(0, *vertical)
    marks.insert(
        0, f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{zero:.1f}" y2="{zero:.1f}"/>'
    )
    return _chart(
        marks, horizontal, vertical, label=label, tick="{:.0f}".format, vertical_tick="{:.2f}".format
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _x(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / (high - low) * _PLOT_WIDTH


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (high - value) / (high - low) * _PLOT_HEIGHT


def _chart(
    marks: Sequence[str],
    horizontal: tuple[float, float],
    vertical: tuple[float, float],
    *,
    label: str,
    tick: Callable[[float], str],
    vertical_tick: Callable[[float], str],
) -> str:
    bottom = _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>', *marks]
    for index in range(5):
        value = horizontal[0] + (horizontal[1] - horizontal[0]) * index / 4
        anchor = ("start", "middle", "middle", "middle", "end")[index]
        text = escape(tick(value))
        parts.append(
            f'<text x="{_x(value, *horizontal):.1f}" y="{bottom + 15}" text-anchor="{anchor}">{text}</text>'
        )
    for value in (vertical[0], (vertical[0] + vertical[1]) / 2, vertical[1]):
        height = min(max(_y(value, *vertical) + 4, _TOP + 9), bottom)
        text = escape(vertical_tick(value))
        parts.append(f'<text x="{_LEFT - 6}" y="{height:.1f}" text-anchor="end">{text}</text>')
    middle = _LEFT + _PLOT_WIDTH / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
