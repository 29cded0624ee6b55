"""The plots of an evaluation, as SVG that stands in an HTML page: text in the page's font and colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from stablesig.evaluation_summary import Histogram, null_density

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # stands for the page's text colour until `_inline` puts that in
_MARKED, _CONTROL, _LAW = "#2f7fd0", "#8a8a8a", "#c2571a"  # read well on white and on black
_WIDTH_IN = 7.5
_ROW_IN = 0.24  # height of one attack


@dataclass(frozen=True)
class Strip:
    """An attack's line: -log10 p of every picture, watermarked and control."""

    name: str
    marked: Sequence[float]
    control: Sequence[float]


def strength_plot(strips: Sequence[Strip], fprs: Sequence[float], label: str, prefix: str) -> str:
    """A point for each picture, a line of points for each attack; the levels as dashed lines.

    label: what a screen reader says instead.  prefix: of the ids, unique in the page.
    """
    figure = _figure(0.9 + _ROW_IN * len(strips))
    axes = figure.subplots()
    for row, strip in enumerate(strips):
        axes.plot(strip.control, [row + 0.18] * len(strip.control), "|", color=_CONTROL, markersize=5)
        axes.plot(strip.marked, [row - 0.1] * len(strip.marked), ".", color=_MARKED, markersize=5, alpha=0.6)
        axes.plot([np.median(strip.marked)], [row - 0.1], "d", color=_MARKED, markersize=6)
    for fpr in fprs:
        axes.axvline(-np.log10(fpr), linestyle="--", linewidth=0.8, color=_LAW)
    axes.set_yticks(range(len(strips)), [strip.name for strip in strips])
    axes.set_ylim(len(strips) - 0.4, -0.6)  # the first attack on top
    axes.set_xlim(left=-0.3)
    axes.set_xlabel("-log10 of the p-value: further right is stronger evidence")
    axes.grid(axis="x", alpha=0.25)
    return _inline(figure, label, prefix)


def null_plot(
    histogram: Histogram,
    marked: Sequence[float],
    thresholds: Mapping[float, float],
    dimension: int,
    label: str,
    prefix: str,
) -> str:
    """The control's statistic against the density for a random key, and the watermarked pictures' beside it.

    marked: statistics of unattacked watermarked pictures.  thresholds: false positive rate -> statistic.
    """
    figure = _figure(3.6)
    axes = figure.subplots()
    edges = np.array(histogram.edges)
    total, width = sum(histogram.counts), edges[1] - edges[0]
    heights = np.array(histogram.counts) / (total * width)
    axes.stairs(heights, edges, fill=True, color=_CONTROL, alpha=0.6, label="original decoder (control)")
    grid = np.linspace(-0.999, 0.999, 1999)
    axes.plot(grid, null_density(grid, dimension), color=_LAW, label="law for a random key")
    axes.set_ylim(bottom=0.0)
    if marked:  # ticks, as a histogram of few pictures would dwarf the others
        height = 0.06 * axes.get_ylim()[1]
        axes.plot(marked, [height] * len(marked), "|", color=_MARKED, markersize=14, label="watermarked")
    for fpr, threshold in thresholds.items():
        axes.axvline(threshold, linestyle="--", linewidth=0.8, color=_LAW)
        axes.annotate(f"{fpr:g}", (threshold, axes.get_ylim()[1]), ha="center", va="bottom", fontsize=8)
    axes.set_xlim(edges[0], max(edges[-1], max(marked, default=0.0) + 0.05, max(thresholds.values()) + 0.05))
    axes.set_xlabel("statistic: cosine between features and key")
    axes.set_ylabel("density")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.18), ncols=3, labelcolor=_INK)
    return _inline(figure, label, prefix)


def _figure(height_in: float) -> Figure:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure  # not pyplot, which would keep global state

    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _inline(figure: Figure, label: str, prefix: str) -> str:
    """SVG for a place in HTML: no prologue, no name spaces, ids that no other plot has, deterministic."""
    import matplotlib

    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(colors=_INK)
        for spine in axes.spines.values():
            spine.set_edgecolor(_INK)
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
            text.set_color(_INK)
    content = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    body = content.getvalue()
    size = re.search(r'viewBox="([^"]*)"', body)
    assert size is not None
    body = body[body.index(">", body.index("<svg")) + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)  # in the CSS
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-").replace('xlink:href="#', f'href="#{prefix}-')
    body = body.replace(_INK, "currentColor")
    return f'<svg role="img" aria-label="{escape(label)}" viewBox="{size[1]}">{body}</svg>'
