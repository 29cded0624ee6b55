"""Which windows are measured: every one once, or an even spread of whole tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablesig_detector.window_tiles import COLUMNS, ROWS, tiles

sizes = st.integers(1, 400)


def votes(down: int, across: int, most: int) -> np.ndarray:
    """How often each window is measured: (down, across)."""
    counts = np.zeros((down, across), int)
    for part in tiles(down, across, most):
        for top, left in zip(part.tops, part.lefts, strict=True):
            assert 0 <= top <= down - part.rows
            assert 0 <= left <= across - part.columns
            counts[top : top + part.rows, left : left + part.columns] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(down=sizes, across=sizes)
def test_up_to_the_bound_every_window_counts_once(down: int, across: int) -> None:
    assert (votes(down, across, down * across) == 1).all()


@settings(max_examples=60, deadline=None)
@given(down=sizes, across=sizes, most=st.integers(1, 20000))
def test_above_the_bound_no_window_counts_twice(down: int, across: int, most: int) -> None:
    counts = votes(down, across, most)
    assert counts.max() == 1
    assert 0 < counts.sum() <= max(most, ROWS * COLUMNS)


@pytest.mark.parametrize("most", [5184, 20736])
@pytest.mark.parametrize(("down", "across"), [(145, 145), (571, 856), (856, 571), (300, 2000), (2000, 300)])
def test_the_spread_is_even(down: int, across: int, most: int) -> None:
    counts = votes(down, across, most)
    share = counts.mean()
    assert 0.9 * min(most, counts.size) / counts.size < share <= 1
    quarters = [half for rows in np.array_split(counts, 2) for half in np.array_split(rows, 2, axis=1)]
    assert np.allclose([quarter.mean() for quarter in quarters], share, rtol=0.35)
    margin_down, margin_across = counts.any(axis=1).nonzero()[0], counts.any(axis=0).nonzero()[0]
    assert margin_down[0] < down * 0.1
    assert margin_down[-1] > down * 0.9
    assert margin_across[0] < across * 0.1
    assert margin_across[-1] > across * 0.9


def test_long_and_narrow_images_are_measured_too() -> None:
    for down, across in ((3, 30000), (30000, 3)):
        counts = votes(down, across, 5184)
        assert 4000 < counts.sum() <= 5184
        assert counts.max() == 1
