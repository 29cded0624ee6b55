"""One input of a scan: what it is called, and how its bytes are read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

ItemKind = Literal["file", "url", "remote", "tar", "zip", "data", "refused"]
ErrorKind = Literal[
    "missing",  # not there, or gone by the time it was read
    "permission",  # may not be read
    "not-a-file",  # a pipe, a device, a link that leads nowhere or in a circle
    "changing",  # grew or was replaced while it was read
    "network",  # an address that did not answer, after all retries
    "too-large",  # more bytes or pixels than are accepted
    "too-small",  # fewer pixels than can be measured
    "no-image",  # not an image, or of a kind that is not read
    "damaged",  # an image whose file is broken
    "archive",  # a member that the archive does not give
    "time",  # passed the limit of time
    "memory",  # passed the limit of memory
    "crash",  # its reader died
    "defect",  # a fault of stablesig
]


@dataclass(frozen=True, slots=True)
class Item:
    """One input, which gets rows of its own in the results.

    path: its name in the results, valid UTF-8 and unique together with `path_bytes`: the path as it was
        found, an address without a password, or ARCHIVE::MEMBER. What is not UTF-8 stands as \\xNN in it
    kind: how it is read. "file": from the path `location`. "url": by http(s) from `location`. "remote": by
        fsspec from `location`, such as s3://BUCKET/KEY. "tar", "zip": `member` of the archive at `location`.
        "data": from `data`. "refused": not at all, for the reason in `error`
    location: path (bytes that are not UTF-8 as surrogates, see os.fsdecode) or address; "" for "data"
    member: name in the archive, if it is in one
    offset, size: of the member's data in a "tar", bytes; of its local header, and unpacked, in a "zip"; size,
        if known, of others. -1: not known
    path_bytes: the exact bytes of the path where they are not valid UTF-8
    error, error_kind: of a "refused" item, what to tell the user and its class
    """

    path: str
    kind: ItemKind
    location: str = ""
    member: str | None = None
    offset: int = -1
    size: int = -1
    data: bytes | None = field(default=None, repr=False)
    path_bytes: bytes | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None

    @property
    def identity(self) -> bytes:
        """16 bytes that stand for this input: two inputs with the same are one."""
        return identity_of(self.path, self.path_bytes)


def identity_of(path: str, path_bytes: bytes | None) -> bytes:
    """The identity of the item with this `path` and `path_bytes`."""
    return blake2b(path.encode() if path_bytes is None else b"\0" + path_bytes, digest_size=16).digest()


def readable(name: str) -> tuple[str, bytes | None]:
    """A path as it stands in the results, and its exact bytes if it is not valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        exact = os.fsencode(name)
        return exact.decode("utf-8", "backslashreplace"), exact
    return name, None
