"""Luma alone: what leaves no doubt is read, everything else is left to those who read images."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from stablesig_detector.luma import read_luma
from stablesig_detector.reading import read_image

from .test_spectrum import textured


def saved(form: str = "JPEG", mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(textured(96, 128, seed)).convert(mode).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_it_is_the_luma_of_what_is_read_in_full(options: dict[str, Any]) -> None:
    data = saved(**options)
    luma = read_luma(data, "x")
    assert luma is not None
    assert (luma.shape, luma.dtype) == ((96, 128), np.uint8)
    expected = read_image(data).pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - expected).max() < 16  # clipped colours
    assert np.abs(luma - expected).mean() < 1


def test_a_grey_jpeg_is_its_own_luma() -> None:
    data = saved(mode="L")
    luma = read_luma(data, "x")
    assert luma is not None
    assert np.array_equal(luma, read_image(data).pixels[..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_stands_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(mode="L", exif=exif)
    luma = read_luma(data, "x")
    assert luma is not None
    assert np.array_equal(luma, read_image(data).pixels[..., 0])


def test_what_is_in_doubt_is_left_alone() -> None:
    whole = saved()
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert read_luma(saved("PNG"), "x") is None
    assert read_luma(saved(mode="CMYK"), "x") is None
    assert read_luma(whole[: len(whole) // 2], "x") is None
    assert read_luma(b"", "x") is None
    assert read_luma(b"\xff\xd8\xff" + bytes(100), "x") is None
    assert read_luma(saved(icc_profile=wide), "x") is not None  # foreign to the mode: left aside, as in full


def test_a_profile_that_changes_colours_is_left_alone() -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for text in (b"sRGB", "sRGB".encode("utf-16-be")):  # so that it does not call itself sRGB
        while (at := profile.find(text)) >= 0:
            profile[at : at + len(text)] = text.swapcase() if text != text.swapcase() else text[::-1]
    assert read_luma(saved(icc_profile=bytes(profile)), "x") is None
