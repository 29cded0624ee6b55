"""From the bytes of a file to upright RGB, within bounds on memory that hold for whatever the file says.

The header is read first and the work refused if it would not fit; then Pillow decodes, and its picture is
turned to RGB in strips, so that nothing the size of the image exists twice but the result.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .bounds import BITS_PER_SAMPLE_TAG, MAX_PIXELS, check_bytes, check_size
from .colour import Conversion, srgb_conversion
from .errors import ImageError
from .formats import format_of, gif_frames, register

if TYPE_CHECKING:
    from PIL import Image

ImageArray: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]

_STRIP_PIXELS = 2**16  # turned to RGB at a time; fits the cache

_ORIENTATION_TAG = 0x0112
# What Pillow's decoders raise on damaged files (SyntaxError is how its PNG parser reports a broken chunk).
_DECODE_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    ZeroDivisionError,
    AssertionError,
    struct.error,
)


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image out of its file. pixels, over_black, format, notes: as in `reading.LoadedImage`."""

    pixels: ImageArray
    over_black: ImageArray | None
    format: str
    notes: tuple[str, ...]


def decode(data: bytes, name: str, *, both: bool = False) -> Decoded:
    """The first picture in the bytes of a file. name: for messages.  both: also over black.

    Raises ImageError, naming the image.
    """
    from PIL import Image

    form = format_of(data, name)
    problem = register(form)
    if problem:
        raise ImageError(f"{name}: {problem}")
    scans = check_bytes(form, data, name)
    with image_errors(name, form), Image.open(io.BytesIO(data), formats=[form]) as image:
        return _decoded(image, data, scans, name, both)


def decode_opened(image: Image.Image, name: str, *, both: bool = False) -> Decoded:
    """The same for an image that Pillow has opened. It stays open."""
    with image_errors(name):
        return _decoded(image, b"", 0, name, both)


@contextmanager
def image_errors(name: str, form: str = "") -> Iterator[None]:
    """Turn whatever Pillow raises while it opens and decodes into an ImageError that names the image."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # Pillow warns of damaged metadata and of large images; the first does no harm, the second is bounded
        # below.
        warnings.simplefilter("ignore")
        try:
            yield
            return
        except UnidentifiedImageError:
            problem = (
                f"is damaged, or {form} of a kind that is not read; use an intact copy, or save it as PNG"
            )
        except Image.DecompressionBombError:
            problem = f"has more than {MAX_PIXELS:,} pixels; make it smaller"
        except MemoryError:
            problem = "does not fit in memory; make it smaller"
        except _DECODE_ERRORS as error:
            problem = f"is truncated or corrupt ({_one_line(error)}); use an intact copy of it"
    raise ImageError(f"{name}: {problem}")


def _decoded(image: Image.Image, data: bytes, scans: int, name: str, both: bool) -> Decoded:
    form = "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a JPEG that holds several
    check_size(image, form, len(data), scans, name)
    notes = [*_frame_notes(image, data), *_depth_notes(image, data)]
    image.load()
    orientation = orientation_of(image)  # after load(): the TIFF reader rotates in it, and drops the tag
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels: ImageArray = _grey(image, form, orientation, name)
        return Decoded(pixels, None, form, tuple(notes))
    if image.mode == "F":
        raise ImageError(
            f"{name}: floating-point samples have no fixed range; save it with 8 or 16 bits a sample"
        )
    conversion, note = srgb_conversion(image)
    if note:
        notes.append(note)
    pixels, over_black = _composites(image, orientation, conversion, both)
    if over_black is not None:
        notes.append("partly transparent: laid over white, and over black")
    return Decoded(pixels, over_black, form, tuple(notes))


def _frame_notes(image: Image.Image, data: bytes) -> list[str]:
    if image.format == "GIF":
        frames = gif_frames(data)
        return [f"first of {frames:,} frames"] if frames > 1 else []
    if image.format == "TIFF":  # counting pages would read them all
        return ["first of several pages"] if getattr(image, "is_animated", False) else []
    frames = getattr(image, "n_frames", 1)
    if frames <= 1:
        return []
    if image.format in ("MPO", "HEIF"):
        return [f"main one of {frames:,} pictures"]
    return [f"first of {frames:,} frames"]


def _depth_notes(image: Image.Image, data: bytes) -> list[str]:
    """Whether Pillow is about to drop the lower bits of each sample."""
    bits = 8
    if image.mode.startswith("I"):
        return []
    if image.format == "PNG":
        bits = data[24] if len(data) > 24 else 8
    elif image.format == "TIFF":
        bits = max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE_TAG, (8,)))
    elif image.format == "HEIF":
        bits = int(image.info.get("bit_depth", 8))
    elif image.format == "PPM":
        arguments = next((tile[3] for tile in getattr(image, "tile", [])), None)
        bits = 16 if isinstance(arguments, tuple) and arguments[-1] in range(256, 65536) else 8
    return [f"{bits}-bit colour reduced to 8 bits"] if bits > 8 else []


def _composites(
    image: Image.Image, orientation: int, conversion: Conversion | None, both: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """(H, W, 3) upright, over white; over black where `both` and any pixel is not opaque, else None."""
    transparent = image.has_transparency_data
    pixels = _upright((image.height, image.width), orientation, np.uint8)
    rows = stored(pixels, orientation)
    over_black: NDArray[np.uint8] | None = None
    for top, bottom, strip in _strips(image):
        shown = conversion(strip) if conversion else strip
        if not transparent:
            rows[top:bottom] = _samples(shown if shown.mode == "RGB" else shown.convert("RGB"))
            continue
        rgba = shown if shown.mode == "RGBA" else shown.convert("RGBA")
        rows[top:bottom] = _over(rgba, 255)
        if both and over_black is None and _samples(rgba)[..., 3].min() < 255:
            over_black = pixels.copy()  # what came before is opaque
        if over_black is not None:
            stored(over_black, orientation)[top:bottom] = _over(rgba, 0)
    return pixels, over_black


def _over(rgba: Image.Image, level: int) -> NDArray[np.uint8]:
    from PIL import Image as PillowImage

    ground = PillowImage.new("RGBA", rgba.size, (level, level, level, 255))
    return _samples(PillowImage.alpha_composite(ground, rgba))[..., :3]


def _samples(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, bands) of 8 bits. Less than half the time that Pillow's interface to NumPy takes."""
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, -1)


