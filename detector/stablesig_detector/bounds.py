"""What a file may cost before it is refused: bounds on memory and time, held against its header and markers.

They bound what an image in good faith may be and the cheapest attacks. A file that is made to cost time can
still take long to read, within the memory: `guard` gives it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

MAX_FILE_BYTES = 2**28  # of one file, 268 MB: an uncompressed picture of 89 megapixels
MAX_PIXELS = 2**27  # 134 megapixels: above every camera phone but those of 200
MAX_DECODED_BYTES = 850_000_000  # file, decoder and result together; with Python and NumPy, below 1 GB
MAX_SLOW_BYTES = 2**24  # of a file whose decoder in Pillow is written in Python: 17 MB, some seconds
MAX_COMMENTS = 100  # in a PPM written in digits; Pillow's time grows with their square
MAX_EXIF_PARTS = 400  # in a JPEG, XMP's included: 26 MB; Pillow's time for them grows with their square
MAX_SCANS = 100  # of a progressive JPEG; encoders write about 10, a file made to cost time thousands

# Peak bytes a pixel while the format is decoded and turned to RGB: 4 in Pillow and 3 in the result, where it
# decodes by rows; more where the whole picture passes through another library. Measured by
# benchmarks/reading_memory.py, with room for the 4:4:4 pictures of 10 and 12 bits in AVIF and HEIC.
_COST = {"WEBP": 16, "AVIF": 16, "HEIF": 14, "PPM": 11}
_COST_BY_ROWS = 7
_COST_GREY_16 = 14  # 2 in Pillow, 12 in the result
_COST_COMPOSITE = 3  # another result
BITS_PER_SAMPLE_TAG = 258


def check_bytes(form: str, data: bytes, name: str) -> int:
    """Refuse a file that was made to cost time, before Pillow sees it; the number of its scans, for JPEG.

    Raises ImageError.
    """
    scans = 0
    if form == "JPEG":
        scans, parts = _markers(data)
        if scans > MAX_SCANS:
            raise ImageError(f"{name}: has {scans:,} scans, and up to {MAX_SCANS} are read; save it again")
        if parts > MAX_EXIF_PARTS:
            raise ImageError(f"{name}: has {parts:,} parts of EXIF data or XMP; save it without them")
    digits = form == "PPM" and data[1:2] in b"123"
    runs = form == "BMP" and len(data) >= 34 and int.from_bytes(data[30:34], "little") in (1, 2)
    if not digits and not runs:
        return scans
    kind = "PPM in digits" if digits else "run-length BMP"
    if len(data) > MAX_SLOW_BYTES:
        raise ImageError(f"{name}: is a {kind} of more than {MAX_SLOW_BYTES:,} bytes; save it as PNG")
    if digits and data.count(b"#") > MAX_COMMENTS:
        raise ImageError(f"{name}: is a {kind} with more than {MAX_COMMENTS} comments; save it as PNG")
    return scans


def check_size(image: Image.Image, form: str, file_bytes: int, scans: int, name: str) -> None:
    """Refuse an image that would not fit in memory, by its header. Raises ImageError."""
    pixels = image.width * image.height
    size = f"{name}: {image.width} x {image.height} px"
    if pixels == 0:
        raise ImageError(f"{name}: has no pixels; use another image")
    if pixels > MAX_PIXELS:
        raise ImageError(f"{size} is more than {MAX_PIXELS:,} pixels; make it smaller")
    cost: float = _COST.get(form, _COST_BY_ROWS)
    if form == "JPEG" and scans > 1:  # every coefficient is kept, in 2 bytes, until the last
        cost = max(cost, 4 + 2 * _samples_a_pixel(image))
    elif form == "TIFF":  # a strip may be the whole picture
        cost = max(cost, 4 + sum(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE_TAG, (8,))) / 8)
    if image.mode.startswith("I"):
        cost = max(cost, _COST_GREY_16)
    if image.has_transparency_data:
        cost += _COST_COMPOSITE
    if file_bytes + cost * pixels > MAX_DECODED_BYTES:
        most = int((MAX_DECODED_BYTES - file_bytes) // cost)
        raise ImageError(
            f"{size} of this kind ({form or image.mode}) is more than the {max(most, 0):,} pixels that fit in"
            f" memory; make it smaller, or save it as a baseline JPEG"
        )


def _markers(data: bytes) -> tuple[int, int]:
    """(scans, APP1 segments) of a JPEG.

    Their markers cannot occur inside a scan, where FF is followed by 0 or a restart (ITU-T T.81, B.1.1.5).
    In pieces: a file may be nothing but FF. NumPy, as bytes.count takes a fifth of the time of decoding.
    """
    samples = np.frombuffer(data, np.uint8)
    scans = segments = 0
    for start in range(0, len(samples), 1 << 20):
        piece = samples[start : start + (1 << 20) + 1]
        codes = piece[1:][piece[:-1] == 0xFF]
        scans += int(np.count_nonzero(codes == 0xDA))
        segments += int(np.count_nonzero(codes == 0xE1))
    return scans, segments


def _samples_a_pixel(image: Image.Image) -> float:
    """Of a JPEG: 3 for colour at 4:4:4, 1.5 at 4:2:0 (ITU-T T.81, A.1.1)."""
    factors = [(across, down) for _, across, down, _ in getattr(image, "layer", [])]
    if not all(across and down for across, down in factors) or not factors:
        return len(image.getbands())
    most = max(across for across, _ in factors) * max(down for _, down in factors)
    return float(sum(across * down for across, down in factors) / most)
