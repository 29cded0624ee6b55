"""Zip archives: their table of contents one entry at a time, and single members by their offset.

After PKWARE's APPNOTE 6.3.10. Python's zipfile holds the whole table, half a kilobyte for each member, and
would read it anew in every worker; here a worker needs the member's offset only.
"""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from .item_error import ArchiveError

_LOCAL, _CENTRAL, _END, _END64, _LOCATOR64 = b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"
_DESCRIPTOR = b"PK\7\x08"
_CHUNK = 1 << 16
_FULL = 0xFFFFFFFF  # in a field of 4 bytes: the value is in the extra field
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_ENCRYPTED, _SIZES_LATER, _UTF8 = 0x1, 0x8, 0x800  # bits of the flags


@dataclass(frozen=True, slots=True)
class ZipMember:
    """kind: "file", or what it is instead.  offset: of its local header, size: of its data unpacked, bytes"""

    name: str
    kind: str
    offset: int
    size: int


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def members(file: BinaryIO) -> Iterator[ZipMember]:
    """What the table of contents lists, in its order. Raises ArchiveError where it is damaged or missing."""
    start, count, shift = _table(file)
    position = start
    for _ in range(count):
        file.seek(position)
        head = file.read(46)
        if len(head) < 46 or head[:4] != _CENTRAL:
            raise ArchiveError(f"has a damaged table of contents at byte {position:,}; use an intact copy")
        flags, packed, size, n_name, n_extra, n_comment, attributes, offset = struct.unpack(
            "<8xH10xLLHHH4xLL", head
        )
        rest = file.read(n_name + n_extra)
        if len(rest) < n_name + n_extra:
            raise ArchiveError("has a table of contents that is cut off; use an intact copy")
        size, _, offset = _zip64(rest[n_name:], [size, packed, offset])
        name = _decoded(rest[:n_name], flags)
        position += 46 + n_name + n_extra + n_comment
        yield ZipMember(name, _kind(name, flags, attributes), offset + shift, size)


def read_member(file: BinaryIO, offset: int, size: int, member: str, max_bytes: int) -> bytes:
    """The data of the member whose local header is at `offset`, unpacked and checked. Raises ArchiveError."""
    if size > max_bytes:
        raise ArchiveError(f"is more than {max_bytes:,} bytes unpacked; make it smaller", "too-large")
    file.seek(min(offset, file.seek(0, 2)))  # which may be more than a file can have
    head = file.read(30)
    if len(head) < 30 or head[:4] != _LOCAL:
        raise ArchiveError("is not where the table of contents has it; use an intact copy")
    flags, method, crc, n_name, n_extra = struct.unpack("<6xHH4xL8xHH", head)
    name = file.read(n_name)
    if _decoded(name, flags) != member:
        raise ArchiveError("has another name in the table of contents than at its place; use an intact copy")
    if flags & _ENCRYPTED:
        raise ArchiveError("is encrypted; unpack it first")
    file.seek(n_extra, 1)
    if method == _STORED:
        data = file.read(size)
        if len(data) < size:
            raise ArchiveError("ends before its time: the archive is cut off; use an intact copy")
        after = file.read(24)
    else:
        data, after = _unpacked(file, method, size)
    found = zlib.crc32(data)
    if flags & _SIZES_LATER:  # and the checksum too, with or without a signature in front of it
        right = found.to_bytes(4, "little") in (after[:4], after[4:8] if after[:4] == _DESCRIPTOR else b"")
    else:
        right = found == crc
    if not right:
        raise ArchiveError("does not have the checksum that its archive gives; use an intact copy")
    return data


def _unpacked(file: BinaryIO, method: int, size: int) -> tuple[bytes, bytes]:
    """(data, the 24 bytes that follow it), never more than one byte over `size`."""
    if method == _DEFLATED:
        unpacker: _Unpacker = _Inflater()
    elif method == _BZIP2:
        unpacker = bz2.BZ2Decompressor()
    else:
        raise ArchiveError(f"is packed by method {method}, which is not read; unpack it first")
    pieces, produced = [], 0
    try:
        while not unpacker.eof and produced <= size:
            packed = file.read(_CHUNK)
            if not packed and produced < size:
                raise ArchiveError("ends before its time: the archive is cut off; use an intact copy")
            piece = unpacker.decompress(packed, size + 1 - produced)
            if not packed and not piece:
                break
            pieces.append(piece)
            produced += len(piece)
    except (zlib.error, OSError, EOFError) as error:
        raise ArchiveError(f"is damaged ({error}); use an intact copy") from None
    if produced != size:
        raise ArchiveError("unpacks to another size than its archive gives; use an intact copy")
    after = unpacker.unused_data[:24]
    return b"".join(pieces), after + file.read(24 - len(after))


class _Inflater:
    """zlib's decompressor of raw deflate data, which keeps what it has not used as that of bz2 does."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(-zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(max_length, 1))


def _table(file: BinaryIO) -> tuple[int, int, int]:
    """(start of the table of contents, number of entries, what is to be added to its offsets)."""
    length = file.seek(0, 2)
    tail_start = max(0, length - 22 - 0xFFFF)  # a comment of up to 65,535 bytes may follow
    file.seek(tail_start)
    tail = file.read(22 + 0xFFFF)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise ArchiveError("is no zip archive, or is cut off before its table of contents at the end")
    disk, count, size, start = struct.unpack("<4xH4xHLL2x", tail[at : at + 22])
    end = tail_start + at
    if at >= 20 and tail[at - 20 : at - 16] == _LOCATOR64:
        (place,) = struct.unpack("<8xQ4x", tail[at - 20 : at])
        for end64 in (place, end - 20 - 56):  # the second: where something was put in front of the archive
            file.seek(min(max(end64, 0), length))
            record = file.read(56)
            if len(record) == 56 and record[:4] == _END64:
                disk, count, size, start = struct.unpack("<16xL12xQQQ", record)
                end = end64
                break
        else:
            raise ArchiveError("has a damaged table of contents; use an intact copy")
    if disk:
        raise ArchiveError("is one part of several; join them first")
    shift = end - size - start
    if shift < 0 or count * 46 > size:
        raise ArchiveError("has a damaged table of contents; use an intact copy")
    return start + shift, count, shift


def _zip64(extra: bytes, values: list[int]) -> list[int]:
    """`values` (size, packed size, offset), those that were full from the extra field with id 1."""
    at = 0
    while at + 4 <= len(extra):
        ident, length = struct.unpack_from("<HH", extra, at)
        if ident == 1:
            field = extra[at + 4 : at + 4 + length]
            for number, value in enumerate(values):
                if value == _FULL and len(field) >= 8:
                    values[number] = int.from_bytes(field[:8], "little")
                    field = field[8:]
            break
        at += 4 + length
    return values


def _decoded(name: bytes, flags: int) -> str:
    """Names are UTF-8 if the flag says so, or if they are valid as that: else code page 437."""
    if flags & _UTF8:
        return name.decode("utf-8", "surrogateescape")
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437")


def _kind(name: str, flags: int, attributes: int) -> str:
    if name.endswith("/"):
        return "folder"
    if attributes >> 16 & 0o170000 == 0o120000:  # as Unix archivers note a link
        return "link"
    return "encrypted" if flags & _ENCRYPTED else "file"
