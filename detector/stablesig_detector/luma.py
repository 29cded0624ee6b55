"""The luma of a JPEG alone, in two thirds of the time that its colours take: for a first look.

A JPEG holds luma as a plane of its own, and it is the luma that is measured (both are ITU-R BT.601's), but
for rounding. Only what leaves no doubt is read here; the rest is for `decoding`, which also says what is
wrong with a file.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from .bounds import check_bytes, check_size
from .colour import srgb_conversion
from .decoding import image_errors, orientation_of, stored
from .errors import ImageError
from .formats import format_of, register


def read_luma(data: bytes, name: str) -> NDArray[np.uint8] | None:
    """The luma of a JPEG, upright: (H, W), 0..255. name: in messages that nobody sees.

    None for every other format and for a JPEG that is damaged, out of bounds, of several pictures, with four
    colours, or with a colour profile that changes them: `reading.read_image` is to read it.
    """
    from PIL import Image

    try:
        if format_of(data, name) != "JPEG" or register("JPEG"):
            return None
        scans = check_bytes("JPEG", data, name)
        with image_errors(name, "JPEG"), Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            check_size(image, "JPEG", len(data), scans, name)
            if image.format != "JPEG" or image.mode not in ("L", "RGB") or srgb_conversion(image)[0]:
                return None
            image.draft("L", None)
            image.load()
            if image.mode != "L":
                return None
            samples = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width)
            orientation = orientation_of(image)
    except ImageError:
        return None
    if orientation == 1:
        return samples
    luma = np.empty(samples.shape[::-1] if orientation >= 5 else samples.shape, np.uint8)
    stored(luma, orientation)[:] = samples
    return luma
