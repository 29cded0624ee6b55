"""The pictures that `evaluate` works on: held-out photographs, and what the two decoders make of them.

They are kept as PNG files while a run lasts: workers read them where they need them, memory does not grow
with their number, and a resumed run attacks the very pictures that it began with, on whatever machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stablesig.one_line import shown
from stablesig.reconstruction import centre_crop
from stablesig_detector.errors import ImageError, OutputError
from stablesig_detector.image import as_uint8, load_image

if TYPE_CHECKING:
    from stablesig_train.decoders import Autoencoder
    from stablesig_train.training_images import ImageFile

Pixels = NDArray[np.uint8]  # (H, W, 3) in 0..255
Warn = Callable[[str], None]

_INDEX = "pictures.json"  # written last: where it is, all pictures are


@dataclass(frozen=True)
class Subject:
    """A held-out photograph: the name and SHA-256 of its file, and the size that was cut from it, px."""

    name: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run, in the order of their names. All (H, W, 3) uint8."""

    folder: Path
    subjects: tuple[Subject, ...]
    skipped: int  # files that could not be used

    def __len__(self) -> int:
        return len(self.subjects)

    def photograph(self, index: int) -> Pixels:
        """What was encoded."""
        return _read(self.folder / f"{index:05}-photograph.png")

    def original(self, index: int) -> Pixels:
        """What the original decoder makes of it."""
        return _read(self.folder / f"{index:05}-original.png")

    def marked(self, index: int) -> Pixels:
        """What the watermarked decoder makes of it."""
        return _read(self.folder / f"{index:05}-watermarked.png")

    @classmethod
    def load(cls, folder: Path) -> Pictures | None:
        """Those that an interrupted run left, or None if it had not finished decoding."""
        try:
            content: dict[str, Any] = json.loads((folder / _INDEX).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{folder / _INDEX} cannot be read ({error}); remove {folder.parent} and start anew"
            ) from None
        return cls(folder, tuple(Subject(**fields) for fields in content["subjects"]), content["skipped"])


def decode_pictures(
    files: Sequence[ImageFile],
    original: Autoencoder,
    marked: Autoencoder,
    folder: Path,
    *,
    size: int,
    limit: int | None,
    warn: Warn,
) -> Pictures:
    """Cut `size` x `size` px from the centre of each file, encode that once and decode it twice.

    Files that cannot be read or are smaller are skipped with a warning; no more than `limit` are used. All
    pictures go to `folder`. Raises
    ImageError if none is left, OutputError if the pictures cannot be written.
    """
    from stablesig_train.held_out import decode_pixels, prepare

    subjects: list[Subject] = []
    skipped = 0
    try:
        folder.mkdir(exist_ok=True)
        for file in files:
            if len(subjects) == limit:
                break
            crop = _crop(file.path, size, warn)
            if crop is None:
                skipped += 1
                continue
            encoded = prepare(original, [crop])
            stem = f"{len(subjects):05}"
            write_picture(folder / f"{stem}-photograph.png", crop)
            write_picture(folder / f"{stem}-original.png", encoded.originals[0])
            write_picture(folder / f"{stem}-watermarked.png", decode_pixels(marked, encoded.latents[0]))
            subjects.append(Subject(shown(Path(file.path.name)), file.sha256, crop.shape[1], crop.shape[0]))
        if not subjects:
            raise ImageError(
                f"none of the {len(files)} images can be used; give intact ones of at least {size} x {size} "
                "px, or lower --size"
            )
        index = {"subjects": [asdict(subject) for subject in subjects], "skipped": skipped}
        unfinished = folder / f"{_INDEX}.part"
        unfinished.write_text(json.dumps(index), encoding="utf-8")
        unfinished.replace(folder / _INDEX)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}; free some space, then use --resume"
        ) from error
    return Pictures(folder, tuple(subjects), skipped)


def _crop(path: Path, size: int, warn: Warn) -> Pixels | None:
    try:
        loaded = load_image(path)
    except ImageError as error:
        warn(f"skipped {error}")
        return None
    height, width = loaded.shape[:2]
    if min(height, width) < size:
        warn(f"skipped {path}: {width} x {height} px, smaller than {size} x {size} px")
        return None
    return np.ascontiguousarray(as_uint8(centre_crop(loaded, size)))


def _read(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image)


def write_picture(path: Path, picture: Pixels) -> None:
    """Write a PNG file; an older one is replaced. Raises OutputError."""
    try:
        Image.fromarray(picture).save(path, compress_level=1)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; free some space, then use --resume"
        ) from error
