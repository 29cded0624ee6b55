"""The picture behind --explain: it shows what was measured, and draws whatever it is given."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stablesig.explain import Explanation, explain, explanation_png
from stablesig.explain_panels import diverging, fit, heat_colour
from stablesig.local_evidence import LocalEvidence
from stablesig_detector.detection import detect
from stablesig_detector.whitening import load_default

from .conftest import direction_between, textured_image


@pytest.fixture(scope="module")
def shown() -> Explanation:
    picture = textured_image(1, 200, 300)
    key = direction_between(picture, textured_image(2, 200, 300, slope=0.5))
    [found] = detect(picture, [key])
    return explain("photo.png", picture, found, key.direction, "Key 0123", load_default())


def drawn(shown: Explanation) -> np.ndarray:
    with Image.open(io.BytesIO(explanation_png(shown))) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_frequency_by_frequency_the_product_adds_up_to_the_statistic(shown: Explanation) -> None:
    assert np.linalg.norm(shown.key_axes) == pytest.approx(1.0, abs=1e-5)
    assert np.linalg.norm(shown.image_axes) == pytest.approx(1.0)
    assert shown.image_axes @ shown.key_axes == pytest.approx(shown.found.statistic, abs=1e-5)


def test_what_it_shows_changes_with_the_evidence(shown: Explanation) -> None:
    sheet = drawn(shown)
    assert sheet.shape[1] == 1500
    nothing = replace(
        shown,
        local=replace(shown.local, log10_p=np.zeros_like(shown.local.log10_p)),
        key_axes=-shown.key_axes,
    )
    changed = (sheet != drawn(nothing)).any(axis=2)
    half = sheet.shape[0] // 2
    assert changed[:half, 500:1000].mean() > 0.05  # the heat map
    assert changed[half:, :1000].mean() > 0.05  # the frequency planes
    assert not changed[:half, :500].any()  # the image itself


@pytest.mark.parametrize("size", [(34, 34), (40, 3000), (900, 36)])
def test_images_of_any_shape_can_be_explained(size: tuple[int, int]) -> None:
    height, width = size
    picture = textured_image(3, height, width)
    key = direction_between(picture, textured_image(4, 64, 64))
    [found] = detect(picture, [key])
    drawn(explain("x" * 400 + ".png", picture, found, key.direction, "Key", load_default()))


def test_a_large_image_is_not_copied_to_be_drawn_small() -> None:
    large = np.broadcast_to(np.float32(99.6), (6000, 4000, 3))  # takes no memory itself
    tracemalloc.start()
    picture, _, _ = fit(large, (10, 20, 410, 320))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert picture.size == (200, 300)
    assert picture.getpixel((100, 150)) == (100, 100, 100)
    assert peak < 40e6


def test_an_image_without_content_is_no_evidence_and_no_error() -> None:
    flat = np.full((64, 64, 3), 255, np.uint8)
    key = direction_between(textured_image(3, 64, 64), textured_image(4, 64, 64))
    [found] = detect(flat, [key])
    shown = explain("white.png", flat, found, key.direction, "Key", load_default())
    assert not shown.local.detected.any()
    drawn(shown)


def test_a_statistic_that_nothing_could_reach_is_drawn(shown: Explanation) -> None:
    drawn(replace(shown, found=replace(shown.found, fpr=5e-324, n_keys=10**300)))


def test_scales_grow_lighter_with_evidence_and_part_the_signs() -> None:
    lightness = [sum(heat_colour(share)) for share in np.linspace(-0.1, 1.1, 25)]
    assert lightness == sorted(lightness)
    assert diverging(1.0)[2] > diverging(1.0)[0]
    assert diverging(-1.0)[0] > diverging(-1.0)[2]


def test_the_outline_parts_tiles_that_reach_the_threshold(shown: Explanation) -> None:
    log10_p = np.zeros((3, 3))
    log10_p[1, 1] = -9.0
    places = np.array([0, 50, 100], dtype=np.intp)
    local = LocalEvidence(places, places, 100, np.zeros((3, 3)), log10_p, 1e-6)
    with_outline = drawn(replace(shown, local=local))
    without = drawn(replace(shown, local=replace(local, fpr=1e-12)))
    white = (with_outline == 255).all(axis=2) & ~(without == 255).all(axis=2)
    assert white[:600, 500:1000].sum() > 100
