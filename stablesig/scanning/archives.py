"""The images in archives: tar, compressed tar, zip, and so WebDataset's shards, which are tars.

Members of a tar or zip on this machine are noted by their place and read by the worker. Others are read here,
one after another, and carried with the item. Nothing is ever unpacked to disk, so a member may have any name.
An archive in an archive is not opened, and is an input that is refused. A name that comes again in an archive
is another input: `::@` and its place in bytes are added to it.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, cast

from stablesig.extras import needs_scan
from stablesig_detector.image import IMAGE_SUFFIXES

from . import tar_format, zip_format
from .addresses import public_address, scheme_of
from .item import ErrorKind, Item, ItemKind, identity_of, readable
from .item_error import ArchiveError, ItemError, from_os_error
from .opening import PositionedFile, is_local, local_path, open_source
from .path_set import PathSet
from .reading import ReadOptions

ARCHIVE_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    ".zip",
)
_NESTED = (*ARCHIVE_SUFFIXES, ".7z", ".rar")
# A compressed archive of images hardly shrinks: one that grows more than this is made to cost time.
_MOST_GROWTH = 200
_MAY_GROW = 1 << 30  # bytes, however small the archive is
_COMPRESSED = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}
_REFUSED: dict[str, tuple[str, ErrorKind]] = {
    "link": ("is a link in its archive; the file that it leads to is scanned by itself", "not-a-file"),
    "device": ("is a device or a pipe in its archive", "not-a-file"),
    "sparse": ("is stored with holes (a sparse file), which is not read; unpack it first", "archive"),
    "encrypted": ("is encrypted; unpack it first", "archive"),
    "other": ("is of an unknown type in its archive; unpack it first", "archive"),
}
_Member = tar_format.TarMember | zip_format.ZipMember


def is_archive(name: str) -> bool:
    """By its name, in lower case."""
    return name.endswith(ARCHIVE_SUFFIXES)


def archive_items(location: str, options: ReadOptions, *, all_files: bool) -> Iterator[Item]:
    """The images in the archive at a path or an address, by their names; with `all_files` all its files.

    Raises nothing: what cannot be read comes out as a refused Item, the archive itself too if it is damaged,
    after what came before the damage.
    """
    shown = location if is_local(location) else public_address(location)
    archive = _Archive(shown, location, options, all_files)
    try:
        with closing(open_source(location, options)) as file:
            yield from archive.items(file)
    except ItemError as error:
        yield archive.refused(str(error), error.kind)
        return
    except ArchiveError as error:
        problem = str(error)
    except OSError as error:
        problem = str(from_os_error("", error)).removeprefix(": ")
    except _unpacking_errors() as error:
        problem = f"is damaged or cut off ({' '.join(str(error).split())[:120]}); use an intact copy"
    except Exception as error:  # a stranger's archive must not end the scan, whatever it leads to here
        error.__traceback__ = None
        problem = f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]}); unpack it"
    else:
        if not archive.found:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            problem = f"holds no images; they are known by their names ({known})"
            yield archive.refused(f"{readable(shown)[0]}: {problem}", "missing")
        return
    after = f" (after {archive.found:,} images)" if archive.found else ""
    yield archive.refused(f"{readable(shown)[0]}: {problem}{after}", "archive")


@dataclass
class _Archive:
    """shown: its name in the results, undecodable bytes as surrogates.  found: images so far"""

    shown: str
    location: str
    options: ReadOptions
    all_files: bool
    found: int = 0

    def __post_init__(self) -> None:
        self.seen = PathSet()

    def items(self, file: BinaryIO) -> Iterator[Item]:
        start = file.read(6)
        file.seek(0)
        local = is_local(self.location)
        path = local_path(self.location) if local and scheme_of(self.location) else self.location
        if start[:4] in (b"PK\3\4", b"PK\5\6") or self.location.lower().endswith(".zip"):
            yield from self._each(zip_format.members(file), file, "zip", path if local else None)
            return
        for magic, form in _COMPRESSED.items():
            if start.startswith(magic):
                most = _MAY_GROW + _MOST_GROWTH * file.seek(0, os.SEEK_END)
                file.seek(0)
                unpacked = _unpacking(file, form)
                yield from self._each(tar_format.members(unpacked, most), unpacked, "tar", None)
                return
        yield from self._each(tar_format.members(file), file, "tar", path if local else None)

    def _each(
        self, members: Iterator[_Member], file: BinaryIO, form: ItemKind, path: str | None
    ) -> Iterator[Item]:
        for member in members:
            name = member.name.lower()
            if member.kind == "folder":
                continue
            nested = name.endswith(_NESTED)
            if not nested and not self.all_files and os.path.splitext(name)[1] not in IMAGE_SUFFIXES:  # noqa: PTH122
                continue
            self.found += 1
            shown, exact = self._unique(member)
            if nested:
                problem = "is an archive in an archive, which is not opened; unpack it first"
                yield _refused(shown, exact, problem, "archive")
            elif member.kind != "file":
                yield _refused(shown, exact, *_REFUSED[member.kind])
            elif path is not None:
                yield Item(shown, form, path, member.name, member.offset, member.size, path_bytes=exact)
            else:
                yield self._carried(member, file, form, shown, exact)

    def _carried(
        self, member: _Member, file: BinaryIO, form: ItemKind, shown: str, exact: bytes | None
    ) -> Item:
        most = self.options.max_bytes
        try:
            if form == "zip":
                data = zip_format.read_member(file, member.offset, member.size, member.name, most)
            else:
                data = tar_format.read_here(file, member.size, most)
        except ArchiveError as error:
            return _refused(shown, exact, str(error), error.kind)
        return Item(shown, "data", member=member.name, size=len(data), data=data, path_bytes=exact)

    def _unique(self, member: _Member) -> tuple[str, bytes | None]:
        name = f"{self.shown}::{member.name}"
        while True:
            shown, exact = readable(name)
            if self.seen.add(identity_of(shown, exact)):
                return shown, exact
            name += f"::@{member.offset}"

    def refused(self, error: str, kind: ErrorKind) -> Item:
        shown, exact = readable(self.shown)
        return Item(shown, "refused", path_bytes=exact, error=error, error_kind=kind)


def _refused(shown: str, exact: bytes | None, problem: str, kind: ErrorKind) -> Item:
    return Item(shown, "refused", path_bytes=exact, error=f"{shown}: {problem}", error_kind=kind)


def _unpacking(file: BinaryIO, form: str) -> BinaryIO:
    """A reader of what is compressed in `file`, which goes forward only."""
    if form == "gz":
        import gzip

        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if form == "bz2":
        import bz2

        return cast(BinaryIO, bz2.BZ2File(file))
    if form == "xz":
        import lzma

        return cast(BinaryIO, lzma.LZMAFile(file))
    return cast(BinaryIO, io.BufferedReader(_Zstandard(file), 1 << 16))


class _Zstandard(PositionedFile):
    """What is packed by Zstandard, through pyarrow: Python reads it itself from 3.14 on."""

    def __init__(self, file: BinaryIO) -> None:
        with needs_scan("reading .tar.zst"):
            import pyarrow

        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        left = offset + (self._position if whence == io.SEEK_CUR else 0) - self._position
        if whence == io.SEEK_END or left < 0:
            raise io.UnsupportedOperation("this goes forward only")
        while left:
            piece = self._stream.read(min(left, 1 << 16))
            if not piece:
                break
            left -= len(piece)
            self._position += len(piece)
        return self._position

    def read_next(self, size: int) -> bytes:
        return cast(bytes, self._stream.read(size))


def _unpacking_errors() -> tuple[type[Exception], ...]:
    """What the readers of compressed data raise beside OSError, which pyarrow's raises."""
    import lzma

    return (EOFError, zlib.error, lzma.LZMAError)
