"""Measuring the images of whole folders once, and keeping what was measured if the run is interrupted.

A folder is searched with its subfolders; hidden ones and links to folders are not followed. A file that
several links reach is taken once; copies would be counted as independent images.

Measurements are lines of JSON in one file, each written as soon as its image is measured. A last line that an
interruption cut short is dropped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stablesig_detector.errors import ImageError, OutputError, UsageError
from stablesig_detector.image import IMAGE_SUFFIXES, load_image
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION, spectrum

FloatArray = NDArray[np.float64]

CACHE_FORMAT = "stablesig-measurements"
CACHE_VERSION = 1
_CHUNK = 8  # images that a process takes at a time


@dataclass(frozen=True, eq=False)
class Measurement:
    """One image. values: (DIMENSION,) its spectrum, before whitening. sha256: of the file."""

    sha256: str
    values: FloatArray = field(repr=False)


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be measured, and why."""

    file: Path
    reason: str


Outcome: TypeAlias = Measurement | Unreadable


def find_images(folder: Path) -> list[Path]:
    """The images (by suffix) in `folder` and below, sorted; each file once, whatever links lead to it.

    Raises ImageError if it is no folder, cannot be read, or holds no image.
    """

    def refused(error: OSError) -> None:
        raise ImageError(
            f"{error.filename} cannot be read: {error.strerror}; check its permissions"
        ) from error

    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder; give a folder of images")
    found: dict[Path, Path] = {}  # where it really is -> first name met
    for at, below, names in os.walk(folder, onerror=refused):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            path = Path(at, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                found.setdefault(path.resolve(), path)
    if not found:
        raise ImageError(
            f"{folder} has no images, nor have its subfolders; the files end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return list(found.values())


def measure(path: Path) -> Outcome:
    """The spectrum of one image file as it is, or the reason why there is none."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Measurement(digest, spectrum(load_image(path)).values)
    except ImageError as error:
        return Unreadable(path, str(error).removeprefix(f"{os.fspath(path)}: "))
    except OSError as error:
        return Unreadable(path, f"cannot be read: {error.strerror or error}")


def measure_all(
    files: Sequence[Path], cache: Cache, jobs: int = 1, progress: Callable[[], None] | None = None
) -> Iterator[Outcome]:
    """Measure `files` in their order, in `jobs` processes; what `cache` holds is not measured again.

    progress: called after each file.
    """
    kept = [cache.get(path) for path in files]
    fresh = _measured([path for path, known in zip(files, kept, strict=True) if known is None], jobs)
    try:
        for path, known in zip(files, kept, strict=True):
            outcome: Outcome = known if known is not None else next(fresh)
            if known is None and isinstance(outcome, Measurement):
                cache.add(path, outcome)
            if progress is not None:
                progress()
            yield outcome
    finally:
        fresh.close()


def _measured(files: Sequence[Path], jobs: int) -> Generator[Outcome, None, None]:
    """Measure `files` in their order; closing the generator ends the processes."""
    if jobs == 1 or len(files) < 2:
        yield from map(measure, files)
        return
    # not forked: a copy of a process with threads, as BLAS has, may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(files)), mp_context=context) as pool:
        try:
            yield from pool.map(measure, files, chunksize=_CHUNK)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Cache:
    """Measurements in a file that grows by a line for each; a context manager.

    A measurement is found again by the file's real path, size and time of change. Raises UsageError if the
    file is not one of these or holds other features, OutputError if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, int, int], Measurement] = {}
        header = {
            "format": CACHE_FORMAT,
            "version": CACHE_VERSION,
            "feature_version": FEATURE_VERSION,
            "dimension": DIMENSION,
        }
        try:
            self._file: IO[bytes] = path.open("a+b")
            try:
                self._file.seek(0)
                whole = self._read(header)
                self._file.truncate(whole)
                if whole == 0:
                    self._write(header)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, path: Path) -> Measurement | None:
        try:
            return self._known.get(_identity(path))
        except OSError:
            return None

    def add(self, path: Path, measurement: Measurement) -> None:
        try:
            name, size, changed = identity = _identity(path)
            values = base64.b64encode(measurement.values.astype("<f8").tobytes()).decode("ascii")
            self._write(
                {"file": name, "size": size, "mtime_ns": changed, "sha256": measurement.sha256}
                | {"values": values}
            )
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written: {error.strerror or error}; free some space, then go on "
                "with --resume"
            ) from error
        self._known[identity] = measurement

    def _write(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content).encode("ascii") + b"\n")
        self._file.flush()

    def _read(self, header: dict[str, Any]) -> int:
        """Take in the file's lines and return how many bytes of it are whole."""
        whole = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):  # cut short by an interruption
                break
            try:
                content = json.loads(line)
                if number > 0:
                    identity = content["file"], content["size"], content["mtime_ns"]
                    values = np.frombuffer(base64.b64decode(content["values"]), dtype="<f8")
                    self._known[identity] = Measurement(content["sha256"], values.astype(np.float64))
            except (ValueError, KeyError, TypeError):
                content = None
            if content is None or (number == 0 and content != header):
                raise UsageError(
                    f"{self._path} is damaged, or holds other features than {FEATURE_VERSION} in {DIMENSION} "
                    "dimensions; remove it and leave out --resume"
                )
            whole += len(line)
        return whole


def _identity(path: Path) -> tuple[str, int, int]:
    real = path.resolve()
    facts = real.stat()
    return os.fspath(real), facts.st_size, facts.st_mtime_ns


def fitted_images() -> frozenset[str]:
    """SHA-256 of the files from which the shipped whitening statistics were computed."""
    text = (resources.files("stablesig_detector") / "data" / "whitening.tsv").read_text(encoding="utf-8")
    return frozenset(re.findall(r"\b[0-9a-f]{64}\b", text))
