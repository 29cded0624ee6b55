"""Colour profiles: colours come back as sRGB, and a profile that is no use does no harm."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from stablesig_detector import colour
from stablesig_detector.reading import LoadedImage, read_image

from . import profiles

pytestmark = pytest.mark.skipif(not features.check("littlecms2"), reason="this Pillow was built without it")


def _read(image: Image.Image, form: str, **options: Any) -> LoadedImage:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return read_image(buffer.getvalue())


def _level(loaded: LoadedImage) -> list[int]:
    return [int(value) for value in np.median(loaded.pixels, axis=(0, 1))]


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100, "subsampling": 0})],
)
def test_colours_are_converted_by_the_profile(form: str, options: dict[str, Any]) -> None:
    profile = profiles.red_and_green_changed_over()
    loaded = _read(Image.new("RGB", (16, 16), (255, 0, 0)), form, icc_profile=profile, **options)
    assert np.abs(np.subtract(_level(loaded), (0, 255, 0))).max() <= 2
    assert 'colours converted from "Wide built-in" to sRGB' in loaded.notes


def test_transparent_colours_and_palettes_are_converted_too() -> None:
    profile = profiles.red_and_green_changed_over()
    loaded = _read(Image.new("RGBA", (16, 16), (255, 0, 0, 51)), "PNG", icc_profile=profile)
    assert np.abs(np.subtract(_level(loaded), (204, 255, 204))).max() <= 2
    assert loaded.over_black is not None
    assert np.abs(np.subtract(loaded.over_black[0, 0], (0, 51, 0))).max() <= 2
    indexed = Image.new("RGB", (16, 16), (255, 0, 0)).quantize(4)
    assert np.abs(np.subtract(_level(_read(indexed, "PNG", icc_profile=profile)), (0, 255, 0))).max() <= 2


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_profile(form: str) -> None:
    cyan, red = (Image.new("CMYK", (16, 16), inks) for inks in ((255, 0, 0, 0), (0, 255, 255, 0)))
    plain = _level(_read(cyan, form))
    assert plain[0] < 10
    assert min(plain[1:]) > 245
    loaded = _read(cyan, form, icc_profile=profiles.grey_cyan())
    assert np.abs(np.subtract(_level(loaded), 119)).max() <= 4  # L* = 50
    assert 'colours converted from "Press" to sRGB' in loaded.notes
    assert (
        np.abs(np.subtract(_level(_read(red, form, icc_profile=profiles.grey_cyan())), (255, 0, 0))).max()
        < 12
    )


def test_an_srgb_profile_changes_nothing_and_starts_no_colour_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    def refuse(*_: object) -> None:
        raise AssertionError("the colour engine was started")

    monkeypatch.setattr(ImageCms, "buildTransform", refuse)
    loaded = _read(Image.new("RGB", (16, 16), (200, 100, 50)), "PNG", icc_profile=profile)
    assert (_level(loaded), loaded.notes) == ([200, 100, 50], ())


@pytest.mark.parametrize(
    ("profile", "note"),
    [
        (b"not a profile", "damaged colour profile left aside"),
        (profiles.red_and_green_changed_over()[:300], "damaged colour profile left aside"),
        (profiles.grey_cyan(), "colour profile left aside: it is not for RGB samples"),
    ],
)
def test_a_profile_that_is_no_use_is_left_aside(profile: bytes, note: str) -> None:
    loaded = _read(Image.new("RGB", (16, 16), (200, 100, 50)), "PNG", icc_profile=profile)
    assert (_level(loaded), loaded.notes) == ([200, 100, 50], (note,))


def test_a_huge_profile_is_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour, "_MAX_PROFILE", 500)
    profile = profiles.red_and_green_changed_over()
    loaded = _read(Image.new("RGB", (16, 16), (200, 100, 50)), "PNG", icc_profile=profile)
    assert _level(loaded) == [200, 100, 50]
    assert loaded.notes == (f"colour profile of {len(profile)} bytes left aside",)


def test_lab_is_converted() -> None:
    lab = Image.merge("LAB", [Image.new("L", (16, 16), value) for value in (128, 128, 128)])
    loaded = _read(lab, "TIFF")
    assert np.ptp(_level(loaded)) <= 3
    assert abs(_level(loaded)[0] - 119) <= 3
