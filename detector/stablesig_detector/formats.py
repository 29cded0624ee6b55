"""What a file is, judged by its first bytes and never by its name, and which reader of Pillow may open it.

Only the reader that the first bytes call for is ever started. Formats with an interpreter behind them (EPS,
PDF) are not among them: a platform scans files that strangers upload.
"""

from __future__ import annotations

import importlib
from functools import cache

from .errors import ImageError

# Format -> the module of Pillow that reads it. AVIF: from Pillow 11.3 on; HEIF: see `register`.
_READERS = {
    "PNG": "PngImagePlugin",
    "JPEG": "JpegImagePlugin",
    "WEBP": "WebPImagePlugin",
    "TIFF": "TiffImagePlugin",
    "BMP": "BmpImagePlugin",
    "GIF": "GifImagePlugin",
    "AVIF": "AvifImagePlugin",
    "PPM": "PpmImagePlugin",
    "HEIF": "",
}
FORMATS = tuple(_READERS)
SUFFIXES = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".ppm": "PPM",
}

_PREFIXES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
    b"BM": "BMP",
}
# Files that people take for images, to say what is the matter with them.
_OTHERS = {
    b"%PDF": "a PDF document; export the picture from it",
    b"%!PS": "a PostScript program; export it as PNG",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"8BPS": "a Photoshop document; export it as PNG",
    b"\xff\x0a": "a JPEG XL image, which is not read; convert it to PNG",
    b"\0\0\0\x0cJXL ": "a JPEG XL image, which is not read; convert it to PNG",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image, which is not read; convert it to PNG",
    b"<svg": "an SVG drawing, which has no pixels; render it to PNG",
    b"<?xml": "an XML text, perhaps an SVG drawing; render it to PNG",
    b"<!doctype html": "a web page; save the picture itself",
    b"<html": "a web page; save the picture itself",
}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_CONTAINER_BRANDS = frozenset({b"mif1", b"msf1"})  # HEIF or AVIF; the compatible brands say which


def format_of(data: bytes, name: str) -> str:
    """Which of FORMATS the bytes begin like. Raises ImageError, saying what else they begin like."""
    if not data:
        raise ImageError(f"{name}: is empty; use an intact copy of it")
    for prefix, form in _PREFIXES.items():
        if data.startswith(prefix):
            return form
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3] in b" \t\r\n#":
        return "PPM"
    if data[4:8] == b"ftyp":
        still = _isobmff_format(data)
        if still:
            return still
        raise ImageError(f"{name}: is a film or an unknown container; use a still picture from it")
    start = data[:64].lstrip().lower()
    for prefix, what in _OTHERS.items():
        if data.startswith(prefix) or start.startswith(prefix):
            raise ImageError(f"{name}: is {what}")
    raise ImageError(
        f"{name}: is not an image, or is damaged at its start; use an intact {', '.join(FORMATS)} file"
    )


def _isobmff_format(data: bytes) -> str | None:
    """AVIF or HEIF by the brands of an `ftyp` box (ISO/IEC 14496-12, 4.3); None for films and others."""
    size = min(int.from_bytes(data[:4], "big"), 256, len(data))
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))]
    for brand in brands:  # the first that decides: the major brand, then the order of preference
        if brand in _AVIF_BRANDS:
            return "AVIF"
        if brand in _HEIF_BRANDS:
            return "HEIF"
    return "HEIF" if _CONTAINER_BRANDS.intersection(brands) else None


@cache
def register(form: str) -> str | None:
    """Make Pillow's reader of one of FORMATS ready; None, or why there is none and what to do.

    Imports the one module that is needed, in place of all that Pillow has (20 ms). HEIF is read by
    pillow-heif, the extra `heif`.
    """
    from PIL import Image

    if form == "HEIF":
        try:
            pillow_heif = importlib.import_module("pillow_heif")
        except ImportError:
            return 'is a HEIC image; pip install "stablesig[heif]", or convert it to PNG'
        pillow_heif.register_heif_opener(thumbnails=False)
        return None if "HEIF" in Image.OPEN else "is a HEIC image, which this pillow-heif cannot read"
    try:
        importlib.import_module(f"PIL.{_READERS[form]}")
    except ImportError:
        return f"is {form}, which this Pillow cannot read; install a newer Pillow, or convert it to PNG"
    if form in Image.OPEN:
        return None
    return f"is {form}, which this Pillow was built without; convert it to PNG"


def gif_frames(data: bytes) -> int:
    """How many pictures a GIF holds, walking its blocks; as far as they are intact.

    Pillow's own count composes every frame, for minutes in a file that was made to. GIF89a, appendix A.
    """
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    frames = 0
    while at < len(data):
        if data[at] == 0x2C and at + 9 < len(data):  # image descriptor, colour table, code size
            frames += 1
            packed = data[at + 9]
            at += 11 + (3 << (packed & 7) + 1 if packed & 0x80 else 0)
        elif data[at] == 0x21:  # extension: a label, then sub-blocks as well
            at += 2
        else:
            break
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    return frames
