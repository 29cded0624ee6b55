"""Intact image files of every format that is read, in their variants: what `fuzz_reading.py` damages."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 97, 61  # px; odd, so that blocks and tiles are cut at the edges


def picture(mode: str = "RGB") -> Image.Image:
    """Smooth with some noise, so that every part of an encoder has something to do."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    bands = [2.3 * x, 3.9 * y, 255 - 1.2 * x - y, 40 + 2 * ((x - 40) ** 2 + (y - 30) ** 2) ** 0.5]
    noisy = np.clip(np.stack(bands, axis=2) + rng.normal(0, 9, (HEIGHT, WIDTH, 4)), 0, 255).astype(np.uint8)
    rgba = Image.fromarray(noisy)
    if mode == "I;16":
        return Image.fromarray(noisy[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(noisy[..., 0].astype(np.float32) / 255)
    if mode == "P":
        return rgba.convert("RGB").quantize(32)
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def _saved(mode: str, form: str, **options: Any) -> Callable[[], bytes]:
    def save() -> bytes:
        if options.pop("metadata", False):
            exif = Image.Exif()
            exif[0x0112], exif[0x010E] = 6, "a description"
            options["exif"] = exif
            options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        if options.get("save_all"):
            options["append_images"] = [picture(mode).rotate(180), picture(mode)]
        buffer = io.BytesIO()
        picture(mode).save(buffer, form, **options)
        return buffer.getvalue()

    return save


def _deep_png() -> bytes:
    """16-bit colour, interlaced by none, which Pillow cannot write."""
    rows = np.asarray(picture("RGBA")).astype(">u2") * 257
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 6, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in chunks)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _plain_ppm() -> bytes:
    levels = " ".join(str(value) for value in np.asarray(picture("L")).ravel())
    return f"P2 # plain\n{WIDTH} {HEIGHT}\n255\n{levels}\n".encode()


CORPUS: dict[str, Callable[[], bytes]] = {
    "png": _saved("RGB", "PNG"),
    "png-metadata": _saved("RGB", "PNG", metadata=True),
    "png-rgba": _saved("RGBA", "PNG"),
    "png-palette": _saved("P", "PNG", transparency=bytes([0, 90, 255])),
    "png-grey-16": _saved("I;16", "PNG"),
    "png-bits": _saved("1", "PNG"),
    "png-colour-16": _deep_png,
    "apng": _saved("RGB", "PNG", save_all=True),
    "jpeg": _saved("RGB", "JPEG"),
    "jpeg-metadata": _saved("RGB", "JPEG", metadata=True),
    "jpeg-progressive": _saved("RGB", "JPEG", progressive=True),
    "jpeg-cmyk": _saved("CMYK", "JPEG"),
    "jpeg-grey": _saved("L", "JPEG"),
    "mpo": _saved("RGB", "MPO", save_all=True),
    "webp": _saved("RGB", "WEBP"),
    "webp-metadata": _saved("RGBA", "WEBP", metadata=True),
    "webp-lossless": _saved("RGBA", "WEBP", lossless=True),
    "webp-animated": _saved("RGB", "WEBP", save_all=True),
    "avif": _saved("RGB", "AVIF", speed=10),
    "avif-rgba-metadata": _saved("RGBA", "AVIF", speed=10, metadata=True),
    "avif-animated": _saved("RGB", "AVIF", speed=10, save_all=True),
    "heic": _saved("RGB", "HEIF"),
    "heic-rgba": _saved("RGBA", "HEIF"),
    "gif": _saved("P", "GIF"),
    "gif-transparent": _saved("P", "GIF", transparency=3),
    "gif-animated": _saved("RGB", "GIF", save_all=True),
    "tiff": _saved("RGB", "TIFF", metadata=True),
    "tiff-lzw": _saved("RGB", "TIFF", compression="tiff_lzw"),
    "tiff-deflate": _saved("RGBA", "TIFF", compression="tiff_adobe_deflate"),
    "tiff-jpeg": _saved("RGB", "TIFF", compression="jpeg"),
    "tiff-packbits": _saved("P", "TIFF", compression="packbits"),
    "tiff-group4": _saved("1", "TIFF", compression="group4"),
    "tiff-lzma": _saved("RGB", "TIFF", compression="lzma"),
    "tiff-zstd": _saved("RGB", "TIFF", compression="zstd"),
    "tiff-float": _saved("F", "TIFF"),
    "tiff-grey-16": _saved("I;16", "TIFF"),
    "tiff-lab": _saved("LAB", "TIFF"),
    "tiff-pages": _saved("RGB", "TIFF", save_all=True),
    "bigtiff": _saved("RGB", "TIFF", big_tiff=True),
    "bmp": _saved("RGB", "BMP"),
    "bmp-palette": _saved("P", "BMP"),
    "ppm": _saved("RGB", "PPM"),
    "pgm-plain": _plain_ppm,
    "pbm": _saved("1", "PPM"),
}


def corpus() -> dict[str, bytes]:
    """name -> file, less the formats that cannot be written here."""
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    files = {}
    for name, make in CORPUS.items():
        try:
            files[name] = make()
        except (OSError, KeyError, ValueError):
            continue
    return files
