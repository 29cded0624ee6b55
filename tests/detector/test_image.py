"""Images: every kind of file comes back as the RGB that it shows, and what is no image is refused."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from stablesig_detector import image as image_module
from stablesig_detector.errors import ImageError
from stablesig_detector.image import IMAGE_SUFFIXES, image_files, load_image

HEIGHT, WIDTH = 24, 40


def _picture() -> np.ndarray:
    """(24, 40, 3) uint8, smooth, every channel and every corner different."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = [60 + 4 * x, 40 + 8 * y, 220 - 2 * x - 3 * y]
    return np.stack(channels, axis=2).astype(np.uint8)


def _file(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# What comes back.


@pytest.mark.parametrize(
    ("form", "options", "error"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
        ("WEBP", {"quality": 95}, 24),
        ("GIF", {}, 40),  # 256 colours
    ],
)
def test_formats(form: str, options: dict[str, Any], error: int, tmp_path: Path) -> None:
    data = _file(Image.fromarray(_picture()), form, **options)
    path = tmp_path / "without_extension"
    path.write_bytes(data)
    for source in (data, path, str(path), Image.open(io.BytesIO(data))):
        pixels = load_image(source)
        assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
        assert np.abs(pixels.astype(int) - _picture()).max() <= error


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif() -> None:
    pixels = load_image(_file(Image.fromarray(_picture()), "AVIF", quality=95))
    assert np.abs(pixels.astype(int) - _picture()).mean() < 4


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_grey_becomes_three_equal_channels(form: str) -> None:
    grey = _picture()[:, :, 0]
    options = {"quality": 100} if form == "JPEG" else {}
    pixels = load_image(_file(Image.fromarray(grey), form, **options))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.ptp(pixels, axis=2).max() == 0
    assert np.abs(pixels[:, :, 0].astype(int) - grey).max() <= 2


def test_black_and_white_uses_the_whole_range() -> None:
    bits = _picture()[:, :, 0] > 120
    pixels = load_image(_file(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(pixels[:, :, 1], 255 * bits)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "GIF"])
def test_a_palette_is_looked_up(form: str) -> None:
    indexed = Image.fromarray(_picture()).quantize(64)
    np.testing.assert_array_equal(load_image(_file(indexed, form)), np.asarray(indexed.convert("RGB")))


def _half_transparent() -> np.ndarray:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, : WIDTH // 4] = 0
    alpha[:, WIDTH // 4 : WIDTH // 2] = 51  # a fifth
    return alpha


def _expected_over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha / 255.0
    return colour * weight + 255.0 * (1.0 - weight)


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_alpha_is_laid_over_white(form: str, options: dict[str, Any]) -> None:
    rgba = np.concatenate([_picture(), _half_transparent()], axis=2)
    pixels = load_image(_file(Image.fromarray(rgba), form, **options))
    assert np.abs(pixels - _expected_over_white(_picture(), _half_transparent())).max() <= 1
    assert (pixels[:, 0] == 255).all()


def test_grey_with_alpha_is_laid_over_white() -> None:
    grey = np.concatenate([_picture()[:, :, :1], _half_transparent()], axis=2)
    pixels = load_image(_file(Image.fromarray(grey), "PNG"))
    assert np.abs(pixels - _expected_over_white(_picture()[:, :, :1], _half_transparent())).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_shows_white(form: str) -> None:
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[:, WIDTH // 2 :] = 1
    indexed = Image.fromarray(indices).convert("P")
    indexed.putpalette([10, 20, 30, 200, 100, 50])
    pixels = load_image(_file(indexed, form, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, -1].tolist() == [200, 100, 50]


def test_a_transparent_colour_of_png_shows_white() -> None:
    picture = _picture()
    picture[:, :8] = (1, 2, 3)
    pixels = load_image(_file(Image.fromarray(picture), "PNG", transparency=(1, 2, 3)))
    assert (pixels[:, :8] == 255).all()
    np.testing.assert_array_equal(pixels[:, 8:], picture[:, 8:])


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(form: str) -> None:
    cmyk = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0))  # no cyan, no black: red
    pixels = load_image(_file(cmyk, form))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.reshape(-1, 3).mean(axis=0) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(form: str) -> None:
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    pixels = load_image(_file(Image.fromarray(deep), form))
    assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 3), np.float32)
    np.testing.assert_allclose(pixels[:, :, 2], deep / 257.0, atol=1e-4)
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0.0, 255.0)


