"""Reading an image into the one layout that the detector measures: (H, W, 3) RGB in 0..255.

Transparency is laid over white, palettes and greys become RGB, a rotation recorded in EXIF is carried out,
16-bit samples are scaled and not clipped, and of several frames the first is taken. Formats with an
interpreter behind them (EPS, PDF) are never opened: a platform scans files that strangers upload.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

ImageArray: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | ImageArray"

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM")  # AVIF where this Pillow has it
# What a folder is searched for; a file that is named outright may have any name.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
)
MAX_PIXELS = 2**27  # 134 megapixels, 400 MB decoded: above every camera phone, below a decompression bomb

_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
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


def load_image(source: ImageSource) -> ImageArray:
    """Read `source` into an (H, W, 3) RGB array with samples in 0..255.

    source: a path, the bytes of a file, a PIL image, or an array that already has this layout (returned as it
    is). Returns uint8; float32 for sources with 16 bits a sample as Pillow hands them out (grey PNG, TIFF and
    PPM; of 16-bit colour Pillow keeps the upper byte, which comes back as uint8).

    Raises ImageError, naming the source: no such file, a folder, not an image, truncated or corrupt, over
    MAX_PIXELS, or samples without a fixed range (32-bit integer, floating point).
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return _read(io.BytesIO(data), f"image of {len(data):,} bytes")
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        problem = ""
        try:
            with Path(name).open("rb") as file:
                return _read(file if file.seekable() else io.BytesIO(file.read()), name)
        except FileNotFoundError:
            problem = "no such file; check the path"
        except IsADirectoryError:
            problem = "is a folder, not an image; name the files in it"
        except PermissionError:
            problem = "may not be read; check its permissions"
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        except ValueError:  # a NUL in the path
            problem = "is not a valid path"
        raise ImageError(f"{name}: {problem}")

    from PIL import Image

    if isinstance(source, Image.Image):
        name = f"{source.mode} image of {source.width} x {source.height} px"
        with _decoding(name):
            return _pixels(source, name)
    raise ImageError(
        f"cannot read an image from {type(source).__name__}; pass a path, bytes, a PIL image or an array"
    )


def as_uint8(image: ImageArray) -> NDArray[np.uint8]:
    """(H, W, 3) as `load_image` gives it -> whole grey levels. Only 16-bit files come as floats."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def image_files(folder: Path) -> list[Path]:
    """What lies directly in `folder` and has one of IMAGE_SUFFIXES, sorted by name; may be empty.

    Raises ImageError if it is no folder, or one that cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    except (FileNotFoundError, NotADirectoryError):
        problem = "is not a folder; give a folder of images"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}; check its permissions"
    raise ImageError(f"{folder} {problem}")


def _checked_array(array: NDArray[Any]) -> ImageArray:
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"an image array is (H, W, 3); got shape {array.shape}; convert it to RGB first")
    if array.dtype not in (np.uint8, np.float32):
        raise ImageError(
            f"an image array is uint8, or float32 in 0..255; got {array.dtype}; convert it first"
        )
    if array.dtype == np.float32 and not (float(array.min()) >= 0.0 and float(array.max()) <= 255.0):
        low, high = float(array.min()), float(array.max())
        raise ImageError(
            f"a float32 image array lies in 0..255; got {low:g}..{high:g}; scale or clip it first"
        )
    return array


def _read(file: IO[bytes], name: str) -> ImageArray:
    from PIL import Image

    Image.init()  # registers the readers (20 ms, once), to hold FORMATS against what this Pillow has
    with _decoding(name), Image.open(file, formats=[form for form in FORMATS if form in Image.OPEN]) as image:
        return _pixels(image, name)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
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
            problem = f"is not an image, or is damaged at its start; use an intact {', '.join(FORMATS)} file"
        except Image.DecompressionBombError:
            problem = f"has more than {MAX_PIXELS:,} pixels; make it smaller"
        except MemoryError:
            problem = "does not fit in memory; make it smaller"
        except _DECODE_ERRORS as error:
            problem = f"is truncated or corrupt ({_one_line(error)}); use an intact copy of it"
    raise ImageError(f"{name}: {problem}")


def _pixels(image: Image.Image, name: str) -> ImageArray:
    """Decode an opened image to the detector's layout."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {image.width} x {image.height} px is more than {MAX_PIXELS:,} pixels; make it smaller"
        )
    if image.width * image.height == 0:
        raise ImageError(f"{name}: has no pixels; use another image")
    image.load()
    orientation = _orientation(
        image
    )  # after load(): Pillow's TIFF reader rotates while loading and drops the tag
    if image.mode.startswith("I;16"):
        pixels: ImageArray = _grey(np.asarray(image), _sample_bits(image))
    elif image.mode == "I":  # 32-bit integers: how Pillow hands out 16-bit PPM, and PNG in some versions
        wide = np.asarray(image)
        if image.format not in (None, "PNG", "PPM") or wide.min() < 0 or wide.max() > 65535:
            raise ImageError(
                f"{name}: 32-bit integer samples have no fixed range; save it with 8 or 16 bits a sample"
            )
        pixels = _grey(wide, 16)
    elif image.mode == "F":
        raise ImageError(
            f"{name}: floating-point samples have no fixed range; save it with 8 or 16 bits a sample"
        )
    else:
        pixels = np.array(_over_white(image), dtype=np.uint8)
    return np.ascontiguousarray(_oriented(pixels, orientation))


def _grey(samples: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """(H, W) integers in 0..2^bits - 1 -> (H, W, 3) float32 in 0..255."""
    grey = samples.astype(np.float32) * np.float32(255.0 / (2**bits - 1))
    return np.repeat(grey[:, :, None], 3, axis=2)


def _sample_bits(image: Image.Image) -> int:
    """16, or 12 for a 12-bit TIFF, which Pillow hands out in the low bits of 16-bit samples."""
    tags = getattr(image, "tag_v2", {})
    return 12 if tuple(tags.get(_BITS_PER_SAMPLE_TAG, ())) == (12,) else 16


def _over_white(image: Image.Image) -> Image.Image:
    from PIL import Image as PillowImage

    if image.has_transparency_data:  # an alpha band, or a transparent colour in PNG and GIF
        rgba = image.convert("RGBA")
        white = PillowImage.new("RGBA", rgba.size, (255, 255, 255, 255))
        return PillowImage.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 (upright) where there is none or the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _oriented(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels upright. EXIF 2.32, tag 274: where row 0 and column 0 of the stored image belong."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)  # stored rows are the picture's columns
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:120] if text else type(error).__name__).rstrip(".")