def _grey(image: Image.Image, form: str, orientation: int, name: str) -> NDArray[np.float32]:
    """16-bit grey, upright, as (H, W, 3) float32 in 0..255."""
    bits = 16
    if image.mode == "I":  # 32-bit integers: how Pillow hands out 16-bit PPM, and PNG in some versions
        low, high = image.getextrema()
        if form not in ("", "PNG", "PPM") or low < 0 or high > 65535:  # type: ignore[operator]
            raise ImageError(
                f"{name}: 32-bit integer samples have no fixed range; save it with 8 or 16 bits a sample"
            )
    elif tuple(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE_TAG, ())) == (12,):
        bits = 12  # which Pillow hands out in the low bits of 16-bit samples
    pixels = _upright((image.height, image.width), orientation, np.float32)
    rows = stored(pixels, orientation)
    for top, bottom, strip in _strips(image):
        samples = np.asarray(strip).astype(np.float32) * np.float32(255.0 / (2**bits - 1))
        rows[top:bottom] = samples[:, :, None]
    return pixels


def _strips(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    """The rows of the stored image from top to bottom: (first row, row after the last, that part of it)."""
    rows = max(_STRIP_PIXELS // image.width, 1)
    if rows >= image.height:
        yield 0, image.height, image
        return
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield top, bottom, image.crop((0, top, image.width, bottom))


def _upright(stored_size: tuple[int, int], orientation: int, kind: type[Any]) -> NDArray[Any]:
    """Room for the upright image: (H, W, 3), contiguous."""
    height, width = stored_size[::-1] if orientation >= 5 else stored_size
    return np.empty((height, width, 3), kind)


def stored(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The same samples seen as they are stored: writing there puts them upright.

    EXIF 2.32, tag 274: where row 0 and column 0 of the stored image belong.
    """
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    if orientation >= 5:
        upright = upright.swapaxes(0, 1)  # stored rows are the picture's columns
    return upright


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 (upright) where there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:120] if text else type(error).__name__).rstrip(".")