def _png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG that Pillow cannot write itself."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6), (2, 4)])
def test_16_bit_colour_keeps_its_upper_byte(channels: int, colour_type: int) -> None:
    picture = _picture()
    parts = {3: picture, 4: np.dstack([picture, np.full((HEIGHT, WIDTH), 255)]), 2: picture[:, :, :2].copy()}[
        channels
    ]
    if channels == 2:
        parts[:, :, 1] = 255
    deep = (parts.astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    pixels = load_image(_png(WIDTH, HEIGHT, 16, colour_type, rows))
    expected = np.repeat(picture[:, :, :1], 3, axis=2) if channels == 2 else picture
    np.testing.assert_array_equal(pixels, expected)


def _tiff_12_bit(samples: np.ndarray) -> bytes:
    """An uncompressed little-endian 12-bit grey TIFF, which Pillow reads and cannot write."""
    height, width = samples.shape
    pairs = samples.reshape(-1, 2).astype(int)
    body = bytes(byte for a, b in pairs for byte in (a >> 4, (a & 15) << 4 | b >> 8, b & 255))
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1)]
    tags += [(278, height), (279, len(body))]
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + body


def test_12_bit_tiff_is_scaled_by_its_own_range() -> None:
    samples = np.linspace(0, 4095, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    pixels = load_image(_tiff_12_bit(samples))
    np.testing.assert_allclose(pixels[:, :, 0], samples * (255 / 4095), atol=1e-4)


STORED = {  # EXIF orientation -> how a camera that notes it stores the upright picture
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),  # shown after a clockwise quarter turn
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation_is_carried_out_once(form: str, orientation: int) -> None:
    stored = np.ascontiguousarray(STORED[orientation](_picture()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(form, {})
    data = _file(Image.fromarray(stored), form, exif=exif, **options)
    for source in (data, Image.open(io.BytesIO(data))):
        pixels = load_image(source)
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(pixels.astype(int) - _picture()).max() <= (8 if form == "JPEG" else 0)


def test_exif_orientation_of_16_bit_grey() -> None:
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = load_image(_file(Image.fromarray(np.ascontiguousarray(np.rot90(deep))), "PNG", exif=exif))
    np.testing.assert_allclose(pixels[:, :, 0] * 257, deep, atol=0.01)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0"]
)
def test_a_damaged_exif_block_does_not_matter(exif: bytes) -> None:
    pixels = load_image(_file(Image.fromarray(_picture()), "JPEG", quality=95, subsampling=0, exif=exif))
    assert np.abs(pixels.astype(int) - _picture()).max() <= 6


@pytest.mark.parametrize(
    ("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})]
)
def test_the_first_frame_counts(form: str, options: dict[str, Any]) -> None:
    red, blue = (Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    pixels = load_image(_file(red, form, save_all=True, append_images=[blue], **options))
    assert pixels[5, 5].tolist() == [255, 0, 0]


def test_an_array_is_passed_through() -> None:
    picture = _picture()
    assert load_image(picture) is picture
    floating = picture.astype(np.float32)
    assert load_image(floating) is floating


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(_file(Image.fromarray(_picture()), "PNG"),))
    writer.start()
    np.testing.assert_array_equal(load_image(path), _picture())
    writer.join()


# What is refused.


def _refused(source: Any) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((8, 8), np.uint8), r"got shape (8, 8)"),
        (np.zeros((3, 8, 8), np.uint8), r"got shape (3, 8, 8)"),
        (np.zeros((0, 8, 3), np.uint8), r"got shape (0, 8, 3)"),
        (np.zeros((8, 8, 3)), "got float64"),
        (np.full((8, 8, 3), 300, np.float32), "got 300..300"),
        (np.full((8, 8, 3), np.nan, np.float32), "got nan..nan"),
    ],
)
def test_arrays_of_another_layout(array: np.ndarray, problem: str) -> None:
    assert problem in _refused(array)


