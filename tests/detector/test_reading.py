"""Reading whatever people send: what is said about it, and what hostile files cost."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from stablesig_detector import bounds, decoding, image
from stablesig_detector.bounds import MAX_DECODED_BYTES, MAX_EXIF_PARTS, MAX_SCANS
from stablesig_detector.errors import ImageError
from stablesig_detector.image import load_image
from stablesig_detector.reading import LoadedImage, read_image

HEIGHT, WIDTH = 24, 40
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _file(picture: Image.Image | np.ndarray, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, form, **options)
    return buffer.getvalue()


def _refused(source: Any, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert ";" in text, "nothing that the user could do"
    return text


# What is said.


def test_the_pixels_are_those_of_load_image_and_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_file(NOISE, "PNG"))
    loaded = read_image(path)
    np.testing.assert_array_equal(loaded.pixels, load_image(path))
    assert (loaded.format, loaded.notes, loaded.over_black) == ("PNG", (), None)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.bytes == path.stat().st_size


def test_what_is_no_file_has_no_hash() -> None:
    for source in (NOISE, Image.fromarray(NOISE)):
        loaded = read_image(source)
        np.testing.assert_array_equal(loaded.pixels, NOISE)
        assert (loaded.sha256, loaded.bytes, loaded.format) == ("", 0, "")


def test_a_wrong_extension_is_noted_and_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "photo.JPG"
    path.write_bytes(_file(NOISE, "PNG"))
    loaded = read_image(path)
    assert (loaded.format, loaded.notes) == ("PNG", ("a PNG file in spite of its name",))
    np.testing.assert_array_equal(loaded.pixels, NOISE)
    path = path.with_suffix(".jpeg")
    path.write_bytes(_file(NOISE, "JPEG"))
    assert read_image(path).notes == ()


@pytest.mark.parametrize(
    ("form", "options", "note"),
    [
        ("GIF", {}, "first of 3 frames"),
        ("PNG", {}, "first of 3 frames"),
        ("WEBP", {"lossless": True}, "first of 3 frames"),
        ("TIFF", {}, "first of several pages"),
        ("MPO", {}, "main one of 3 pictures"),
        ("AVIF", {}, "first of 3 frames"),
    ],
)
def test_of_several_frames_the_first_is_read_and_that_is_said(
    form: str, options: dict[str, Any], note: str
) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    colours = ((255, 0, 0), (0, 0, 255), (0, 255, 0))
    red, *others = (Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in colours)
    loaded = read_image(_file(red, form, save_all=True, append_images=others, **options))
    assert loaded.notes == (note,)
    assert loaded.format == ("JPEG" if form == "MPO" else form)
    assert np.abs(loaded.pixels[5, 5].astype(int) - (255, 0, 0)).max() <= 4


def test_an_apng_whose_first_picture_is_no_frame_shows_that_picture() -> None:
    # Viewers that do not animate show the default image; so do previews, and so does the detector.
    red, blue = (Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    loaded = read_image(_file(red, "PNG", save_all=True, default_image=True, append_images=[blue, red]))
    assert loaded.pixels[5, 5].tolist() == [255, 0, 0]


def _png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_16_bit_colour_is_said_to_be_reduced() -> None:
    rows = b"".join(b"\0" + (row.astype(np.uint16) * 257).astype(">u2").tobytes() for row in NOISE)
    png = read_image(_png(WIDTH, HEIGHT, 16, 2, zlib.compress(rows)))
    ppm = read_image(
        b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + (NOISE.astype(np.uint16) * 257).astype(">u2").tobytes()
    )
    for loaded in (png, ppm):
        assert loaded.notes == ("16-bit colour reduced to 8 bits",)
        np.testing.assert_array_equal(loaded.pixels, NOISE)
    grey = read_image(_file(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), "PNG"))
    assert grey.notes == ()  # which loses nothing
    assert grey.pixels.dtype == np.float32


# Transparency.


def _transparent(alpha: np.ndarray) -> LoadedImage:
    return read_image(_file(np.dstack([NOISE, alpha]), "PNG"))


def test_transparency_is_laid_over_white_and_over_black() -> None:
    alpha = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    loaded = _transparent(alpha)
    assert loaded.notes == ("partly transparent: laid over white, and over black",)
    assert loaded.over_black is not None
    share = alpha[..., None] / 255
    assert np.abs(loaded.over_black - NOISE * share).max() <= 1
    assert np.abs(loaded.pixels - (NOISE * share + 255 * (1 - share))).max() <= 1


def test_an_alpha_channel_that_hides_nothing_makes_no_difference() -> None:
    loaded = _transparent(np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert (loaded.over_black, loaded.notes) == (None, ())
    np.testing.assert_array_equal(loaded.pixels, NOISE)


def test_one_transparent_pixel_in_the_last_strip_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 3 * WIDTH)
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[-1, -1] = 0
    loaded = _transparent(alpha)
    assert loaded.over_black is not None
    np.testing.assert_array_equal(loaded.over_black[:-1], NOISE[:-1])
    assert (loaded.over_black[-1, -1].tolist(), loaded.pixels[-1, -1].tolist()) == ([0] * 3, [255] * 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_composites_stand_upright_whatever_the_strips(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _file(np.dstack([NOISE, NOISE[..., 0]]), "PNG", exif=exif)
    whole = read_image(data)
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 5 * WIDTH)
    loaded = read_image(data)
    assert loaded.over_black is not None
    assert whole.over_black is not None
    np.testing.assert_array_equal(loaded.pixels, whole.pixels)
    np.testing.assert_array_equal(loaded.over_black, whole.over_black)
    assert loaded.pixels.shape == ((WIDTH, HEIGHT, 3) if orientation >= 5 else (HEIGHT, WIDTH, 3))
    assert all(array.flags.c_contiguous for array in (loaded.pixels, loaded.over_black))


def test_a_transparent_palette_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    indexed = Image.fromarray(NOISE).quantize(16)
    data = _file(indexed, "PNG", transparency=bytes([0, 100]))
    whole = read_image(data)
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 5 * WIDTH)
    strips = read_image(data)
    assert strips.over_black is not None
    np.testing.assert_array_equal(strips.pixels, whole.pixels)
    np.testing.assert_array_equal(strips.over_black, whole.over_black)


# HEIC.


def test_heic() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    y, x = np.mgrid[0:64, 0:64]
    smooth = np.dstack([x, y, np.full((64, 64), 90)]).astype(np.uint8)
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(smooth)))
    turned.getexif()[0x0112] = 6  # which becomes a turn of the container's own
    loaded = read_image(_file(turned, "HEIF", quality=95))
    assert loaded.format == "HEIF"
    assert np.abs(loaded.pixels.astype(int) - smooth).mean() < 4  # turned upright, and once
    rgba = np.dstack([smooth, np.full((64, 64), 128, np.uint8)])
    over_black = read_image(_file(rgba, "HEIF", quality=95)).over_black
    assert over_black is not None
    assert np.abs(over_black - smooth * 0.5).mean() < 4
    data = _file(Image.fromarray(smooth), "HEIF", quality=95)
    assert "is truncated or corrupt" in _refused(data[:-20])
    assert "is damaged, or HEIF of a kind that is not read" in _refused(data[:100])


# Hostile files.


@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 12_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("colour_type", [0, 2, 6])
def test_headers_that_promise_too_much_are_refused_undecoded(
    size: tuple[int, int], colour_type: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image.Image, "load", never)
    assert "pixels" in _refused(_png(*size, 8, colour_type, b""))


def _promises(form: str, width: int, height: int) -> bytes:
    """A small file of `form` whose header says that it is width x height px."""
    data = bytearray(_file(Image.new("RGB", (64, 64)), form))
    if form == "BMP":
        struct.pack_into("<ii", data, 18, width, height)
    elif form == "GIF":
        struct.pack_into("<HH", data, 6, width, height)
    elif form == "JPEG":
        at = data.index(b"\xff\xc0")
        struct.pack_into(">HH", data, at + 5, height, width)
    elif form == "WEBP":
        struct.pack_into("<HH", data, 26, width & 0x3FFF, height & 0x3FFF)
    elif form == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + bytes(100)
    else:
        for tag, value in ((256, width), (257, height)):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in data else -1
            kind = 4 if at >= 0 else 3
            at = data.index(struct.pack("<HHI", tag, kind, 1))
            struct.pack_into("<HHII", data, at, tag, 4, 1, value)
    return bytes(data)


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "WEBP", "PPM", "TIFF"])
def test_a_header_of_50_000_by_50_000_px_is_refused_in_every_format(form: str) -> None:
    side = 16_383 if form == "WEBP" else 50_000  # all that WebP can say
    assert "pixels" in _refused(_promises(form, side, side))


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_a_line_of_100_000_px_is_read(size: tuple[int, int]) -> None:
    loaded = read_image(_file(Image.new("RGB", size, (1, 2, 3)), "PNG"))
    assert loaded.pixels.shape == (size[1], size[0], 3)
    assert (loaded.pixels == (1, 2, 3)).all()


def test_the_bound_on_memory_counts_the_file_and_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, clear = Image.fromarray(NOISE), Image.fromarray(np.dstack([NOISE, NOISE[..., 0]]))
    grey = Image.fromarray(NOISE[..., 0].astype(np.uint16))
    for picture, form, options, cost in [
        (plain, "PNG", {}, 7),
        (clear, "PNG", {}, 10),
        (grey, "PNG", {}, 14),
        (plain, "JPEG", {}, 7),
        (plain, "JPEG", {"progressive": True, "subsampling": "4:2:0"}, 7),
        (plain, "JPEG", {"progressive": True, "subsampling": "4:4:4"}, 10),
        (plain.convert("CMYK"), "JPEG", {"progressive": True}, 12),
        (plain, "WEBP", {}, 16),
    ]:
        data = _file(picture, form, **options)
        needed = len(data) + cost * HEIGHT * WIDTH
        monkeypatch.setattr(bounds, "MAX_DECODED_BYTES", needed)
        read_image(data)
        monkeypatch.setattr(bounds, "MAX_DECODED_BYTES", needed - 1)
        assert f"40 x 24 px of this kind ({form}) is more than the 959 pixels that fit" in _refused(data)


def test_a_gigabyte_is_enough() -> None:
    # Python with NumPy and Pillow takes 45 MB, the rest of the detector's imports about as much again.
    assert MAX_DECODED_BYTES + 100_000_000 < 1_000_000_000


def test_files_are_read_up_to_a_bound_also_where_they_never_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(image, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "a.png"
    path.write_bytes(bytes(1001))
    assert _refused(path) == f"{path}: is more than 1,000 bytes; make it smaller"
    assert _refused(bytes(1001)) == "image of 1,001 bytes: is more than 1,000 bytes; make it smaller"
    if Path("/dev/zero").exists():
        assert "is more than 1,000 bytes" in _refused("/dev/zero")


def test_a_jpeg_of_thousands_of_scans_or_parts_is_refused() -> None:
    data = _file(NOISE, "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    assert read_image(data).format == "JPEG"
    text = _refused(data[:-2] + data[start:-2] * 2000 + data[-2:])
    assert f"scans, and up to {MAX_SCANS} are read" in text
    part = b"\xff\xe1\0\x0aExif\0\0xx"
    assert "parts of EXIF data or XMP; save it without them" in _refused(
        data[:2] + part * (MAX_EXIF_PARTS + 1) + data[2:]
    )


def test_what_pillow_decodes_in_python_is_bounded_more_tightly(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = b"P1 100 100\n" + b"1#\n" * 10_000
    assert "is a PPM in digits with more than 100 comments; save it as PNG" in _refused(digits)
    assert read_image(b"P1 # one\n2 1\n1 # two\n0").pixels[0, :, 0].tolist() == [0, 255]
    monkeypatch.setattr(bounds, "MAX_SLOW_BYTES", 500)
    assert "is a PPM in digits of more than 500 bytes" in _refused(b"P2 9 99 255 " + b"1 " * 891)
    runs = bytearray(_file(Image.fromarray(NOISE).quantize(), "BMP"))
    runs[30] = 1
    assert "is a run-length BMP of more than 500 bytes" in _refused(bytes(runs))


def test_a_png_whose_text_unpacks_to_a_gigabyte_is_refused() -> None:
    bomb = zlib.compress(bytes(1 << 24), 9)
    data = _file(NOISE, "PNG")
    body = b"zTXt" + b"Comment\0\0" + bomb
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    assert "is truncated or corrupt" in _refused(data[:33] + chunk * 64 + data[33:])


def test_a_png_that_unpacks_to_more_than_its_pixels_stops_at_them() -> None:
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in NOISE) + bytes(1 << 24), 9)
    np.testing.assert_array_equal(read_image(_png(WIDTH, HEIGHT, 8, 2, rows)).pixels, NOISE)


@pytest.mark.parametrize("other", [b"PK\x03\x04", b"<script>alert(1)</script>", b"%PDF-1.7", b"\x7fELF"])
def test_a_polyglot_is_what_its_first_bytes_say(other: bytes) -> None:
    for form in ("PNG", "GIF", "JPEG", "WEBP", "BMP"):
        data = _file(NOISE, form)
        loaded = read_image(data + other * 100)
        np.testing.assert_array_equal(loaded.pixels, load_image(data))
        assert loaded.sha256 == hashlib.sha256(data + other * 100).hexdigest()
        assert "is a" in _refused(other + data) or "is not an image" in _refused(other + data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.5, 1e300])
def test_floating_point_samples_are_refused_whatever_they_are(value: float) -> None:
    with np.errstate(over="ignore"):
        samples = np.full((HEIGHT, WIDTH), value).astype(np.float32)
    text = _refused(_file(Image.fromarray(samples), "TIFF"))
    assert "floating-point samples have no fixed range" in text


def test_a_tiff_whose_pages_lead_back_to_the_first_is_read() -> None:
    data = bytearray(_file(NOISE, "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * entries, start)
    np.testing.assert_array_equal(read_image(bytes(data)).pixels, NOISE)


def test_messages_name_what_the_caller_calls_it() -> None:
    assert _refused(b"hello", name="standard input").startswith("standard input: is not an image")
    assert _refused(Path("none.png"), name="x").startswith("none.png: no such file")


FORMS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    cut=st.floats(0, 1),
    insert=st.binary(max_size=40),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
)
def test_mutated_files_give_an_image_or_an_image_error(
    form: str, cut: float, insert: bytes, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(_file(NOISE, form))
    for at, value in flips:
        data[int(at * len(data))] = value
    place = int(cut * len(data))
    data[place:place] = insert
    try:
        loaded = read_image(bytes(data))
    except ImageError:
        return  # any other exception fails the test
    assert loaded.pixels.ndim == 3
    assert loaded.pixels.shape[2] == 3
