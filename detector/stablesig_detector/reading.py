"""One image out of whatever people send, with what there is to say about how it was read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .decoding import ImageArray
from .formats import SUFFIXES
from .image import ImageSource, checked_array, decode_source, file_bytes


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image, ready to be measured, and where it comes from.

    pixels: (H, W, 3) RGB in 0..255, upright, transparency laid over white; uint8, or float32 for 16-bit grey
    over_black: the same over black; None where every pixel is opaque
    format: one of `formats.FORMATS`, by the file's first bytes; "" for an array
    sha256: of the bytes of the file, 64 hexadecimal digits; "" for an array or a PIL image, which is no file
    notes: what a reader of the evidence should know, such as "first of 12 frames"; may be empty
    bytes: size of the file; 0 for an array or a PIL image
    """

    pixels: ImageArray
    over_black: ImageArray | None
    format: str
    sha256: str
    notes: tuple[str, ...]
    bytes: int


def read_image(source: ImageSource, *, name: str | None = None) -> LoadedImage:
    """Read `source`, which is whatever `load_image` takes. name: in messages, in place of the source's own.

    The file is read once: its hash and its pixels belong together even if it is being replaced meanwhile.
    Takes less than 1 GB for the largest image accepted.  Raises ImageError as `load_image` does.
    """
    if isinstance(source, np.ndarray):
        return LoadedImage(checked_array(source), None, "", "", (), 0)
    data, own_name = file_bytes(source)
    decoded = decode_source(source, data, name or own_name, both=True)
    notes = decoded.notes
    suffix = Path(name or own_name).suffix.lower() if data is not None else ""
    if suffix in SUFFIXES and SUFFIXES[suffix] != decoded.format:
        notes = (f"a {decoded.format} file in spite of its name", *notes)
    return LoadedImage(
        pixels=decoded.pixels,
        over_black=decoded.over_black,
        format=decoded.format,
        sha256="" if data is None else hashlib.sha256(data).hexdigest(),
        notes=notes,
        bytes=0 if data is None else len(data),
    )
