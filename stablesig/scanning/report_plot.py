"""The plot of a report, as SVG in the page's font and colour; no package is needed to draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 760.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 22.0, 22.0, 42.0
_MISS, _HIT, _LAW = "#8a8a8a", "#2f7fd0", "#c2571a"  # as in evaluation_plots: they read on white and on black
_FEWEST = 0.5  # images, at the foot of a bar: one image is a bar that can be seen


def evidence_plot(histogram: Sequence[Mapping[str, Any]], thresholds: Sequence[float]) -> str:
    """Bars of images by decade of p, on a logarithmic scale. histogram: of the report, not empty."""
    decades = max(len(histogram), 8)
    largest = max(1.0, *(max(one["images"], one["expected_at_most"]) for one in histogram))
    top = math.ceil(math.log10(largest) + 0.05)
    step = (_WIDTH - _LEFT - _RIGHT) / decades

    def x(decade: float) -> float:
        return _LEFT + step * decade

    def y(images: float) -> float:
        low = math.log10(_FEWEST)
        share = (math.log10(max(images, _FEWEST)) - low) / (top - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}" '
        f'stroke="currentColor" opacity="0.15"/><text x="{_LEFT - 6}" y="{y(10**power) + 4:.1f}" '
        f'text-anchor="end">{10**power:,}</text>'
        for power in range(0, top + 1, max(1, top // 5))
    ]
    every = max(1, decades // 10)
    parts += [
        f'<text x="{x(decade):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_label(decade)}</text>'
        for decade in range(0, decades + 1, every)
    ]
    for decade, one in enumerate(histogram):
        parts.append(_bars(x(decade) + 1.0, step - 2.0, one, y))
    law = [
        f"{x(decade + side):.1f},{y(one['expected_at_most']):.1f}"
        for decade, one in enumerate(histogram)
        for side in (0, 1)
        if one["expected_at_most"] >= _FEWEST
    ]
    if law:
        parts.append(f'<polyline points="{" ".join(law)}" fill="none" stroke="{_LAW}" stroke-width="1.6"/>')
    for fpr in thresholds:
        place = x(min(-math.log10(fpr), decades))
        parts.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP - 4}" y2="{_HEIGHT - _BOTTOM}" '
            f'stroke="{_LAW}" stroke-dasharray="4 3"/><text x="{place + 4:.1f}" y="{_TOP}">{fpr:g}</text>'
        )
    parts.append(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM}" '
        f'stroke="currentColor" opacity="0.5"/><text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" '
        'text-anchor="middle">p-value of the image: further right is stronger evidence</text>'
    )
    label = "Images by decade of their lowest p-value; the numbers are in the table below"
    return (
        f'<svg class="bars" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _bars(left: float, width: float, one: Mapping[str, Any], y: Any) -> str:
    """The images of a decade, grey; where some are detected, those in blue and the rest above them."""
    if not one["images"]:
        return ""
    foot = y(_FEWEST)
    bars = [(one["images"], _MISS)] if one["images"] > one["detected"] else []
    bars += [(one["detected"], _HIT)] if one["detected"] else []
    return "".join(
        f'<rect x="{left:.1f}" y="{y(images):.1f}" width="{max(width, 0.5):.1f}" '
        f'height="{foot - y(images):.1f}" fill="{colour}"><title>{images:,}</title></rect>'
        for images, colour in bars
    )


def _label(decade: int) -> str:
    if decade == 0:
        return "1"
    return f'10<tspan dy="-4" font-size="8">-{decade}</tspan>'