def test_paths_without_an_image(tmp_path: Path) -> None:
    assert _refused(tmp_path / "no.png") == f"{tmp_path / 'no.png'}: no such file; check the path"
    assert _refused(str(tmp_path)).startswith(f"{tmp_path}: is a folder")
    assert "not a valid path" in _refused("a\0b")
    assert "pass a path" in _refused(12)


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"hello, world, this is not an image at all", b"\0" * 4096]
)
def test_what_is_no_image(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    assert _refused(path).startswith(f"{path}: is ")
    assert _refused(content).startswith(f"image of {len(content):,} bytes: is ")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_truncated_files(form: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = _file(Image.fromarray(noise), form)
    path = tmp_path / f"photo.{form.lower()}"
    for kept in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(kept * len(data))])
        assert _refused(path).startswith(f"{path}: is ")


def test_a_truncated_image_that_is_open_already() -> None:
    data = _file(Image.fromarray(_picture()), "PNG")
    opened = Image.open(io.BytesIO(data[: len(data) // 2]))
    assert "RGB image of 40 x 24 px: is truncated or corrupt" in _refused(opened)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_corrupt_bytes_give_an_image_or_an_image_error(form: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(_file(Image.fromarray(_picture()), form))
    for at, value in flips:
        data[int(at * len(data))] = value
    try:
        pixels = load_image(bytes(data))
    except ImageError:
        return  # any other exception fails the test
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def test_decompression_bombs_are_refused_before_they_are_decoded() -> None:
    # 60,000 x 60,000 px would take 10 GB; Pillow itself refuses this one, and only warns of the next.
    huge = _png(60_000, 60_000, 8, 2, b"")
    assert "more than 134,217,728 pixels; make it smaller" in _refused(huge)
    large = _png(13_000, 13_000, 8, 0, b"")
    assert "13000 x 13000 px is more than 134,217,728 pixels" in _refused(large)


def test_an_image_below_the_limit_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow would warn from 500 pixels on; this project's tests turn warnings into errors.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert load_image(_file(Image.fromarray(_picture()), "PNG")).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_samples_without_a_fixed_range(kind: type) -> None:
    samples = np.linspace(0, 1e6, HEIGHT * WIDTH).astype(kind).reshape(HEIGHT, WIDTH)
    assert "no fixed range; save it with 8 or 16 bits" in _refused(_file(Image.fromarray(samples), "TIFF"))


def test_formats_with_an_interpreter_are_never_opened() -> None:
    assert "EPS" not in image_module.FORMATS
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 24\n%%EndComments\nshowpage\n"
    assert "is a PostScript program" in _refused(postscript)


def test_a_folder_is_searched_by_suffix_in_order(tmp_path: Path) -> None:
    names = [f"a{suffix}" for suffix in sorted(IMAGE_SUFFIXES)] + ["B.PNG"]
    for name in [*names, "notes.txt", "png"]:
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == sorted(names)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (PermissionError(13, "Permission denied"), "x cannot be read: Permission denied; check"),
        (FileNotFoundError(2, "No such file"), "x is not a folder"),
        (NotADirectoryError(20, "Not a directory"), "x is not a folder"),
    ],
    ids=repr,
)
def test_a_folder_that_cannot_be_read_is_an_image_error(
    error: OSError, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise error

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ImageError, match=problem):
        image_files(Path("x"))
