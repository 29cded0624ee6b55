"""What is packed inside a file: text in PNG chunks, strings of JSON, members of archives, one in another.

For a scan, not for use: what is damaged or foreign yields what can be had of it and raises nothing.
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 256 << 20  # of one part, unpacked
MAX_DEPTH = 4
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 64 << 20  # of JSON and of safetensors headers
_ZLIB_STARTS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


@dataclass(frozen=True)
class Part:
    """where: in words, for a finding. content: None if it is too large or too deep, or cannot be read."""

    where: str
    content: bytes | None


def unpacked(source: bytes | Path, depth: int = 0) -> Iterator[Part]:
    """Everything packed in a file, given by its content or, if it is large, by its path."""
    start = source[:8] if isinstance(source, bytes) else _start(source, 8)
    for opener, wanted in _OPENERS:
        if wanted(start, source):
            for part in opener(source):
                if depth >= MAX_DEPTH:
                    yield Part(part.where, None)
                    return
                yield part
                if part.content is not None:
                    yield from unpacked(part.content, depth + 1)


def _start(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _is_packed(content: bytes) -> bool:
    """Whether there is more in it than stands there as it is."""
    return any(wanted(content[:8], content) for _, wanted in _OPENERS)


def _png(source: bytes | Path) -> Iterator[Part]:
    content = source if isinstance(source, bytes) else source.read_bytes()
    at = len(_PNG)
    while at + 12 <= len(content):
        length = struct.unpack(">I", content[at : at + 4])[0]
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        if kind != b"IDAT":
            yield from _deflated(data, f"a {kind.decode('latin-1')} chunk")
        at += 12 + length


def _deflated(data: bytes, where: str) -> Iterator[Part]:
    """zlib streams that begin in the first bytes of a PNG chunk, after its keywords."""
    for offset in range(min(len(data), 512)):
        if data[offset : offset + 2] in _ZLIB_STARTS:
            yield from _inflated(where, zlib.decompressobj, data[offset:])


def _inflated(where: str, make: Callable[[], Any], data: bytes) -> Iterator[Part]:
    """What a stream holds, and those that follow it, as gzip's members may."""
    while data:
        decompressor = make()
        try:
            content = decompressor.decompress(data, MAX_BYTES + 1)
        except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError):
            return
        if content:
            yield Part(where, content if len(content) <= MAX_BYTES else None)
        data = decompressor.unused_data if decompressor.eof else b""


def _compressed(make: Callable[[], Any]) -> Callable[[bytes | Path], Iterator[Part]]:
    def open_it(source: bytes | Path) -> Iterator[Part]:
        data = source if isinstance(source, bytes) else source.read_bytes()
        yield from _inflated("compressed data", make, data)

    return open_it


def _zip(source: bytes | Path) -> Iterator[Part]:
    """Compressed members, and stored ones with something packed in them.

    Other stored ones, as in torch's files, stand in the file as they are.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            for member in archive.infolist():
                content = _member(archive, member)
                stored = member.compress_type == zipfile.ZIP_STORED
                if content is None or not stored or _is_packed(content):
                    yield Part("an archive", content)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | None:
    """None for one that is too large, encrypted, damaged, or packed in a way that is not known here."""
    try:
        with archive.open(member) as file:
            content = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, OSError, RuntimeError, zlib.error, lzma.LZMAError, EOFError, ValueError):
        return None
    return content if len(content) <= MAX_BYTES else None


def _tar(source: bytes | Path) -> Iterator[Part]:
    """Members with something packed in them; the others stand in the file as they are."""
    try:
        with tarfile.open(
            None if isinstance(source, bytes) else source,
            "r:",
            io.BytesIO(source) if isinstance(source, bytes) else None,
        ) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                content = b"" if file is None else file.read(MAX_BYTES + 1)
                if len(content) > MAX_BYTES or _is_packed(content):
                    yield Part("an archive", content if len(content) <= MAX_BYTES else None)
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return


def _is_tar(start: bytes, source: bytes | Path) -> bool:
    return (source[257:262] if isinstance(source, bytes) else _start(source, 262)[257:]) == b"ustar"


def _json(source: bytes | Path) -> Iterator[Part]:
    content = source if isinstance(source, bytes) else b""
    yield from _json_strings(content)


def _safetensors(source: bytes | Path) -> Iterator[Part]:
    start = source[:8] if isinstance(source, bytes) else _start(source, 8)
    length = int.from_bytes(start, "little")
    header = source[8 : 8 + length] if isinstance(source, bytes) else _start(source, 8 + length)[8:]
    yield from _json_strings(header)


def _json_strings(content: bytes) -> Iterator[Part]:
    """All strings, with \\u escapes undone, and lists of bytes as bytes."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return
    found: list[bytes] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            found.append(one.encode("utf-8", "surrogatepass"))
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            if len(one) >= 8 and all(type(item) is int and 0 <= item < 256 for item in one):
                found.append(bytes(one))
            waiting += one
    if found:
        yield Part("JSON", b"\n".join(found))


def _is_json(start: bytes, source: bytes | Path) -> bool:
    return (
        isinstance(source, bytes)
        and source[:64].lstrip()[:1] in (b"{", b"[")
        and len(source) <= _HEADER_BYTES
    )


def _is_safetensors(start: bytes, source: bytes | Path) -> bool:
    length = int.from_bytes(start, "little") if len(start) == 8 else 0
    if not 2 <= length <= _HEADER_BYTES:
        return False
    return (source[8:9] if isinstance(source, bytes) else _start(source, 9)[8:]) == b"{"


_OPENERS: tuple[
    tuple[Callable[[bytes | Path], Iterator[Part]], Callable[[bytes, bytes | Path], bool]], ...
] = (
    (_png, lambda start, _: start == _PNG),
    (_compressed(lambda: zlib.decompressobj(31)), lambda start, _: start[:2] == b"\x1f\x8b"),
    (_compressed(lambda: zlib.decompressobj()), lambda start, _: start[:2] in _ZLIB_STARTS),
    (_compressed(bz2.BZ2Decompressor), lambda start, _: start[:3] == b"BZh"),
    (_compressed(lzma.LZMADecompressor), lambda start, _: start[:6] == b"\xfd7zXZ\0"),
    (_zip, lambda start, _: start[:2] == b"PK"),
    (_tar, _is_tar),
    (_json, _is_json),
    (_safetensors, _is_safetensors),
)
