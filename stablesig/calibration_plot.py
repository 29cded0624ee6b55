"""Observed against nominal rates: for each class, random keys on the left, each fixed key on the right."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stablesig.calibration_levels import HIGHEST_RATIO, LOWEST_RATIO
from stablesig.one_line import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stablesig.calibration import Calibration, ClassResult

_RANDOM, _FIXED, _WORST, _CHANCE = "#1f4e9c", "#b35806", "#7f0000", "0.8"
_ROW_INCHES = 3.1


def draw(result: Calibration) -> dict[str, bytes]:
    """The plot as PNG and SVG: {"png": ..., "svg": ...}. Raises ModuleNotFoundError without matplotlib."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, which would keep global state and look for a display

    rows = len(result.classes)
    height = _ROW_INCHES * rows
    figure = Figure(figsize=(9, height))
    FigureCanvasAgg(figure)
    # fixed margins: matplotlib's own layout would draw everything several times
    figure.subplots_adjust(
        left=0.08, right=0.985, bottom=0.5 / height, top=1 - 0.3 / height, wspace=0.2, hspace=0.36
    )
    grid = figure.subplots(rows, 2, squeeze=False)
    for row, (left, right) in zip(result.classes, grid.tolist(), strict=True):
        _draw_random(left, row, result.n_keys)
        _draw_fixed(right, row, result.n_keys)
    drawn = {}
    # text stays text, and equal content is equal bytes
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "stablesig calibration"}):
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            encoded = io.BytesIO()
            figure.savefig(encoded, format=form, dpi=110, metadata=metadata)
            drawn[form] = encoded.getvalue()
    return drawn


def _draw_random(axes: Axes, row: ClassResult, n_keys: int) -> None:
    curve = row.curve
    title = f"{shown(row.name)}: {n_keys} random keys x {row.images} images"
    low = _frame(axes, curve.nominal, title)
    axes.fill_between(
        curve.nominal, _above(curve.band_low, low), curve.band_high, color=_CHANCE, label="95 % by chance"
    )
    axes.plot(curve.nominal, _seen(curve.random), color=_RANDOM, marker=".", label="observed")
    axes.legend(loc="lower right", fontsize="small")


def _draw_fixed(axes: Axes, row: ClassResult, n_keys: int) -> None:
    curve = row.curve
    nominal = curve.nominal[: len(curve.fixed_median)]
    low = _frame(axes, nominal, f"{shown(row.name)}: each of {n_keys} fixed keys")
    axes.fill_between(
        nominal, _above(curve.fixed_low, low), _above(curve.fixed_high, low), color=_FIXED, alpha=0.3, lw=0,
        label="5 % to 95 % of keys",
    )  # fmt: skip
    chance = [level.nominal for level in row.fixed]
    chance_low = _above([level.chance_low * level.nominal for level in row.fixed], low)
    chance_high = [level.chance_high * level.nominal for level in row.fixed]
    axes.vlines(chance, chance_low, chance_high, color="0.35", lw=4, alpha=0.6, label="the same by chance")
    axes.plot(nominal, _seen(curve.fixed_median), color=_FIXED, label="median key")
    axes.plot(nominal, _seen(curve.fixed_worst), color=_WORST, linestyle=":", label="worst key")
    axes.legend(loc="lower right", fontsize="small")


def _frame(axes: Axes, nominal: Sequence[float], title: str) -> float:
    """Scales, grid, and the lines of equal and of twice and half the rate; returns the lowest rate shown."""
    lowest = nominal[-1] / 2.0
    axes.set(xscale="log", yscale="log", xlim=(nominal[-1] * 0.8, 1.25), ylim=(lowest, 1.5))
    ends = (nominal[-1], 1.0)
    axes.plot(ends, ends, color="black", lw=0.8)
    for ratio in (LOWEST_RATIO, HIGHEST_RATIO):
        axes.plot(ends, [ratio * end for end in ends], color="black", lw=0.6, linestyle="--")
    axes.minorticks_off()
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("nominal false positive rate")
    axes.set_ylabel("observed")
    axes.grid(alpha=0.25)
    return lowest


def _seen(rates: Sequence[float]) -> list[float]:
    """What has no logarithm leaves a gap."""
    return [rate if rate > 0.0 else float("nan") for rate in rates]


def _above(rates: Sequence[float], low: float) -> list[float]:
    return [max(rate, low) for rate in rates]
