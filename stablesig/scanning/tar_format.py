"""Tar archives, read one header at a time in bounded memory (POSIX.1-2017 pax; GNU's long names and sizes).

Python's tarfile keeps every header, takes extensions of any size into memory, and stops without a word at a
header that is damaged. Here the archive is a stranger's, and is read in the one process that must not die.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import BinaryIO

from .item_error import ArchiveError

BLOCK = 512
_MOST = 1 << 62  # bytes: no file system has larger files, and no offset holds a larger number
MAX_EXTENSION = 1 << 20  # bytes of the header that holds a long name or pax records
_REGULAR = b"0\0" + b"7"  # "7": contiguous, which no system tells apart
_KINDS = {
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "folder",
    b"6": "device",  # a pipe
    b"S": "sparse",  # GNU's old form
}


@dataclass(frozen=True, slots=True)
class TarMember:
    """name: undecodable bytes as surrogates.  kind: "file", or what it is instead
    offset, size: of its data, bytes"""

    name: str
    kind: str
    offset: int
    size: int


def members(file: BinaryIO, most: int | None = None) -> Iterator[TarMember]:
    """The members of a tar archive that is positioned at its start, in their order.

    The data of a member may be read, and no more, before the next is asked for: `file` is moved with `seek`,
    forward only. most: bytes that the archive may take, or it is given up before they are read. Raises
    ArchiveError where it is damaged or cut off.
    """
    position, first = 0, True
    named: bytes | None = None  # by an extension, for the member that follows
    records: dict[bytes, bytes] = {}
    common: dict[bytes, bytes] = {}  # of a global header, for all that follow
    while True:
        if most is not None and position > most:
            raise ArchiveError(f"unpacks to more than {most:,} bytes; unpack it yourself if that is right")
        block = _block_at(file, position)
        if not block.strip(b"\0"):  # two of them are the end; many writers leave one or both out
            if first and not block:
                raise ArchiveError("is an empty file")
            if named is not None or records:
                raise ArchiveError("ends after the header of a long name: it is cut off")
            return
        header = _Header(block, first, position)
        first = False
        data = position + BLOCK
        if header.type in b"LKxXg" and header.type:
            content = _extension(file, header.size)
            if header.type == b"L":
                named = content.split(b"\0", 1)[0]
            elif header.type in b"xX":
                records = _pax(content)
            elif header.type == b"g":
                common |= _pax(content)
            position = data + _padded(header.size)
            continue
        every = common | records
        size = _pax_size(every, header.size)
        kind = "file" if header.type in _REGULAR else _KINDS.get(header.type, "other")
        name = every.get(b"path", named if named is not None else header.name)
        if any(key.startswith(b"GNU.sparse.") for key in every):
            kind, name = "sparse", every.get(b"GNU.sparse.name", name)
        if kind == "file" and name.endswith(b"/"):  # as tar wrote folders before it had a type for them
            kind = "folder"
        more = block[482] if header.type == b"S" else 0  # blocks of the map of a sparse file follow
        while more:
            more = _map_block(file)
            data += BLOCK
        has_data = kind in ("file", "sparse", "other")
        named, records = None, {}
        yield TarMember(name.decode("utf-8", "surrogateescape"), kind, data, size if has_data else 0)
        position = data + (_padded(size) if has_data else 0)


def read_member(file: BinaryIO, offset: int, size: int, max_bytes: int, member: str | None = None) -> bytes:
    """The data of a member whose header ends at `offset`. member: its name, if that is to be checked.

    Raises ArchiveError.
    """
    file.seek(offset - BLOCK)
    try:
        header = _Header(file.read(BLOCK), False, offset)
        same = header.size == size and (member is None or _may_be_named(header, member))
        if not same and member is not None:  # sizes and names may also come from an extension
            file.seek(0)
            same = any(
                (found.offset, found.size, found.name) == (offset, size, member)
                for found in takewhile(lambda found: found.offset <= offset, members(file))
            )
    except ArchiveError:
        same = False
    if not same:
        raise ArchiveError("is no longer in its archive, which was changed; scan it again")
    file.seek(offset)
    return read_here(file, size, max_bytes)


def _may_be_named(header: _Header, member: str) -> bool:
    """Whether a header is that of `member`: names that are long or not ASCII may stand in an extension."""
    name = member.encode("utf-8", "surrogateescape")
    return header.name == name or len(name) > 100 or not name.isascii()


def read_here(file: BinaryIO, size: int, max_bytes: int) -> bytes:
    """The data of the member that `file` is positioned at. Raises ArchiveError."""
    if size > max_bytes:
        raise ArchiveError(f"is more than {max_bytes:,} bytes; make it smaller", "too-large")
    data = file.read(size)
    if len(data) < size:
        raise ArchiveError("ends before its time: the archive is cut off; use an intact copy")
    return data


class _Header:
    """One block of 512 bytes. Raises ArchiveError if it is none, or cut off."""

    def __init__(self, block: bytes, first: bool, position: int) -> None:
        if len(block) < BLOCK:
            raise ArchiveError("is cut off within a header" if not first else "is no tar archive")
        # The sum of all bytes, that of the field itself as spaces.
        total = sum(block) - sum(block[148:156]) + 8 * 0x20
        if _number(block[148:156]) != total:
            problem = "is no tar archive" if first else f"is damaged at byte {position:,}"
            raise ArchiveError(problem + "; use an intact copy")
        self.type = block[156:157]
        size = _number(block[124:136])
        if size is None or not 0 <= size <= _MOST:
            raise ArchiveError(f"is damaged at byte {position:,}: a member without a size")
        self.size = size
        self.name = block[:100].split(b"\0", 1)[0]
        prefix = block[345:500].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0" and prefix:
            self.name = prefix + b"/" + self.name


def _number(digits: bytes) -> int | None:
    """A number in octal digits, or in GNU's form for large ones: base 256, with the highest bit set."""
    if digits[0] in (0x80, 0xFF):
        return int.from_bytes(digits[1:], "big") if digits[0] == 0x80 else -1
    try:
        return int(digits.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        return None


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _block_at(file: BinaryIO, position: int) -> bytes:
    """The block at `position`; empty where the file ends there. Raises ArchiveError if it ends before."""
    if position > _MOST:  # of members that claim to be so large, together
        raise ArchiveError("is cut off within its last member; use an intact copy")
    if position > file.tell():
        file.seek(position - 1)
        if not file.read(1):
            raise ArchiveError("is cut off within its last member; use an intact copy")
    return file.read(BLOCK)


def _extension(file: BinaryIO, size: int) -> bytes:
    if size > MAX_EXTENSION:
        raise ArchiveError(f"has an extended header of {size:,} bytes, and up to {MAX_EXTENSION:,} are read")
    content = file.read(size)
    if len(content) < size:
        raise ArchiveError("is cut off within a header")
    return content


def _map_block(file: BinaryIO) -> int:
    """Pass a further block of the map of a sparse file; whether another follows."""
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise ArchiveError("is cut off within a header")
    return block[504]


def _pax(content: bytes) -> dict[bytes, bytes]:
    """Records of the form "LENGTH KEY=VALUE\\n", where LENGTH counts all of it."""
    records, at = {}, 0
    while at < len(content) and content[at : at + 1] != b"\0":
        space = content.find(b" ", at, at + 20)
        digits = content[at:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        record = content[space + 1 : at + length - 1]
        key, found, value = record.partition(b"=")
        if length <= len(digits) + 1 or not found or at + length > len(content):
            raise ArchiveError("has a damaged extended header; use an intact copy")
        records[key] = value
        at += length
    return records


def _pax_size(records: dict[bytes, bytes], size: int) -> int:
    given = records.get(b"size")
    if given is None:
        return size
    if not given.isdigit() or len(given) > 20 or int(given) > _MOST:
        raise ArchiveError("has a damaged extended header; use an intact copy")
    return int(given)
