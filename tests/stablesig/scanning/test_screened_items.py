"""Rows of a screened scan: what the screen rules out says so, all else is as without it."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from stablesig.scanning.item import Item
from stablesig.scanning.measuring import WorkerState, measure_item
from stablesig.scanning.row import Row

from ..conftest import textured_image
from .scanned import picture, settings_for, timeless


def rows_of(pixels: np.ndarray, form: str, *, screen: bool) -> list[Row]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    item = Item("a", "data", data=file.getvalue())
    return timeless(measure_item(item, replace(settings_for(1, 3), screen=screen), WorkerState()))


def test_a_jpeg_that_its_luma_rules_out_has_all_that_a_row_says() -> None:
    pixels = textured_image(77, 200, 240)
    [row] = rows_of(pixels, "JPEG", screen=True)
    [whole] = rows_of(pixels, "JPEG", screen=False)
    assert (row.verdict, row.screened, whole.screened) == ("not detected", True, False)
    same = (
        "sha256",
        "bytes",
        "width",
        "height",
        "format",
        "n_keys",
        "hypothesis_factor",
        "background",
        "error",
    )
    assert [getattr(row, name) for name in same] == [getattr(whole, name) for name in same]
    assert (row.width, row.height, row.format) == (240, 200, "JPEG")


def test_a_marked_image_has_the_row_of_a_scan_without_a_screen() -> None:
    assert rows_of(picture(1), "PNG", screen=True) == rows_of(picture(1), "PNG", screen=False)


def test_a_transparent_image_is_measured_over_both_backgrounds() -> None:
    pixels = np.dstack([textured_image(78, 120, 140), np.full((120, 140), 128, np.uint8)])
    rows = rows_of(pixels, "PNG", screen=True)
    assert rows == rows_of(pixels, "PNG", screen=False)
    assert (rows[0].screened, rows[0].hypothesis_factor) == (False, 8)


def test_a_damaged_jpeg_is_unreadable_as_ever() -> None:
    file = io.BytesIO()
    Image.fromarray(textured_image(79, 200, 240)).save(file, "JPEG")
    item = Item("a", "data", data=file.getvalue()[:3000])
    [row] = measure_item(item, replace(settings_for(1, 3), screen=True), WorkerState())
    assert (row.verdict, row.error_kind) == ("unreadable", "damaged")
