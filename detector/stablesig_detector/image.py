"""Reading an image into the one layout that the detector measures: (H, W, 3) RGB in 0..255.

Transparency is laid over white, palettes and greys become RGB, a rotation recorded in EXIF is carried out,
colours are converted to sRGB by the file's profile, 16-bit samples are scaled and not clipped, and of several
frames the first is taken. `reading.read_image` gives the same pixels and says what was done to get them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .bounds import MAX_FILE_BYTES
from .bounds import MAX_PIXELS as MAX_PIXELS
from .decoding import Decoded, ImageArray, decode, decode_opened
from .errors import ImageError
from .formats import FORMATS as FORMATS
from .formats import SUFFIXES

if TYPE_CHECKING:
    from PIL import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | ImageArray"

# What a folder is searched for; a file that is named outright may have any name.
IMAGE_SUFFIXES = frozenset(SUFFIXES)


def load_image(source: ImageSource) -> ImageArray:
    """Read `source` into an (H, W, 3) RGB array with samples in 0..255.

    source: a path, the bytes of a file, a PIL image, or an array that already has this layout (returned as it
    is). Returns uint8; float32 for sources with 16 bits a sample as Pillow hands them out (grey PNG, TIFF and
    PPM; of 16-bit colour Pillow keeps the upper byte, which comes back as uint8).

    Raises ImageError, naming the source: no such file, a folder, not an image, truncated or corrupt, over
    the bounds of `bounds`, or samples without a fixed range (32-bit integer, floating point).
    """
    if isinstance(source, np.ndarray):
        return checked_array(source)
    data, name = file_bytes(source)
    return decode_source(source, data, name).pixels


def decode_source(source: ImageSource, data: bytes | None, name: str, *, both: bool = False) -> Decoded:
    """Decode what `file_bytes` gave; without bytes, `source` is a PIL image. both: see `decoding.decode`."""
    if data is not None:
        return decode(data, name, both=both)
    from PIL import Image

    if isinstance(source, Image.Image):
        return decode_opened(source, name, both=both)
    raise ImageError(
        f"cannot read an image from {type(source).__name__}; pass a path, bytes, a PIL image or an array"
    )


def file_bytes(source: ImageSource) -> tuple[bytes | None, str]:
    """The bytes of an image file, and what to call it in messages; None for what is no file.

    Raises ImageError: no such file, a folder, not readable, or larger than MAX_FILE_BYTES.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        name = f"image of {len(data):,} bytes"
        if len(data) > MAX_FILE_BYTES:
            raise ImageError(_too_large(name))
        return data, name
    if isinstance(source, (str, os.PathLike)):
        return _read(os.fspath(source)), os.fspath(source)
    mode, width, height = (getattr(source, key, "?") for key in ("mode", "width", "height"))
    return None, f"{mode} image of {width} x {height} px"


def as_uint8(image: ImageArray) -> NDArray[np.uint8]:
    """(H, W, 3) as `load_image` gives it -> whole grey levels. Only 16-bit files come as floats."""
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)  # itself
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


def checked_array(array: NDArray[Any]) -> ImageArray:
    """`array`, if it has the layout of `load_image`; raises ImageError if not."""
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


def _read(name: str) -> bytes:
    """The whole of a file, a pipe or a device; never more than MAX_FILE_BYTES of it."""
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
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
    else:
        if len(data) <= MAX_FILE_BYTES:
            return data
        raise ImageError(_too_large(name))
    raise ImageError(f"{name}: {problem}")


def _too_large(name: str) -> str:
    return f"{name}: is more than {MAX_FILE_BYTES:,} bytes; make it smaller"
