"""Formats: told apart by the first bytes, and what is no image is called by its name."""

from __future__ import annotations

import importlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stablesig_detector import formats
from stablesig_detector.errors import ImageError
from stablesig_detector.formats import FORMATS, SUFFIXES, format_of, gif_frames, register


def test_suffixes_are_of_known_formats() -> None:
    assert set(SUFFIXES.values()) == set(FORMATS)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


@pytest.mark.parametrize(
    ("start", "form"),
    [
        (b"\x89PNG\r\n\x1a\n....", "PNG"),
        (b"\xff\xd8\xff\xe0....", "JPEG"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WEBP"),
        (b"II*\0....", "TIFF"),
        (b"MM\0*....", "TIFF"),
        (b"II+\0....", "TIFF"),
        (b"BM....", "BMP"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"P6\n4 4\n255\n", "PPM"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0mif1", "HEIF"),
    ],
)
def test_the_first_bytes_decide(start: bytes, form: str) -> None:
    assert format_of(start, "x") == form


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"", "x: is empty"),
        (b"%PDF-1.7\n\xff\xd8\xff", "x: is a PDF document"),
        (b"PK\x03\x04\x89PNG", "x: is a ZIP archive"),
        (b"  <!DOCTYPE HTML><title>", "x: is a web page"),
        (b"<svg xmlns=", "x: is an SVG drawing"),
        (b"\0\0\0\x20ftypisom\0\0\0\0isomiso2avc1mp41", "x: is a film"),
        (b"\xff\x0a\0\0", "x: is a JPEG XL image"),
        (b"RIFF\x10\0\0\0AVI LIST", "x: is not an image"),
        (b"P7\nWIDTH 4\n", "x: is not an image"),
    ],
)
def test_other_files_are_called_by_their_names(start: bytes, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        format_of(start, "x")
    assert str(caught.value).startswith(said)
    assert ";" in str(caught.value), "nothing that the user could do"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_format_or_an_image_error(data: bytes) -> None:
    try:
        form = format_of(data, "x")
    except ImageError:
        return  # any other exception fails the test
    assert form in FORMATS


def _gif(frames: int, **options: Any) -> bytes:
    pictures = [Image.new("P", (9, 7), number) for number in range(frames)]
    for picture in pictures:
        picture.putpalette(bytes(range(256)) * 3)
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], optimize=False, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("frames", [1, 2, 12])
def test_frames_of_a_gif_are_counted(frames: int) -> None:
    assert gif_frames(_gif(frames, duration=40, loop=0, comment=b"x" * 700)) == frames


def test_frames_of_a_broken_gif_are_counted_as_far_as_it_goes() -> None:
    data = _gif(12, duration=40)
    assert 1 <= gif_frames(data[: len(data) // 2]) < 12
    assert gif_frames(b"GIF89a") == 0


def test_a_reader_that_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    register.cache_clear()
    monkeypatch.setattr(importlib, "import_module", refuse)
    try:
        assert 'pip install "stablesig[heif]"' in str(formats.register("HEIF"))
        assert "install a newer Pillow" in str(formats.register("AVIF"))
    finally:
        register.cache_clear()
